"""``top``: current activity, live in a terminal, once for a pipe, or as one document for a program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from session_worker.cli import command_settings, interrupts, streams, terminal
from session_worker.cli.views.entries import COLOURS
from session_worker.cli.views.listing import Listing, facts
from session_worker.ledger.protocol import COUNTED
from session_worker.loop import PlainLoop
from session_worker.operators.watch import FAILURES, BrokerWatch, LedgerWatch, Unreachable
from session_worker.settings import durations
from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence

    from rich.console import Console, RenderableType

    from session_worker.ledger.reader import Entry
    from session_worker.operators.watch import Depth, Finished, Look, Traffic
    from session_worker.settings import Settings


@dataclass(slots=True)
class Frame:
    """What was found last; None: nothing yet."""

    ledger: Look | Unreachable | None = None
    queues: list[Depth] | Unreachable | None = None


def top(interval: float, *, once: bool, json: bool, **flags: str | None) -> int:
    """Show it until somebody leaves, or ``once``: then 1 if broker or ledger did not answer."""
    loaded = command_settings.load_only(**flags)
    out = terminal.results()
    live = out.is_terminal and not out.is_dumb_terminal and not once and not json
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        if live:
            interrupts.run(runner, _live(loaded, interval))
            return 0
        frame = interrupts.run(runner, _once(loaded))
    if json:
        streams.write_document(document(frame))
    else:
        out.print(picture(frame))
    return 1 if isinstance(frame.ledger, Unreachable) or isinstance(frame.queues, Unreachable) else 0


@asynccontextmanager
async def _watchers(loaded: Settings) -> AsyncIterator[tuple[LedgerWatch, BrokerWatch]]:
    ledger, broker = LedgerWatch(loaded), BrokerWatch(loaded)
    try:
        yield ledger, broker
    finally:
        await asyncio.gather(ledger.close(), broker.close())


async def _once(loaded: Settings) -> Frame:
    async with _watchers(loaded) as (ledger, broker):
        return Frame(*await asyncio.gather(ledger.look(), broker.look()))


async def _live(loaded: Settings, interval: float) -> None:
    """Each source is asked at its own pace: one that does not answer holds up no other, nor the screen."""
    frame, news, stop = Frame(), asyncio.Event(), asyncio.Event()

    async def look_at_ledger() -> None:
        frame.ledger = await ledger.look()
        news.set()

    async def look_at_queues() -> None:
        frame.queues = await broker.look()
        news.set()

    async with _watchers(loaded) as (ledger, broker):
        with _attentive(stop.set, news.set):
            await _until_one_ends(
                stop.wait(),
                _show(frame, news, interval),
                _repeat(look_at_ledger, interval),
                _repeat(look_at_queues, interval),
            )


async def _show(frame: Frame, news: asyncio.Event, interval: float) -> None:
    with Live(console=terminal.results(), screen=True, auto_refresh=False) as screen:
        while True:
            news.clear()
            screen.update(_fitting(frame, screen.console), refresh=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):  # the clock moves where nothing else does
                    await news.wait()


async def _repeat(look: Callable[[], Awaitable[None]], interval: float) -> None:
    while True:
        await look()
        await asyncio.sleep(interval)


async def _until_one_ends(*works: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


@contextmanager
def _attentive(leave: Callable[[], object], redraw: Callable[[], object]) -> Iterator[None]:
    """Listen to keys and signals; afterwards the terminal is as it was."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, leave)
    loop.add_signal_handler(signal.SIGWINCH, redraw)
    if not sys.stdin.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()

    def pressed() -> None:
        keys = os.read(keyboard, 100)
        if not keys or b"q" in keys.lower():
            leave()

    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


# ---------------------------------------------------------------------------------------- the document


def document(frame: Frame) -> dict[str, Any]:
    """A frame as ``--json`` prints it; the names are part of the interface."""
    ledger, queues = frame.ledger, frame.queues
    return {
        "at": datetime.now(UTC).isoformat(),
        "ledger": None if ledger is None or isinstance(ledger, Unreachable) else _ledger_document(ledger),
        "ledger_trouble": ledger.reason if isinstance(ledger, Unreachable) else None,
        "queues": None
        if queues is None or isinstance(queues, Unreachable)
        else {
            each.queue: {
                "messages": each.messages,
                "consumers": each.consumers,
                "trouble": each.trouble or None,
            }
            for each in queues
        },
        "broker_trouble": queues.reason if isinstance(queues, Unreachable) else None,
    }


def _ledger_document(look: Look) -> dict[str, Any]:
    traffic = look.traffic
    return {
        **_finished_document(traffic.lately),
        "last_minute": _finished_document(traffic.minute),
        "processing": traffic.running,
        "pending": traffic.waiting,
        "failed_last_hour": traffic.failed,
        "workers": list(traffic.workers),
        "failures": [
            {
                "request_id": str(entry.request_id),
                "at": (entry.finished_at or entry.updated_at).isoformat(),
                "error_code": entry.error_code,
                "reason": entry.reason,
            }
            for entry in look.failures
        ],
    }


def _finished_document(finished: Finished) -> dict[str, Any]:
    return {
        "finished_per_second": {outcome: round(rate, 3) for outcome, rate in finished.rates.items()},
        "measured_seconds": round(finished.seconds, 3),
        "p50_seconds": finished.p50,
        "p95_seconds": finished.p95,
    }


# ----------------------------------------------------------------------------------------- the picture


def _fitting(frame: Frame, screen: Console) -> RenderableType:
    """The frame with as many failures and queues as the screen has lines for."""
    for queues, failures in ((None, FAILURES), (4, FAILURES), (4, 2), (2, 2), (1, 1)):
        shown = picture(frame, live=True, queues=queues, failures=failures)
        if len(screen.render_lines(shown, pad=False)) <= screen.height:
            break
    return shown


def picture(
    frame: Frame, *, live: bool = False, queues: int | None = None, failures: int = FAILURES
) -> RenderableType:
    """A frame for people, with at most so many of the queues (None: all) and of the failures."""
    parts: list[RenderableType] = []
    if live:
        clock = durations.clock(datetime.now(UTC))
        parts += [Text.assemble(("session-worker top", "bold"), f"  {clock}  ", ("q: leave", "dim")), Text()]
    ledger = frame.ledger
    if ledger is None or isinstance(ledger, Unreachable):
        parts.append(_absent("ledger", ledger))
    else:
        parts.append(facts(_facts(ledger.traffic)))
    parts.append(Text())
    if frame.queues is None or isinstance(frame.queues, Unreachable):
        parts.append(_absent("broker", frame.queues))
    else:
        parts.append(_queues(frame.queues, queues))
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
    """With two digits that say something: one request in a minute is 0.017 a second."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _queues(queues: Sequence[Depth], most: int | None) -> Listing:
    """All, or the work and those in which most is."""
    table = Listing("queue", "messages", "consumers", right=("messages", "consumers"))
    fullest = sorted(queues[1:], key=lambda each: each.messages or 0, reverse=True)
    shown = queues if most is None else [*queues[:1], *fullest[: most - 1]]
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
