"""Current activity at broker and ledger: questions that may be asked every second, and print nothing.

Each watcher has one connection, opened when first needed and again after it was lost. Nothing is written,
declared or consumed, and no look costs more because the ledger is larger.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiormq

from session_client.net.aiormq_errors import broker_errors
from session_client.net.close_reasons import Kind
from session_client.net.errors import LinkLostError
from session_contracts import Names, RequestStatus
from session_worker.broker.connection import Connection
from session_worker.ledger import LedgerError, open_reader
from session_worker.settings.durations import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from session_worker.ledger.reader import Entry, LedgerReader, Recent
    from session_worker.settings import Settings

LOOK_SECONDS = 10.0
LATELY_SECONDS = 5.0
MINUTE = 60.0
HOUR = 3600.0
SAMPLE = 3000
"""The newest requests that a look reads: more than are ever under way at the same time, in most places."""
FAILURES = 5


@dataclass(frozen=True, slots=True)
class Unreachable:
    """There is no answer; ``reason`` is a sentence for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages wait in a queue (not those that a worker holds), and how many consumers it has; None
    where ``trouble`` says why nobody knows."""

    queue: str
    messages: int | None
    consumers: int | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """What finished in the last ``seconds``. ``rates``: requests per second, by ``completed`` or error code;
    ``p50`` and ``p95``: seconds from their first claim to their outcome, without those that were redriven,
    which lay dead in between (None: there were none)."""

    seconds: float
    rates: Mapping[str, float]
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """``running`` and ``failed`` were received within the last hour and are in the samples; ``failed_more``:
    there may be more. ``waiting`` for their next attempt are all, up to ``COUNTED``."""

    lately: Finished
    minute: Finished
    running: int
    waiting: int
    failed: int
    failed_more: bool
    workers: Sequence[str]


def traffic(recent: Recent) -> Traffic:
    """What follows from a look at the ledger."""
    return Traffic(
        lately=finished(recent, LATELY_SECONDS),
        minute=finished(recent, MINUTE),
        running=sum(each.status is RequestStatus.PROCESSING for each in recent.newest),
        waiting=recent.waiting,
        failed=sum(each.status is RequestStatus.FAILED for each in recent.troubled),
        failed_more=len(recent.troubled) == SAMPLE,
        workers=recent.workers,
    )


def finished(recent: Recent, seconds: float) -> Finished:
    """What a look knows of the last ``seconds``, or of less: a full sample reaches back only so far."""
    if len(recent.newest) == SAMPLE:
        seconds = min(seconds, max(recent.newest[-1].age, 0.001))
    # One that failed after many attempts was received long before the sample.
    known = {each.request_id: each for each in (*recent.newest, *recent.troubled)}.values()
    ended = [each for each in known if each.took is not None and each.age - each.took <= seconds]
    took = [each.took for each in ended if each.took is not None and not each.redriven]
    count = Counter(each.error_code or RequestStatus.COMPLETED.value for each in ended)
    return Finished(
        seconds,
        rates={outcome: number / seconds for outcome, number in count.most_common()},
        p50=percentile(took, 50) if took else None,
        p95=percentile(took, 95) if took else None,
    )


def failed_last(recent: Recent) -> list[UUID]:
    """The requests whose failure is the newest, the newest first."""
    failed = [each for each in recent.troubled if each.status is RequestStatus.FAILED]
    failed.sort(key=lambda each: each.age - (each.took or 0))
    return [each.request_id for each in failed[:FAILURES]]


@dataclass(frozen=True, slots=True)
class Look:
    """The ledger at one moment."""

    traffic: Traffic
    failures: Sequence[Entry]


class LedgerWatch:
    """The ledger, looked at again and again."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.ledger_url.get_secret_value()
        self._reader: LedgerReader | None = None

    async def look(self) -> Look | Unreachable:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                if self._reader is None:
                    reader = open_reader(self._url)
                    await reader.open()
                    self._reader = reader
                recent = await self._reader.recent(since=HOUR, limit=SAMPLE)
                failures = [await self._reader.get(request_id) for request_id in failed_last(recent)]
                return Look(traffic(recent), [entry for entry in failures if entry is not None])
        except LedgerError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"the ledger did not answer within {LOOK_SECONDS:.0f} s"
        await self.close()
        return Unreachable(reason)

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()


class BrokerWatch:
    """The queues, looked at again and again, the work first."""

    def __init__(self, settings: Settings) -> None:
        names = Names(settings.prefix)
        retries = (names.retry(delay) for delay in settings.retry_delays)
        self._queues = (names.work, *retries, names.undelivered, names.dead, names.replies)
        self._urls = settings.amqp_urls
        self._connection: Connection | None = None
        self._channel: aiormq.Channel | None = None

    async def look(self) -> list[Depth] | Unreachable:
        try:
            if self._connection is None:  # which has a time limit for each URL
                self._connection = await Connection.open(self._urls, "top")
            async with asyncio.timeout(LOOK_SECONDS):
                return [await self._depth(self._connection, queue) for queue in self._queues]
        except LinkLostError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"the broker did not answer within {LOOK_SECONDS:.0f} s"
        await self.close()
        return Unreachable(reason)

    async def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await connection.close()

    async def _depth(self, connection: Connection, queue: str) -> Depth:
        if self._channel is None:
            self._channel = await connection.channel(aiormq.Channel)
        try:
            with broker_errors():
                found = await connection.unless_lost(self._channel.queue_declare(queue, passive=True))
        except LinkLostError as error:
            trouble = _TROUBLE.get(error.kind)
            if trouble is None:
                raise
            self._channel = None  # the broker has closed it
            return Depth(queue, None, None, trouble)
        return Depth(queue, found.message_count, found.consumer_count)


_TROUBLE: Mapping[Kind | None, str] = {
    Kind.MISSING: "missing",
    Kind.PERMISSION: "this user may not see it",
}
