"""What a worker needs of the broker before it works, and what it says when that is not there."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING
from uuid import uuid4

from session_worker.sandbox.workspace import free_port
from tests.support.lab import code_of, request

if TYPE_CHECKING:
    from tests.support.lab import Lab
    from tests.support.worker_process import WorkerProcess


def add_user(lab: Lab, configure: str, write: str, read: str) -> str:
    return lab.broker.add_user(f"user-{uuid4().hex[:8]}", "secret", lab.vhost, configure, write, read)


def last_words(worker: WorkerProcess, seconds: float = 12.0) -> str:
    """The last line of a worker that cannot start: it ends in time, without a traceback and with an error."""
    assert worker.wait(seconds) != 0
    output = "".join(worker.output)
    assert "Traceback" not in output, output
    return worker.output[-1]


def test_a_worker_that_declares_nothing_needs_no_configure_permission(lab: Lab) -> None:
    """Reading its two queues and writing to the default exchange is all."""
    lab.declare()
    url = add_user(lab, "^$", r"^amq\.default$", r"^session\.create(\.undelivered)?$")
    lab.worker(amqp_url=url, declare="false")
    with lab.requester() as requester:
        assert code_of(requester.ask(request(fails=1))) is None
    lab.quiet()


def test_a_worker_that_may_not_declare_says_so(lab: Lab) -> None:
    words = last_words(lab.worker(wait=False, amqp_url=add_user(lab, "^$", ".*", ".*")))
    assert "configure" in words
    assert "SESSION_WORKER_DECLARE" in words


def test_a_missing_queue_is_named(lab: Lab) -> None:
    lab.declare()
    lab.broker.delete_queue(lab.vhost, "session.create.retry.1s")
    words = last_words(lab.worker(wait=False, declare="false"))
    assert "session.create.retry.1s" in words
    assert "session-worker topology apply" in words


def test_a_queue_with_another_argument_is_named(lab: Lab) -> None:
    with lab.requester() as requester:
        arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": 10**9}
        requester.channel.queue_declare("session.create.dead", durable=True, arguments=arguments)
    words = last_words(lab.worker(wait=False))
    assert "session.create.dead" in words
    assert "x-max-length-bytes" in words


def test_a_broker_that_cannot_be_used_is_one_sentence(lab: Lab) -> None:
    """Wrong password, vhost, user's vhost, port or host: said in time, and never with the password."""
    right = lab.url.rpartition("/")[0]
    foreign = add_user(lab, ".*", ".*", ".*").rpartition("/")[0]
    wrong = {
        re.sub(":[^/@]+@", ":pass-word@", lab.url): "refused the login",
        f"{right}/nowhere": "nowhere",
        f"{foreign}/%2F": "vhost",
        f"amqp://guest:pass-word@127.0.0.1:{free_port()}/": "cannot be reached",
        "amqp://guest:pass-word@no-such-host.invalid/": "no-such-host.invalid",
    }
    workers = {url: lab.worker(wait=False, amqp_url=url) for url in wrong}
    deadline = time.monotonic() + 60
    for url, words in wrong.items():
        said = last_words(workers[url], deadline - time.monotonic())
        assert words in said, said
        assert "pass-word" not in "".join(workers[url].output)
