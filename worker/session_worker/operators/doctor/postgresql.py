"""What can be checked at a PostgreSQL ledger, over a connection like the worker's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from session_worker.ledger.migrations import IDENTITY
from session_worker.ledger.postgresql.connection import connect, hang_up
from session_worker.ledger.postgresql.errors import AWAY, diagnose
from session_worker.ledger.postgresql.schema import ESTIMATE, check_grants, check_schema
from session_worker.ledger.protocol import LedgerError
from session_worker.ledger.registration import ALIVE
from session_worker.operators.doctor.ledger_findings import clock_skew, size
from session_worker.operators.doctor.result import State, failed, from_error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import asyncpg

    from session_worker.operators.doctor.ledger_findings import LedgerFindings
    from session_worker.operators.doctor.result import Result
    from session_worker.settings import Settings

_SERVER = """
SELECT current_setting('server_version') AS version, current_database() AS database,
    pg_is_in_recovery() AS standby, current_setting('default_transaction_read_only') AS read_only,
    current_setting('plan_cache_mode') AS plans, current_setting('fsync') AS fsync,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('full_page_writes') AS full_page_writes
"""
_SIZE = f"""
SELECT {ESTIMATE} AS rows, pg_total_relation_size('requests') + pg_total_relation_size('sessions') AS bytes
"""
_ALIVE = ALIVE.format(now="now()")
_WORKERS = f"""
SELECT count(*) FILTER (WHERE {_ALIVE}), count(*) FILTER (WHERE NOT ({_ALIVE})) FROM workers
"""  # noqa: S608

_NEW_REQUEST = """
INSERT INTO requests (request_id, status, attempt, token, fingerprint, session_id, user_id, operation,
    received_at, updated_at, history)
VALUES ($1, 'pending', 0, $1, '', $2, '', '', now(), now(), '[]')
"""
_NEW_SESSION = "INSERT INTO sessions (session_id, request_id, user_id, created_at) VALUES ($2, $1, '', now())"
_NEW_WORKER = (
    "INSERT INTO workers (worker_id, steady_since, renewed_at, gone_at) VALUES ($1, now(), now(), now())"
)


async def examine(url: str, settings: Settings, clock: Callable[[], float], findings: LedgerFindings) -> None:
    """Add what is found to ``findings``. Raises LedgerError: the ledger cannot be used."""
    try:
        connection = await connect(url)
    except AWAY as error:
        raise _no_connection(error, url) from error
    try:
        await _examine(connection, url, settings, clock, findings)
    except AWAY as error:
        raise LedgerError(diagnose(error, url)) from error
    finally:
        await hang_up(connection)


async def _examine(
    connection: asyncpg.Connection,
    url: str,
    settings: Settings,
    clock: Callable[[], float],
    findings: LedgerFindings,
) -> None:
    version = await check_schema(connection, url)
    about = dict((await connection.fetch(_SERVER))[0])
    found = server(about, version)
    lacking = await _lacking(connection, url)
    if found.state is State.OK and lacking is None:
        await _try_to_write(connection)
    findings.results.append(found)
    findings.results.append(lacking or ok("ledger grants", "this user may do all that a worker does"))
    (room,) = await connection.fetch(_SIZE)
    findings.results.append(size(room["rows"], room["bytes"], settings.retention))
    findings.results.append(durability(about))
    before = clock()
    moment = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    findings.results.append(clock_skew(moment - (before + clock()) / 2))
    if lacking is None:
        ((findings.alive, findings.gone),) = await connection.fetch(_WORKERS)
        findings.identity = (await connection.fetchval(IDENTITY)).isoformat(timespec="microseconds")


async def _try_to_write(connection: asyncpg.Connection) -> None:
    """Insert a row into each table, and commit once; no row stays. Raises one of AWAY."""
    id_, name = uuid4(), f"doctor {uuid4()}"
    attempt = connection.transaction()
    await attempt.start()
    await connection.execute(_NEW_REQUEST, id_, name)
    await connection.execute(_NEW_SESSION, id_, name)
    await attempt.rollback()
    async with connection.transaction():
        await connection.execute(_NEW_WORKER, name)
        await connection.execute("DELETE FROM workers WHERE worker_id = $1", name)


def _no_connection(error: BaseException, url: str) -> LedgerError:
    if "startup parameter" in str(error):
        return LedgerError(f"the ledger's PostgreSQL is behind a connection pooler ({error})", _NO_POOLER)
    return LedgerError(diagnose(error, url))


_NO_POOLER = "name PostgreSQL itself in SESSION_WORKER_LEDGER_URL: a worker keeps only a few connections"


def server(about: Mapping[str, Any], schema: int) -> Result:
    if about["standby"] or about["read_only"] == "on":
        what = "a standby" if about["standby"] else "read-only (default_transaction_read_only)"
        return failed("ledger", f"this PostgreSQL is {what}", "name the primary in SESSION_WORKER_LEDGER_URL")
    if about["plans"] != "force_generic_plan":
        found = (
            "the settings of a worker's connection do not arrive, as behind a connection pooler (PgBouncer)"
        )
        return failed("ledger", found, _NO_POOLER)
    return ok("ledger", f"PostgreSQL {about['version']}, database {about['database']}, schema {schema}")


def durability(about: Mapping[str, Any]) -> Result:
    names = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if about[name] == "off"]
    if names:
        return warning(
            "ledger durability",
            f"{', '.join(names)} off: should the server die, outcomes that were answered may be "
            "lost, and the promise with them",
            f"switch it on at the server: {', '.join(f'{name} = on' for name in names)}",
        )
    return ok("ledger durability", "a commit survives a power cut, as far as the disk keeps its word")


async def _lacking(connection: asyncpg.Connection, url: str) -> Result | None:
    try:
        await check_grants(connection, url)
    except LedgerError as error:
        return from_error("ledger grants", error, "grant them")
    return None
