"""`send`: being a requester on the command line."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from session_contracts import CreateSessionResponse
from tests.acceptance.conftest import environment
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.conftest import Cli
    from tests.support.worker_process import WorkerProcess


def test_one_request_is_answered_with_its_session(
    cli: Cli, worker_process: Callable[..., WorkerProcess], amqp_url: str, ledger_url: str
) -> None:
    """A person reads the session's id; a program gets the answer itself; asking again gets the same one."""
    worker_process(amqp_url=amqp_url, ledger_url=ledger_url)
    request_id = uuid4()
    ask = ("send", "--user", "ada@example.com", "--casefile", "cf_251013_abc123", "--request-id", request_id)

    first = cli(*ask, "--json", amqp_url=amqp_url)
    again = cli(*ask, amqp_url=amqp_url)

    (document,) = first.documents
    answer = CreateSessionResponse.model_validate(document)
    assert (first.code, again.code) == (0, 0)
    assert (answer.status, answer.request_id) == ("completed", request_id)
    assert answer.payload.casefile_id == "cf_251013_abc123"
    assert again.out.startswith(f"completed  {answer.payload.session_id}\n")


def test_many_requests_get_a_document_each_and_people_a_summary(
    cli: Cli, worker_process: Callable[..., WorkerProcess], amqp_url: str, sqlite_url: str
) -> None:
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)

    ran = cli("send", "--user", "ada", "--count", 50, "--in-flight", 20, "--json", amqp_url=amqp_url)

    sessions = {document["payload"]["session_id"] for document in ran.documents}
    assert ran.code == 0
    assert len(ran.documents) == len(sessions) == 50
    assert "50 requests in" in ran.err
    assert "p99" in ran.err


@pytest.mark.parametrize("more", [[], ["--json"], ["--count", "3"]], ids=["text", "json", "several"])
@pytest.mark.parametrize("target", ["full disk", "closed pipe"])
def test_an_answer_that_cannot_be_written_is_told_of_elsewhere(
    worker_process: Callable[..., WorkerProcess],
    amqp_url: str,
    sqlite_url: str,
    more: list[str],
    target: str,
) -> None:
    """Whoever sent it again as a new request would have a second session."""
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
    if target == "full disk":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, output = os.pipe()
        os.close(reader)
    try:
        ran = subprocess.run(
            [PROGRAM, "send", "--user", "ada", *more],
            env=environment(amqp_url=amqp_url),
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(output)
    assert ran.returncode == 1
    assert "run the command again" not in ran.stderr
    if "--count" in more:
        assert "3 requests ended, 0 more were sent: do not send them as new ones." in ran.stderr
    else:
        (request_id,) = set(re.findall(r"[0-9a-f-]{36}", ran.stderr))
        assert f"Request {request_id} was answered: completed." in ran.stderr
        assert f"session-worker send --request-id {request_id} --user ada" in ran.stderr
    assert ("No space left on device" in ran.stderr) == (target == "full disk")


def test_a_failed_request_says_code_sentence_and_what_to_do(
    cli: Cli, worker_process: Callable[..., WorkerProcess], amqp_url: str, sqlite_url: str
) -> None:
    """The same id for another title is a conflict; the exit code tells."""
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
    ask = ("send", "--user", "ada", "--request-id", uuid4())
    assert cli(*ask, amqp_url=amqp_url).code == 0

    conflict = cli(*ask, "--title", "another", amqp_url=amqp_url)
    as_json = cli(*ask, "--title", "another", "--json", amqp_url=amqp_url)

    assert conflict.code == as_json.code == 1
    assert conflict.out == ""
    assert "idempotency_conflict" in conflict.err
    assert "use a new id" in conflict.err
    assert as_json.documents[0]["metadata"]["error_code"] == "idempotency_conflict"


def test_a_request_that_nobody_takes_up_in_time_names_its_id(cli: Cli, amqp_url: str) -> None:
    """Exit code 1, and in JSON a document without a status, so that a program can ask again."""
    assert cli("topology", "apply", amqp_url=amqp_url).code == 0
    request_id = str(uuid4())

    ran = cli(
        *("send", "--user", "ada", "--request-id", request_id, "--timeout", 0.3, "--json"), amqp_url=amqp_url
    )

    assert ran.code == 1
    assert ran.documents[0] == {
        "request_id": request_id,
        "status": None,
        "error": ran.documents[0]["error"],
    }
    assert request_id in ran.documents[0]["error"]


def test_requests_without_an_answer_are_no_latencies_and_can_be_asked_again(cli: Cli, amqp_url: str) -> None:
    """Their number, in words; how to ask again; and no figures of answers that never came."""
    assert cli("topology", "apply", amqp_url=amqp_url).code == 0

    ask = ("send", "--user", "ada", "--title", "Ada's", "--timeout", 0.3)
    ran = cli(*ask, "--count", 3, amqp_url=amqp_url)

    assert ran.code == 1
    assert "3  no answer in time" in ran.out
    assert not any(figure in ran.out for figure in ("p50", "/s", "RequestTimedOut"))
    assert re.search(
        r"session-worker send --request-id \S+ --user ada --title 'Ada'\"'\"'s'$", ran.err, re.MULTILINE
    )


def test_a_name_that_fits_into_no_queues_name_is_refused(cli: Cli) -> None:
    ran = cli("send", "--user", "ada", "--name", "a b")

    assert ran.code == 2
    assert "--name: must be 1 to 64 letters" in ran.err


def test_without_queues_it_says_to_start_a_worker(cli: Cli, amqp_url: str) -> None:
    ran = cli("send", "--user", "ada", amqp_url=amqp_url)

    assert ran.code == 1
    assert ran.err.startswith("session-worker: request ")
    assert "start a worker that serves it, apply its topology" in ran.err


@pytest.mark.parametrize("count", [1, 20])
def test_an_installation_that_is_not_there_is_named_and_nothing_else(
    cli: Cli, amqp_url: str, count: int
) -> None:
    """The broker closes the channel of a request for a missing exchange: that is no lost connection."""
    ran = cli("send", "--user", "ada", "--prefix", "other", "--count", count, amqp_url=amqp_url)

    assert ran.code == 1
    (said,) = ran.err.splitlines()
    assert "there is no exchange 'other'" in said


def test_the_prefix_chooses_the_installation(
    cli: Cli, worker_process: Callable[..., WorkerProcess], amqp_url: str, sqlite_url: str
) -> None:
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url, prefix="other")

    assert cli("send", "--user", "ada", "--prefix", "other", amqp_url=amqp_url).code == 0
    assert cli("send", "--user", "ada", amqp_url=amqp_url).code == 1
