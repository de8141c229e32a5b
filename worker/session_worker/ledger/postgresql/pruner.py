"""Deleting old entries of a PostgreSQL ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_worker.ledger.postgresql.operator import OperatorConnection
from session_worker.ledger.prune import PrunedElsewhereError
from session_worker.ledger.rules import FINISHED

if TYPE_CHECKING:
    from datetime import datetime


_LOCK = 0x5E55_1036
"""Key of the advisory lock under which one process prunes: it goes with the connection."""

_BEGIN = """
SELECT pg_try_advisory_lock($1), now() - $2::float8 * interval '1 second' FROM
    set_config('enable_seqscan', 'off', false) -- by the index, however the statistics look
"""
# What finished before some time was received before it. There is an index by the time of receipt; one by the
# time of the end would cost every success its update in place.
_OLD = f"received_at < $1 AND finished_at < $1 AND {FINISHED}"
_COUNT = f"SELECT count(*) FROM requests WHERE {_OLD}"  # noqa: S608 -- no value is formatted in, here and below
# A row that a worker looks at is left for the next time. What is deleted still stands in the index until it
# is vacuumed: each batch begins where the last one ended.
_DELETE = f"""
WITH deleted AS (
    DELETE FROM requests WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM requests WHERE received_at >= coalesce($2::timestamptz, '-infinity') AND {_OLD}
        ORDER BY received_at LIMIT $3 FOR UPDATE SKIP LOCKED))
    RETURNING received_at)
SELECT count(*) AS count, max(received_at) AS reached FROM deleted
"""  # noqa: S608


class PostgreSQLPruner(OperatorConnection):
    """``Pruner`` over a connection of its own."""

    finished_before: datetime
    _reached: datetime | None = None

    async def open(self, older_than: float, *, statement_timeout: float | None = None) -> None:
        await self._connect(statement_timeout)
        try:
            ((free, self.finished_before),) = await self._fetch(_BEGIN, _LOCK, older_than)
        except BaseException:
            await self.close()
            raise
        if not free:
            await self.close()
            raise PrunedElsewhereError("somebody else is pruning this ledger: let that end")

    async def count(self) -> int:
        return int((await self._fetch(_COUNT, self.finished_before))[0][0])

    async def delete(self, limit: int) -> int:
        ((count, reached),) = await self._fetch(_DELETE, self.finished_before, self._reached, limit)
        self._reached = reached or self._reached
        return int(count)
