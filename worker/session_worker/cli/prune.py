"""``ledger prune``: forget what finished long ago."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from session_worker.cli import command_settings, interrupts, streams, terminal
from session_worker.cli.progress import Progress
from session_worker.ledger import open_pruner
from session_worker.ledger.prune import in_batches
from session_worker.loop import PlainLoop
from session_worker.settings import durations

if TYPE_CHECKING:
    from session_worker.settings import Settings

_OLDER_THAN = "--older-than"


def prune(older_than: str | None, *, dry_run: bool, ledger_url: str | None, json: bool) -> int:
    """Delete the requests that finished before, and say how many; always 0."""
    loaded = command_settings.load_only(ledger_url=ledger_url, retention=None, dedupe_window=None)
    pruning = Pruning(loaded, _age(older_than, loaded))
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        try:
            interrupts.run(runner, pruning.count() if dry_run else pruning.delete(shown=not json))
        except BaseException:
            if pruning.requests:
                terminal.notices().print(f"{pruning.requests:,} requests were deleted before this ended.")
            raise
    if json:
        streams.write_document(
            {
                "finished_before": pruning.finished_before,
                "requests": pruning.requests,
                "dry_run": dry_run,
            }
        )
    else:
        done = "would be" if dry_run else "were"
        before = durations.clock(pruning.finished_before)
        terminal.results().print(
            f"{pruning.requests:,} requests that finished before {before} {done} deleted."
        )
    return 0


class Pruning:
    """``requests`` are deleted, or counted, so far."""

    def __init__(self, loaded: Settings, age: float) -> None:
        self._pruner = open_pruner(loaded.ledger_url.get_secret_value())
        self._age = age
        self.requests = 0

    @property
    def finished_before(self) -> str:
        return self._pruner.finished_before.isoformat()

    async def count(self) -> None:
        try:
            await self._pruner.open(self._age)
            self.requests = await self._pruner.count()
        finally:
            await self._pruner.close()

    async def delete(self, *, shown: bool) -> None:
        """Counts them first where somebody watches the bar."""
        try:
            await self._pruner.open(self._age)
            shown = shown and terminal.notices().is_terminal
            with Progress(await self._pruner.count() if shown else 0, shown=shown, what="pruned") as progress:
                async for deleted in in_batches(self._pruner):
                    self.requests += deleted
                    progress.advanced(deleted)
        finally:
            await self._pruner.close()


def _age(older_than: str | None, loaded: Settings) -> float:
    if older_than is None:
        if loaded.retention is None:
            raise typer.BadParameter(
                "give an age, for example 30d, or set SESSION_WORKER_RETENTION.", param_hint=_OLDER_THAN
            )
        return loaded.retention
    try:
        age = durations.seconds(older_than)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint=_OLDER_THAN) from None
    if age < loaded.dedupe_window:
        raise typer.BadParameter(
            f"{older_than} is less than the {durations.text(loaded.dedupe_window)} for which a request that "
            "is sent again gets the answer it had; that time is set by SESSION_WORKER_DEDUPE_WINDOW.",
            param_hint=_OLDER_THAN,
        )
    return age
