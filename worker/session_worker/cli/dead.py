"""``dead``: see, redrive or drop the letters on the parking lot."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from session_client.net.errors import LinkLostError
from session_worker.cli import command_settings, interrupts, options, streams, terminal
from session_worker.cli.problems import Failure
from session_worker.cli.progress import Progress
from session_worker.cli.views import letters
from session_worker.cli.views.entries import timeline
from session_worker.ledger.protocol import LedgerError
from session_worker.loop import PlainLoop
from session_worker.messages.errors import PublishError
from session_worker.operators import dead_letters, entries
from session_worker.operators.dead_letters import DeadLetter, Fate, Filter, ParkingLot, Sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from uuid import UUID

    from session_contracts import Operation
    from session_worker.ledger.reader import Entry
    from session_worker.settings import Settings

    Operations = Sequence[Operation[Any, Any]]

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


def chosen(
    code: str | None = None,
    exception: str | None = None,
    since: str | None = None,
    user: str | None = None,
    letter: str | None = None,
) -> Filter:
    """The letters meant by these options. Raises typer.BadParameter."""
    id_ = _id(letter, "--request-id") if letter else None
    return Filter(options.error_code(code), exception, options.since(since), user, id_)


def show_list(wanted: Filter, limit: int, *, operation: str | None, json: bool, **flags: str | None) -> int:
    """Print the oldest letters; none is no failure."""
    loaded, asked = _load(operation, **flags)
    rows = _run(_read(loaded, asked, wanted, limit, DeadLetter.document, shown=not json))
    if json:
        for row in rows:
            streams.write_document(row)
    elif rows:
        terminal.results().print(letters.table(rows, datetime.now(UTC)))
    if len(rows) == limit:
        terminal.notices().print(
            f"{limit} of them; there may be more: --limit, or `session-worker dead groups`."
        )
    elif not rows:
        _say_none(loaded, operation)
    return 0


def show_groups(wanted: Filter, *, operation: str | None, json: bool, **flags: str | None) -> int:
    """Print how many letters failed in which way."""
    loaded, asked = _load(operation, **flags)

    async def work() -> list[dead_letters.Group]:
        async with _reading(loaded, asked, shown=not json) as parking_lot:
            return await dead_letters.groups(parking_lot, wanted)

    found = _run(work())
    if json:
        for group in found:
            streams.write_document(group.document())
    elif found:
        terminal.results().print(letters.group_table(found, datetime.now(UTC)))
    else:
        _say_none(loaded, operation)
    return 0


def _say_none(loaded: Settings, operation: str | None, what: str = "No such letters.") -> None:
    terminal.notices().print(what)
    if loaded.app is None and operation is None:
        terminal.notices().print(
            "Only those of the built-in operations were looked at; --app or --operation names others."
        )


def show_one(text: str, *, operation: str | None, json: bool, **flags: str | None) -> int:
    """Print the letters of one request, and what the ledger knows of it; 1 when there is none."""
    wanted = Filter(letter=_id(text, "ID"))
    loaded, asked = _load(operation, **flags)
    found = _run(_read(loaded, asked, wanted, MOST_SHOWN, lambda letter: letter, shown=not json))
    if not found:
        what = f"No letter {text}; `session-worker status {text}` says what the ledger knows."
        _say_none(loaded, operation, what)
        return 1
    request_id = found[0].request_id
    entry = _run(_entry(loaded, request_id)) if request_id else None
    for letter in found:
        if json:
            known = entries.document(entry) if entry else None
            streams.write_document(letter.document(whole=True) | {"entry": known})
        else:
            terminal.results().print(letters.sheet(letter), "")
    if entry and not json:
        terminal.results().print(timeline(entry))
    return 0


def redrive(
    wanted: Filter,
    limit: int | None,
    *,
    operation: str | None,
    unknown: bool,
    yes: bool,
    dry_run: bool,
    json: bool,
    **flags: str | None,
) -> int:
    """Send letters to the workers again; 1 when some had to stay. Ask first where no filter chooses."""
    loaded, asked = _load(operation, **flags, holder_timeout=None)
    if wanted == Filter() and not (yes or dry_run):
        _must_be_askable("send all letters again; a filter, for example --code, chooses some")
        limit = len(_run(_read(loaded, asked, wanted, limit, bool, shown=not json)))
        if limit and not terminal.confirmed(f"Send {_letters(limit)} to the workers again?"):
            return _nothing_done()
    fates: Counter[Fate] = Counter()

    async def work() -> None:
        async with AsyncExitStack() as stack:
            ledger = await stack.enter_async_context(dead_letters.operators_ledger(loaded))
            availability = ledger.availability
            availability.watch(lambda up: _say_away(availability.reason, up=up))
            sender = await stack.enter_async_context(Sender.open(loaded))
            sender.connection.watchers.append(lambda: _say_blocked(blocked=sender.connection.blocked))
            parking_lot = await stack.enter_async_context(_reading(loaded, asked, shown=not json))
            redriving = dead_letters.redrive(
                parking_lot, wanted, limit, ledger=ledger, sender=sender, unknown=unknown
            )
            async for fate in redriving:
                fates[fate] += 1

    try:
        if dry_run:
            fates.update(_run(_read(loaded, asked, wanted, limit, _outlook, shown=not json)))
        elif limit != 0:
            _run(work())
    except (PublishError, LinkLostError) as error:
        sent = sum(count for fate, count in fates.items() if not fate.stays)
        before = f". {_letters(sent)} sent before; the others are still there." if fates else ""
        raise Failure(f"{error}{before}") from error
    _report(fates, dry_run=dry_run, json=json)
    return 1 if any(fate.stays for fate in fates) else 0


def purge(
    wanted: Filter,
    limit: int | None,
    *,
    operation: str | None,
    yes: bool,
    dry_run: bool,
    json: bool,
    **flags: str | None,
) -> int:
    """Drop letters for good."""
    loaded, asked = _load(operation, **flags)
    if not (yes or dry_run):
        _must_be_askable("drop letters for good")

    async def work(most: int | None) -> int:
        async with _reading(loaded, asked, shown=not json) as parking_lot:
            return await parking_lot.purge(wanted, most)

    found = dropped = 0
    if dry_run or not yes:
        found = len(_run(_read(loaded, asked, wanted, limit, bool, shown=not json)))
    if not dry_run and (yes or found):
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


def _load(operation: str | None, **flags: str | None) -> tuple[Settings, Operations]:
    """The settings, and the operations whose letters are meant. Raises typer.BadParameter, AppError."""
    loaded = command_settings.load_only(**flags)
    return loaded, options.operations(loaded, operation)


def _outlook(letter: DeadLetter) -> Fate:
    return letter.outlook


async def _read(
    loaded: Settings,
    asked: Operations,
    wanted: Filter,
    limit: int | None,
    convert: Callable[[DeadLetter], T],
    *,
    shown: bool,
) -> list[T]:
    """What ``convert`` makes of each letter: the letters themselves may be too large to keep."""
    async with _reading(loaded, asked, shown=shown) as parking_lot:
        pages = parking_lot.matching(wanted, limit)
        return [convert(letter) async for page in pages for letter in page]


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
async def _reading(loaded: Settings, asked: Operations, *, shown: bool) -> AsyncIterator[ParkingLot]:
    """Open the parking lots, with a progress bar of the letters that are read."""
    async with ParkingLot.open(loaded, asked) as parking_lot:
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


def _letters(count: int) -> str:
    return "1 letter" if count == 1 else f"{count:,} letters"


def _id(text: str, where: str) -> UUID:
    return options.uuid(text, where, "not a UUID; `session-worker dead list` shows them.")
