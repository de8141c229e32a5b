"""``top``: current activity, live in a terminal, once for a pipe, or as one document for a program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.live import Live

from session_worker.cli import command_settings, interrupts, streams, terminal
from session_worker.cli.views.activity import fitting, picture
from session_worker.loop import PlainLoop
from session_worker.operators import watch
from session_worker.operators.watch import Snapshot, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from session_worker.settings import Settings


def top(interval: float, *, once: bool, json: bool, **flags: str | None) -> int:
    """Show activity until the user leaves, or ``once``; return 1 if broker or ledger did not answer then."""
    loaded = command_settings.load_only(**flags, operations=None)
    out = terminal.results()
    live = out.is_terminal and not out.is_dumb_terminal and not once and not json
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        if live:
            interrupts.run(runner, _live(loaded, interval))
            return 0
        found = interrupts.run(runner, watch.snapshot(loaded))
    if json:
        streams.write_document(watch.document(found))
    else:
        out.print(picture(found))
    return 1 if Unreachable in map(type, (found.ledger, found.queues)) else 0


async def _live(loaded: Settings, interval: float) -> None:
    """Ask each source at its own pace, so that a silent one delays neither the other nor the screen."""
    snapshot, news, stop = Snapshot(), asyncio.Event(), asyncio.Event()

    async def look_at_ledger() -> None:
        snapshot.ledger = await ledger.look()
        news.set()

    async def look_at_queues() -> None:
        snapshot.queues = await broker.look()
        news.set()

    async with watch.watchers(loaded) as (ledger, broker):
        with _attentive(stop.set, news.set):
            await _until_one_ends(
                stop.wait(),
                _show(snapshot, news, interval),
                _repeat(look_at_ledger, interval),
                _repeat(look_at_queues, interval),
            )


async def _show(snapshot: Snapshot, news: asyncio.Event, interval: float) -> None:
    with Live(console=terminal.results(), screen=True, auto_refresh=False) as screen:
        while True:
            news.clear()
            screen.update(fitting(snapshot, screen.console), refresh=True)
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
    """Listen to keys and signals; restore the terminal afterwards."""
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
