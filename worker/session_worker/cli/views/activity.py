"""How current activity looks on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from session_worker.cli.views.entries import COLOURS
from session_worker.cli.views.listing import Listing, facts
from session_worker.ledger.protocol import COUNTED
from session_worker.operators.traffic import FAILURES
from session_worker.operators.watch import Unreachable
from session_worker.settings import durations
from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, RenderableType

    from session_worker.ledger.reader import Entry
    from session_worker.operators.traffic import Finished, Traffic
    from session_worker.operators.watch import Depth, Snapshot


def fitting(snapshot: Snapshot, screen: Console) -> RenderableType:
    """Draw the snapshot with as many failures and queues as fit the screen."""
    for queues, failures in ((None, FAILURES), (4, FAILURES), (4, 2), (2, 2), (1, 1)):
        shown = picture(snapshot, live=True, queues=queues, failures=failures)
        if len(screen.render_lines(shown, pad=False)) <= screen.height:
            break
    return shown


def picture(
    snapshot: Snapshot, *, live: bool = False, queues: int | None = None, failures: int = FAILURES
) -> RenderableType:
    """Draw the snapshot with at most so many queues (None: all) and failures."""
    parts: list[RenderableType] = []
    if live:
        clock = durations.clock(datetime.now(UTC))
        parts += [Text.assemble(("session-worker top", "bold"), f"  {clock}  ", ("q: leave", "dim")), Text()]
    ledger = snapshot.ledger
    if ledger is None or isinstance(ledger, Unreachable):
        parts.append(_absent("ledger", ledger))
    else:
        parts.append(facts(_facts(ledger.traffic)))
    parts.append(Text())
    if snapshot.queues is None or isinstance(snapshot.queues, Unreachable):
        parts.append(_absent("broker", snapshot.queues))
    else:
        parts.append(_queues(snapshot.queues, queues))
    if ledger is not None and not isinstance(ledger, Unreachable) and ledger.failures:
        parts += [Text(), _failures(ledger.failures[:failures])]
    return Group(*parts)


def _absent(what: str, found: Unreachable | None) -> Text:
    if found is None:
        return Text(f"{what}: asking …", style="dim")
    return Text.assemble((f"{what} unreachable", "bold red"), f"  {printable(found.reason)}")


def _facts(traffic: Traffic) -> Iterator[tuple[str, str | Text]]:
    yield "finished", _rates(traffic.lately)
    if traffic.minute.seconds > traffic.lately.seconds:
        yield "", _rates(traffic.minute)
    yield "latency", _latency(traffic.lately if traffic.lately.p50 is not None else traffic.minute)
    more = "+" if traffic.failed_more else ""
    waiting = f"{traffic.waiting:,}{'+' if traffic.waiting == COUNTED else ''}"
    failed = Text(f"{traffic.failed:,}{more}", style=COLOURS["failed"] if traffic.failed else "")
    running = f"{traffic.running:,} processing, {waiting} pending, "
    yield "requests", Text.assemble(running, failed, " failed in the last hour")
    workers = f"{len(traffic.workers)}: {', '.join(traffic.workers)}"
    yield "workers", workers if traffic.workers else Text("none alive", style="bold red")


def _latency(finished: Finished) -> str:
    if finished.p50 is None or finished.p95 is None:
        return "nothing finished"
    spread = f"p50 {durations.text(finished.p50)}, p95 {durations.text(finished.p95)}"
    return f"{spread} over {finished.seconds:.3g} s, from claim to outcome"


def _rates(finished: Finished) -> Text:
    total = sum(finished.rates.values())
    shown = Text(f"{_rate(total)}/s over {finished.seconds:.3g} s")
    for outcome, rate in finished.rates.items():
        colour = COLOURS["completed" if outcome == "completed" else "failed"]
        shown.append(f"  {outcome} {_rate(rate)}", style=colour)
    return shown


def _rate(rate: float) -> str:
    """Keep two significant digits: one request in a minute is 0.017 a second."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _queues(queues: Sequence[Depth], most: int | None) -> Listing:
    """Show the work queues, and the fullest others; of the empty ones only how many there are."""
    table = Listing("queue", "messages", "consumers", right=("messages", "consumers"))
    work = [each for each in queues if each.is_work]
    others = [each for each in queues if not each.is_work and (each.messages or each.trouble)]
    ranked = [*work, *sorted(others, key=lambda each: each.messages or 0, reverse=True)]
    shown = ranked[:most]
    for each in shown:
        if each.trouble:
            table.add(each.queue, Text(each.trouble, style="red"), "")
        else:
            name = Text(each.queue, style="" if each.messages else "dim")
            table.add(name, f"{each.messages:,}", f"{each.consumers}")
    if others := [each for each in queues if each not in shown]:
        table.add(f"{len(others)} others", f"{sum(each.messages or 0 for each in others):,}", "")
    return table


def _failures(entries: Sequence[Entry]) -> Listing:
    table = Listing("failed (UTC)", "request", "code", "reason", brief=True)
    for entry in entries:
        table.add(
            durations.time_of_day(entry.finished_at or entry.updated_at),
            str(entry.request_id),
            Text(entry.error_code or "", style=COLOURS["failed"]),
            entry.reason,
        )
    return table
