"""``ledger``: upgrade, copy or prune the ledger."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from session_worker.cli import command_settings, interrupts, options, streams, terminal
from session_worker.cli.progress import Progress
from session_worker.ledger import upgrade as upgrade_schema
from session_worker.ledger.copy import copy as copy_ledger
from session_worker.loop import PlainLoop
from session_worker.operators.pruning import Pruning
from session_worker.settings import durations

if TYPE_CHECKING:
    from session_worker.settings import Settings

_OLDER_THAN = "--older-than"


def upgrade(*, ledger_url: str | None) -> None:
    """Bring the ledger's schema to this version."""
    loaded = command_settings.load_only(ledger_url=ledger_url)
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        before, after = runner.run(upgrade_schema(loaded.ledger_url.get_secret_value()))
    done = f"is at version {after} already" if before == after else f"went from version {before} to {after}"
    terminal.results().print(f"The ledger's schema {done}.")
    if before and before != after:
        terminal.results().print(
            "Workers of the release before that are running go on beside those of this one. Once stopped, "
            "they cannot be started again."
        )


def copy(source: str, *, ledger_url: str | None) -> None:
    """Copy a SQLite ledger into an empty PostgreSQL one."""
    loaded = command_settings.load_only(ledger_url=ledger_url)
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        requests, sessions = interrupts.run(runner, copy_ledger(source, loaded.ledger_url.get_secret_value()))
    terminal.results().print(f"{requests:,} requests and {sessions:,} sessions were copied.")


def prune(older_than: str | None, *, dry_run: bool, ledger_url: str | None, json: bool) -> int:
    """Delete the requests that finished before, and say how many; always 0."""
    loaded = command_settings.load_only(ledger_url=ledger_url, retention=None, dedupe_window=None)
    age, pruning = _age(older_than, loaded), Pruning(loaded)

    async def work() -> None:
        try:
            await pruning.pruner.open(age)
            shown = not json and not dry_run and terminal.notices().is_terminal
            count = await pruning.pruner.count() if shown or dry_run else 0  # it takes its time
            if dry_run:
                pruning.requests = count
                return
            with Progress(count, shown=shown, what="pruned") as progress:
                async for deleted in pruning.delete():
                    progress.advanced(deleted)
        finally:
            await pruning.pruner.close()

    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        try:
            interrupts.run(runner, work())
        except BaseException:
            if pruning.requests:
                terminal.notices().print(f"{pruning.requests:,} requests were deleted before this ended.")
            raise
    if json:
        streams.write_document(pruning.document(dry_run=dry_run))
        return 0
    done, before = "would be" if dry_run else "were", durations.clock(pruning.pruner.finished_before)
    terminal.results().print(f"{pruning.requests:,} requests that finished before {before} {done} deleted.")
    return 0


def _age(older_than: str | None, loaded: Settings) -> float:
    if older_than is None:
        if loaded.retention is None:
            raise typer.BadParameter(
                "give an age, for example 30d, or set SESSION_WORKER_RETENTION.", param_hint=_OLDER_THAN
            )
        return loaded.retention
    age = options.duration(older_than, _OLDER_THAN) or 0.0
    if age < loaded.dedupe_window:
        raise typer.BadParameter(
            f"{older_than} is less than the {durations.text(loaded.dedupe_window)} for which a request that "
            "is sent again gets the answer it had; that time is set by SESSION_WORKER_DEDUPE_WINDOW.",
            param_hint=_OLDER_THAN,
        )
    return age
