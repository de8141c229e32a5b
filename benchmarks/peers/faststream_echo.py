"""FastStream answers a request by what its handler returns. Run by FastStream's own command, with uvloop."""

import asyncio
import os
from typing import Any

from faststream import FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

WAIT = "BENCH_WAIT" in os.environ

broker = RabbitBroker(
    os.environ["BENCH_AMQP_URL"],
    default_channel=Channel(prefetch_count=int(os.environ["BENCH_CONCURRENCY"])),
)
app = FastStream(broker)


@broker.subscriber(RabbitQueue(os.environ["BENCH_QUEUE"], queue_type=QueueType.QUORUM, durable=True))
async def echo(request: dict[str, Any]) -> dict[str, Any]:
    if WAIT:
        await asyncio.sleep(float(request["payload"]["title"]))
    return request
