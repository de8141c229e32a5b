"""aio-pika's own RPC pattern, with JSON in place of its default, pickle."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aio_pika
import uvloop
from aio_pika.patterns import JsonRPC


async def echo(*, request: dict[str, Any]) -> dict[str, Any]:
    return request


async def main() -> None:
    connection = await aio_pika.connect_robust(os.environ["BENCH_AMQP_URL"])
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=int(os.environ["BENCH_CONCURRENCY"]))
        rpc = await JsonRPC.create(channel)
        await rpc.register(
            os.environ["BENCH_QUEUE"], echo, durable=True, arguments={"x-queue-type": "quorum"}
        )
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
