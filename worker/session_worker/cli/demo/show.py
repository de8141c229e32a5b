"""What the person at the terminal sees of the demo."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from session_worker.cli import program_name, terminal
from session_worker.cli.demo.stage import RETRY_DELAYS
from session_worker.cli.views import entries
from session_worker.settings import durations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from session_worker.cli.demo.plan import Counts, Plan
    from session_worker.cli.demo.script import Script
    from session_worker.ledger.reader import Entry


def title(count: int) -> None:
    terminal.results().print(
        Text(f"Session Worker demo: {count:,} messages, every count checked", style="bold")
    )
    terminal.results().print()


@contextmanager
def step(text: str, duration: str = "") -> Iterator[None]:
    """Show that something is being done, and then that it is done. ``duration``: how long it may take."""
    started = time.perf_counter()
    notices = terminal.notices()
    doing = f"starting {text}: {duration} …" if duration else text
    if duration and not notices.is_terminal:
        notices.print(doing)
    with notices.status(doing):
        yield
    took = durations.text(time.perf_counter() - started)
    terminal.results().print(Text.assemble(("✓ ", "green"), text, (f"  {took}", "dim")))


def results(expected: Counts, script: Script) -> bool:
    """Print every count beside what it must be; True if all are equal."""
    wanted, found = expected.rows(), script.counts.rows()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("must be", justify="right")
    table.add_column("counted", justify="right")
    table.add_column("")
    for name in wanted | found:
        must, is_ = wanted.get(name, 0), found.get(name, 0)
        mark = Text("✓", style="green") if must == is_ else Text("differs", style="bold red")
        table.add_row(name, f"{must:,}", f"{is_:,}", mark)
    out = terminal.results()
    out.print()
    out.print(table)
    out.print()
    rate = script.counts.sent / script.seconds
    waits = " and ".join(f"{delay} s" for delay in RETRY_DELAYS * 2)
    out.print(f"{rate:,.0f} messages/s, including the forced waits of {waits} before the two retries")
    out.print(f"answers to plain requests: {durations.spread(script.latencies)}")
    out.print()
    return wanted == found


def timeline(entry: Entry) -> None:
    out = terminal.results()
    out.print(Text("One of the requests whose first two attempts failed:", style="bold"))
    out.print()
    out.print(entries.timeline(entry))
    out.print()


def interrupted() -> None:
    terminal.notices().print("Interrupted: the demo's broker, worker and files are gone.")


def proven(plan: Plan) -> None:
    terminal.results().print(
        Text.assemble(
            ("Proven: ", "bold green"),
            f"{plan.count:,} messages got {plan.count:,} answers. {plan.sessions:,} requests made "
            f"{plan.sessions:,} sessions, none twice, although {plan.thrice:,} of them came three times and "
            f"{plan.failing_twice:,} failed twice; "
            f"{plan.conflicts + plan.unreadable:,} wrong ones were told why.",
        )
    )
    terminal.results().print(
        f"Next: `{program_name.here()} dev` runs a worker for requests of your own, with its own broker.",
        soft_wrap=True,
    )


def not_proven(folder: Path) -> None:
    terminal.results().print(
        Text.assemble(
            ("Not proven: ", "bold red"),
            "the counts that differ are not what they must be. "
            f"The worker's log, and the ledger unless you named one, are in {folder}.",
        )
    )
