"""The demo's middle part: connect requesters and ledger, play the script, compare the counts."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from session_contracts import Names, RequestStatus
from session_worker.cli.client import client_for
from session_worker.cli.demo import show
from session_worker.cli.demo.requester import RawRequester
from session_worker.cli.demo.script import TIMEOUT, Script
from session_worker.cli.problems import Failure
from session_worker.cli.progress import Progress
from session_worker.ledger import open_reader

if TYPE_CHECKING:
    from uuid import UUID

    from session_worker.cli.demo.plan import Plan
    from session_worker.cli.demo.stage import Stage, WorkerProcess
    from session_worker.ledger.reader import Entry, LedgerReader

NOTE_SECONDS = 5.0
"""The worker notes that a reply was sent some time after it was."""
POLL_SECONDS = 0.05


async def perform(plan: Plan, stage: Stage, worker: WorkerProcess) -> bool:
    """Play the plan and print what came of it; True if that is what must come of it."""
    async with AsyncExitStack() as stack:
        reader = open_reader(stage.ledger_url)
        await reader.open()
        stack.push_async_callback(reader.close)
        sessions_before = await reader.count_sessions()
        client = await stack.enter_async_context(client_for(stage.amqp_url, stage.prefix))
        raw = await stack.enter_async_context(RawRequester(stage.amqp_url, Names(stage.prefix), TIMEOUT))
        with Progress(plan.count) as progress:
            script = Script(plan, client, raw, progress)
            await _play_while_alive(script, worker)
        slow = [await _entry(reader, request_id) for request_id in script.failed_twice]
        script.counts.retried = sum(
            one.status is RequestStatus.COMPLETED and one.attempt == 3 for one in slow
        )
        script.counts.sessions = await reader.count_sessions() - sessions_before
        example = await _noted(reader, slow[0])
    equal = show.results(plan.expected(), script)
    show.timeline(example)
    if equal:
        show.proven(plan)
    return equal


async def _play_while_alive(script: Script, worker: WorkerProcess) -> None:
    """Play; a worker that dies ends the play at once instead of in many timeouts."""
    playing, watching = asyncio.create_task(script.play()), asyncio.create_task(worker.died())
    try:
        done, _ = await asyncio.wait({playing, watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        playing.cancel()
        watching.cancel()
        await asyncio.wait({playing, watching})


async def _entry(reader: LedgerReader, request_id: UUID) -> Entry:
    entry = await reader.get(request_id)
    if entry is None:
        raise Failure(f"The ledger does not know request {request_id}, which was sent and answered.")
    return entry


async def _noted(reader: LedgerReader, entry: Entry) -> Entry:
    """The entry once it says what became of the reply; as it is when that takes too long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(NOTE_SECONDS):
            while entry.reply is None:
                await asyncio.sleep(POLL_SECONDS)
                entry = await _entry(reader, entry.request_id)
    return entry
