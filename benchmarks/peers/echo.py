"""The yardstick: aio-pika alone. Parse, publish with a confirm, acknowledge; no validation, no memory.

With `BENCH_WAIT` it waits for as many seconds as the request's title says, as a handler would.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import aio_pika
import uvloop

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage

WAIT = "BENCH_WAIT" in os.environ


async def main() -> None:
    connection = await aio_pika.connect_robust(os.environ["BENCH_AMQP_URL"])
    async with connection:
        channel = await connection.channel()  # with publisher confirms
        await channel.set_qos(prefetch_count=int(os.environ["BENCH_CONCURRENCY"]))
        queue = await channel.declare_queue(
            os.environ["BENCH_QUEUE"], durable=True, arguments={"x-queue-type": "quorum"}
        )

        async def answer(message: AbstractIncomingMessage) -> None:
            async with message.process():
                request = json.loads(message.body)
                if WAIT:
                    await asyncio.sleep(float(request["payload"]["title"]))
                assert message.reply_to is not None
                await channel.default_exchange.publish(
                    aio_pika.Message(
                        json.dumps(request).encode(),
                        content_type="application/json",
                        correlation_id=message.correlation_id,
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    ),
                    routing_key=message.reply_to,
                )

        await queue.consume(answer)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
