"""What can be checked at the ledger, without being registered there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from session_client.net.threads import in_own_thread
from session_worker.ledger.protocol import LedgerError
from session_worker.ledger.sqlite.database import path_of
from session_worker.operators.doctor import sqlite
from session_worker.operators.doctor.ledger_findings import LedgerFindings
from session_worker.operators.doctor.result import CHECK_SECONDS, from_error, no_answer, skipped

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.settings import Settings


async def examine(settings: Settings, clock: Callable[[], float]) -> LedgerFindings:
    findings = LedgerFindings()
    url = settings.ledger_url.get_secret_value()
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            if url.startswith("sqlite:"):
                await in_own_thread(sqlite.examine, path_of(url), settings, findings)
            else:
                from session_worker.operators.doctor import postgresql

                await postgresql.examine(url, settings, clock, findings)
    except TimeoutError:
        findings.results.append(no_answer("ledger", "the ledger"))
    except LedgerError as error:
        findings.results.append(from_error("ledger", error, "look into the log of the database"))
    if len(findings.results) == 1:
        why = "the ledger must work first"
        findings.results += [
            skipped(name, why) for name in ("ledger size", "ledger durability", "ledger clock")
        ]
    return findings
