"""kill -9 at every step of a delivery; a second worker takes over, and the books must agree."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.support import KEYS, Scribe, at_rest, check, crashing, declare, garbage, plan, start_worker
from tests.support.waiting import soon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.book import Sending
    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ

pytestmark = pytest.mark.faults

BATCH, KTH = 40, 17
PLAIN_STEPS = (
    *("before-claim", "after-claim", "in-handler", "before-commit", "after-commit"),
    *("before-publish", "sent", "confirmed", "before-ack", "after-ack"),
)
RETRY_STEPS = ("before-postpone", "after-postpone", "copy-sent", "copy-confirmed")
PARK_STEPS = ("before-park", "park-sent", "park-confirmed", "park-noted")
DIED_RUNNING = {"after-claim", "in-handler", "before-commit", "before-postpone"}
"""The steps at which a lone request's crash is counted: it was claimed and had no outcome."""


def mixed() -> list[Sending]:
    """What a batch is made of: most complete, some are rejected, parked, tried again, refused. A third of
    them is for an operation of a user's."""
    titles = [None, None, "fail:1", None, "reject", None, "slow:0.01", "permanent", None, "nested"]
    return [
        garbage() if i % 13 == 12 else plan(titles[i % len(titles)], operation=list(KEYS)[i % 3 == 1])
        for i in range(BATCH)
    ]


def crash_and_recover(
    broker: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    ledger_url: str,
    folder: Path,
    step: str,
    sendings: list[Sending],
) -> list[int]:
    """Let a worker die at the step and another one finish; the crashes of each request."""
    url = broker.vhost_url(vhost)
    place = {"amqp_url": url, "ledger_url": ledger_url}
    declare(url)
    with Scribe(url) as scribe:
        scribe.send_all(sendings)
        first = start_worker(folder, command=crashing(step, 1 if len(sendings) == 1 else KTH), **place)
        try:
            assert first.wait() == -signal.SIGKILL, "".join(first.output[-20:])
        finally:
            first.close()
        second = start_worker(folder, **place)
        try:
            second.wait_up()
            scribe.wait_for_answers()
            soon(lambda: at_rest(broker, vhost, scribe, ledger_url))
            second.terminate()
            assert second.wait() == 0
        finally:
            second.close()
            print("".join(second.output[-40:] + first.output[-10:]))  # noqa: T201 -- shown when the test fails
        ledger = check(scribe, ledger_url, doubles=len(sendings))
    return [row.crashes for row in ledger.requests.values()]


@pytest.mark.parametrize("operation", KEYS)
@pytest.mark.parametrize("step", PLAIN_STEPS)
def test_a_request_survives_its_workers_death(
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    ledger_url: str,
    tmp_path: Path,
    step: str,
    operation: str,
) -> None:
    """One request: one session, one answer, no attempt spent; the crash is counted where it ran."""
    crashes = crash_and_recover(
        rabbitmq, vhost, ledger_url, tmp_path, step, [plan(None, operation=operation)]
    )
    assert crashes == [int(step in DIED_RUNNING)]


@pytest.mark.parametrize("operation", KEYS)
@pytest.mark.parametrize("step", RETRY_STEPS)
def test_a_request_survives_a_death_on_its_way_to_the_retry_queue(
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    ledger_url: str,
    tmp_path: Path,
    step: str,
    operation: str,
) -> None:
    """It completes with attempt 2: the failed attempt is counted once, the crash as a crash."""
    crashes = crash_and_recover(
        rabbitmq, vhost, ledger_url, tmp_path, step, [plan("fail:1", operation=operation)]
    )
    assert crashes == [int(step in DIED_RUNNING)]


@pytest.mark.parametrize("operation", KEYS)
@pytest.mark.parametrize("step", PARK_STEPS)
def test_a_failed_request_survives_a_death_on_its_way_to_the_parking_lot(
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    ledger_url: str,
    tmp_path: Path,
    step: str,
    operation: str,
) -> None:
    """It is answered, and it is parked: once, or twice when the first copy could not be noted any more."""
    assert crash_and_recover(
        rabbitmq, vhost, ledger_url, tmp_path, step, [plan("permanent", operation=operation)]
    ) == [0]


@pytest.mark.parametrize("step", [*PLAIN_STEPS, "copy-sent", "park-sent"])
def test_a_batch_survives_its_workers_death(
    rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, ledger_url: str, tmp_path: Path, step: str
) -> None:
    """Forty requests of all kinds, the worker dies at the seventeenth: all of them get their outcome."""
    sendings = mixed()
    if step == "copy-sent":
        sendings = [plan("fail:1") for _ in range(BATCH)]
    if step == "park-sent":
        sendings = [plan("permanent") for _ in range(BATCH)]
    crash_and_recover(rabbitmq, vhost, ledger_url, tmp_path, step, sendings)
