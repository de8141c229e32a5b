"""A PostgreSQL ledger as operators use it: over one connection, with sentences for what goes wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from session_worker.ledger.postgresql.connection import connect_for_operators, hang_up
from session_worker.ledger.postgresql.errors import explained
from session_worker.ledger.postgresql.schema import check_schema
from session_worker.ledger.protocol import LedgerError

if TYPE_CHECKING:
    import asyncpg


class OperatorConnection:
    """One connection to a ledger whose schema is this program's; it takes one statement after the other."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await hang_up(connection)

    async def _connect(self, statement_timeout: float | None = None) -> None:
        """Raises LedgerError; then there is nothing to close."""
        self._connection = await connect_for_operators(self._url, statement_timeout=statement_timeout)
        try:
            await check_schema(self._connection, self._url)
        except BaseException:
            await self.close()
            raise

    async def _fetch(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """Raises LedgerError."""
        if self._connection is None:
            raise LedgerError("the ledger is not open")
        with explained(self._url):
            async with self._turn:
                return await self._connection.fetch(sql, *values)
