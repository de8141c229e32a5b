"""FastStream doing durably what this worker does: three statements for each request, two commits."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
from faststream import FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from session_contracts import (
    CreateSessionRequest,
    CreateSessionResponse,
    RequestStatus,
    SessionCreatedPayload,
    fingerprint,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    request_id uuid PRIMARY KEY, fingerprint bytea NOT NULL, status text NOT NULL, user_id text NOT NULL,
    session_id text NOT NULL, received_at timestamptz NOT NULL, finished_at timestamptz, response bytea
);
CREATE TABLE IF NOT EXISTS sessions (
    session_id text PRIMARY KEY, request_id uuid NOT NULL UNIQUE, user_id text NOT NULL,
    casefile_id text, title text, created_at timestamptz NOT NULL
);
"""
CLAIM = """
INSERT INTO requests (request_id, fingerprint, status, user_id, session_id, received_at)
VALUES ($1, $2, 'processing', $3, $4, $5) ON CONFLICT (request_id) DO NOTHING
"""
COMPLETE = """
UPDATE requests SET status = 'completed', finished_at = now(), response = $2 WHERE request_id = $1
"""
CREATE = """
INSERT INTO sessions (session_id, request_id, user_id, casefile_id, title, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""

broker = RabbitBroker(
    os.environ["BENCH_AMQP_URL"],
    default_channel=Channel(prefetch_count=int(os.environ["BENCH_CONCURRENCY"])),
)
pool: asyncpg.Pool


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    global pool
    async with asyncpg.create_pool(os.environ["BENCH_DATABASE_URL"]) as pool:
        await pool.execute(SCHEMA)
        yield


app = FastStream(broker, lifespan=lifespan)


@broker.subscriber(RabbitQueue(os.environ["BENCH_QUEUE"], queue_type=QueueType.QUORUM, durable=True))
async def create_session(request: CreateSessionRequest) -> CreateSessionResponse:
    now = datetime.now(UTC)
    session_id = f"ts_{now:%y%m%d}_{secrets.token_hex(6)}"
    number, user, payload = request.request_id, request.user_id, request.payload
    async with pool.acquire() as connection:
        await connection.execute(CLAIM, number, fingerprint(request), user, session_id, now)
        response = CreateSessionResponse(
            request_id=number,
            status=RequestStatus.COMPLETED,
            payload=SessionCreatedPayload(
                session_id=session_id, casefile_id=payload.casefile_id, created_at=now.isoformat()
            ),
        )
        async with connection.transaction():
            await connection.execute(COMPLETE, number, response.model_dump_json().encode())
            await connection.execute(
                CREATE, session_id, number, user, payload.casefile_id, payload.title, now
            )
    return response
