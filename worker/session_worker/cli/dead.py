"""``dead``: the letters on the parking lot, seen, sent again or dropped."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import typer

from session_client.net.errors import LinkLostError
from session_contracts.errors import ErrorCode
from session_worker.cli import command_settings, interrupts, streams, terminal
from session_worker.cli.problems import Failure
from session_worker.cli.progress import Progress
from session_worker.cli.views import letters
from session_worker.cli.views.entries import timeline
from session_worker.ledger.protocol import LedgerError
from session_worker.loop import PlainLoop
from session_worker.messages.errors import PublishError
from session_worker.operators import dead_letters, entries
from session_worker.operators.dead_letters import Fate, Filter, ParkingLot, Sender
from session_worker.settings import durations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from session_worker.ledger.reader import Entry
    from session_worker.settings import Settings

T = TypeVar("T")

MOST_SHOWN = 10
"""Letters of one id that ``show`` prints; there is more than one only after crashes and conflicts."""

WORDS = {
    Fate.REOPENED: "{} re-opened and sent again: new attempts, and a new answer to each requester.",
    Fate.RESENT: "{} sent again with nothing to re-open: refused before, open already, or answered since.",
    Fate.CUT: "{} left: only the beginning of the body was kept, so there is nothing to send.",
    Fate.ILLEGIBLE: "{} left: the properties cannot be decoded.",
    Fate.UNKNOWN: "{} left: not in this ledger. Is it the workers' (--ledger-url)? If the entry was pruned,"
    " --unknown sends it as a new request.",
    Fate.CONFLICT: "{} left: another request has the id by now.",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters, as written on the command line."""

    code: str | None = None
    exception: str | None = None
    since: str | None = None
    user: str | None = None
    letter: str | None = None

    def wanted(self) -> Filter:
        """Raises typer.BadParameter: something is not what it must be."""
        if self.code is not None and self.code not in set(ErrorCode):
            raise typer.BadParameter(f"it is one of {', '.join(ErrorCode)}.", param_hint="--code")
        return Filter(self.code, self.exception, self._since(), self.user, _uuid(self.letter, "--request-id"))

    def _since(self) -> datetime | None:
        try:
            return (
                datetime.now(UTC) - timedelta(seconds=durations.seconds(self.since)) if self.since else None
            )
        except (ValueError, OverflowError) as error:
            raise typer.BadParameter(f"{error}.", param_hint="--since") from None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the letters are, as written on the command line."""

    amqp_url: str | None = None
    prefix: str | None = None
    ledger_url: str | None = None

    def settings(self, *, ledger: bool = False) -> Settings:
        """Those of the broker, and of the ``ledger`` where it is asked too."""
        more = {"ledger_url": self.ledger_url, "holder_timeout": None} if ledger else {}
        return command_settings.load_only(amqp_url=self.amqp_url, prefix=self.prefix, **more)


def show_list(choice: Choice, limit: int, place: Place, *, json: bool) -> int:
    """Print the oldest letters; none is no failure."""
    wanted, loaded = choice.wanted(), place.settings()
    rows: list[dict[str, Any]] = []

    async def work() -> None:
        async with _reading(loaded, shown=not json) as parking_lot:
            async for page in parking_lot.matching(wanted, limit):
                rows.extend(dead_letters.document(letter) for letter in page)

    _run(work())
    if json:
        for row in rows:
            streams.write_document(row)
    elif rows:
        terminal.results().print(letters.table(rows, datetime.now(UTC)))
    if len(rows) == limit:
        terminal.notices().print(
            f"The oldest {limit}; there may be more: --limit, or `session-worker dead groups`."
        )
    elif not rows:
        terminal.notices().print("No such letters.")
    return 0


def show_groups(choice: Choice, place: Place, *, json: bool) -> int:
    """Print how many letters failed in which way."""
    wanted, loaded = choice.wanted(), place.settings()

    async def work() -> list[dead_letters.Group]:
        async with _reading(loaded, shown=not json) as parking_lot:
            return await dead_letters.groups(parking_lot, wanted)

    found = _run(work())
    if json:
        for group in found:
            streams.write_document(dead_letters.group_document(group))
    elif found:
        terminal.results().print(letters.group_table(found, datetime.now(UTC)))
    else:
        terminal.notices().print("No such letters.")
    return 0


def show_one(text: str, place: Place, *, json: bool) -> int:
    """Print the letters of one request, and what the ledger knows of it; 1 when there is none."""
    wanted, loaded = Filter(letter=_uuid(text, "ID")), place.settings(ledger=True)

    async def work() -> list[dead_letters.DeadLetter]:
        async with _reading(loaded, shown=not json) as parking_lot:
            pages = parking_lot.matching(wanted, MOST_SHOWN)
            return [letter async for page in pages for letter in page]

    found = _run(work())
    if not found:
        terminal.notices().print(
            f"No letter {text}; `session-worker status {text}` says what the ledger knows."
        )
        return 1
    request_id = found[0].request_id
    entry = _run(_entry(loaded, request_id)) if request_id else None
    for letter in found:
        if json:
            known = entries.document(entry) if entry else None
            streams.write_document(dead_letters.whole_document(letter) | {"entry": known})
        else:
            terminal.results().print(letters.sheet(letter), "")
    if entry and not json:
        terminal.results().print(timeline(entry))
    return 0


def redrive(
    choice: Choice,
    limit: int | None,
    place: Place,
    *,
    unknown: bool,
    yes: bool,
    dry_run: bool,
    json: bool,
) -> int:
    """Send letters through the flow again; 1 when some of those wanted had to stay. Asks first if all are."""
    wanted, loaded = choice.wanted(), place.settings(ledger=True)
    if choice == Choice() and not (yes or dry_run):
        _must_be_askable("send all letters again; a filter, for example --code, chooses some")
        limit = _run(_count(loaded, wanted, limit, shown=not json))
        if limit and not terminal.confirmed(f"Send {_letters(limit)} to the workers again?"):
            return _nothing_done()
    fates: Counter[Fate] = Counter()

    async def foresee() -> None:
        async with _reading(loaded, shown=not json) as parking_lot:
            async for page in parking_lot.matching(wanted, limit):
                fates.update(map(dead_letters.outlook, page))

    async def work() -> None:
        async with AsyncExitStack() as stack:
            ledger = await stack.enter_async_context(dead_letters.operators_ledger(loaded))
            availability = ledger.availability
            availability.watch(lambda up: _say_away(availability.reason, up=up))
            sender = await stack.enter_async_context(Sender.open(loaded))
            sender.connection.watchers.append(lambda: _say_blocked(blocked=sender.connection.blocked))
            parking_lot = await stack.enter_async_context(_reading(loaded, shown=not json))
            redriving = dead_letters.redrive(
                parking_lot, wanted, limit, ledger=ledger, sender=sender, unknown=unknown
            )
            async for fate in redriving:
                fates[fate] += 1

    try:
        if limit != 0:
            _run(foresee() if dry_run else work())
    except (PublishError, LinkLostError) as error:
        before = f". {_letters(_sent(fates))} sent before; the others are still there." if fates else ""
        raise Failure(f"{error}{before}") from error
    _report(fates, dry_run=dry_run, json=json)
    return 1 if any(fate.stays for fate in fates) else 0


def purge(choice: Choice, limit: int | None, place: Place, *, yes: bool, dry_run: bool, json: bool) -> int:
    """Drop letters for good."""
    wanted, loaded = choice.wanted(), place.settings()
    if not (yes or dry_run):
        _must_be_askable("drop letters for good")

    async def work(most: int | None) -> int:
        async with _reading(loaded, shown=not json) as parking_lot:
            return await parking_lot.purge(wanted, most)

    found = 0 if yes and not dry_run else _run(_count(loaded, wanted, limit, shown=not json))
    if dry_run or (not yes and not found):
        dropped = 0
    else:
        if not yes and not terminal.confirmed(f"Drop {_letters(found)} for good?"):
            return _nothing_done()
        dropped = _run(work(limit if yes else found))
    if json:
        streams.write_document({"matched": max(found, dropped), "dropped": dropped})
    elif dry_run:
        terminal.results().print(f"{_letters(found)} would be dropped.")
    else:
        terminal.results().print(f"{_letters(dropped)} dropped.")
    return 0


def _must_be_askable(what: str) -> None:
    """Raises typer.BadParameter: there is no terminal."""
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"nobody can be asked here: give it to {what}.", param_hint="--yes")


async def _count(loaded: Settings, wanted: Filter, limit: int | None, *, shown: bool) -> int:
    async with _reading(loaded, shown=shown) as parking_lot:
        return sum([len(page) async for page in parking_lot.matching(wanted, limit)])


def _nothing_done() -> int:
    terminal.notices().print("Nothing was done.")
    return 1


def _report(fates: Counter[Fate], *, dry_run: bool, json: bool) -> None:
    if json:
        streams.write_document({str(fate): fates[fate] for fate in Fate} | {"dry_run": dry_run})
        return
    out = terminal.results()
    if dry_run:
        out.print("Nothing was done. This would be, unless the ledger knows better:")
    for fate in Fate:
        if fates[fate]:
            out.print(WORDS[fate].format(_letters(fates[fate])), soft_wrap=True)
    if not fates:
        terminal.notices().print("No such letters.")


@asynccontextmanager
async def _reading(loaded: Settings, *, shown: bool) -> AsyncIterator[ParkingLot]:
    """Open the parking lot, with a progress bar of the letters that are read."""
    async with ParkingLot.open(loaded) as parking_lot:
        count = parking_lot.count
        with Progress(count, shown=shown and count > 0, what="letters") as progress:
            parking_lot.on_read = progress.advanced
            yield parking_lot


async def _entry(loaded: Settings, request_id: UUID) -> Entry | None:
    """What the ledger knows; the letter is worth showing without it."""
    try:
        async with entries.reader(loaded) as reader:
            entry = await reader.get(request_id)
    except LedgerError as error:
        terminal.notices().print(str(error), soft_wrap=True)
        return None
    if entry is None:
        terminal.notices().print(f"The ledger has no request {request_id}: it was refused or pruned.")
    return entry


def _say_away(reason: str, *, up: bool) -> None:
    terminal.notices().print("The ledger is back." if up else f"Waiting: {reason}", soft_wrap=True)


def _say_blocked(*, blocked: bool) -> None:
    terminal.notices().print(
        "Waiting: the broker has an alarm (memory or disk) and takes nothing." if blocked else "It goes on."
    )


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        return interrupts.run(runner, work)


def _sent(fates: Counter[Fate]) -> int:
    return sum(count for fate, count in fates.items() if not fate.stays)


def _letters(count: int) -> str:
    return "1 letter" if count == 1 else f"{count:,} letters"


def _uuid(text: str | None, where: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise typer.BadParameter(
            "not a UUID; `session-worker dead list` shows them.", param_hint=where
        ) from None
