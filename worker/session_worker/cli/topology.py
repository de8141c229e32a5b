"""``topology``: declare or check the exchange and queues."""

from __future__ import annotations

import asyncio

import typer

from session_worker.cli import command_settings, terminal
from session_worker.loop import PlainLoop
from session_worker.operators import topology
from session_worker.operators.doctor.result import folded


def apply(*, adopt: bool, ledger_url: str | None, **flags: str | None) -> None:
    """Declare what the worker needs; with ``adopt``, make it belong to this ledger."""
    if ledger_url is not None and not adopt:
        raise typer.BadParameter("only --adopt-ledger takes a ledger.", param_hint="--ledger-url")
    loaded = command_settings.load_only(
        **flags, operations=None, **({"ledger_url": ledger_url} if adopt else {})
    )
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        owner = runner.run(topology.apply(loaded, adopt=adopt))
    there = topology.needed(loaded)
    terminal.results().print(f"Exchange {there.exchange} and {len(there.queues)} queues are there.")
    if owner is not None:
        terminal.results().print(f"They belong to the ledger {owner.name}.")


def check(**flags: str | None) -> int:
    """Print every difference between the broker and what the worker needs; 1 if there are any."""
    loaded = command_settings.load_only(**flags, operations=None)
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        results = folded(runner.run(topology.compare(loaded)))
    differences = [f"{each.name}: {each.found}; {each.fix}" for each in results if each.fix]
    needed = topology.needed(loaded)
    fine = f"Exchange {needed.exchange} and {len(needed.queues)} queues are as the worker needs them."
    for line in differences or [fine]:
        terminal.results().print(line)
    return 1 if differences else 0
