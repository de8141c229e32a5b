"""taskiq over RabbitMQ. It has no result backend that replies, so this one does: its interface is public."""

import os
from typing import Any

import aio_pika
from taskiq import AsyncResultBackend, TaskiqResult
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType


class Replies(AsyncResultBackend[Any]):
    """Sends each result to the requester's queue, confirmed."""

    async def startup(self) -> None:
        self._connection = await aio_pika.connect_robust(os.environ["BENCH_AMQP_URL"])
        channel = await self._connection.channel()
        self._exchange = channel.default_exchange

    async def shutdown(self) -> None:
        await self._connection.close()

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        message = aio_pika.Message(
            result.model_dump_json().encode(),
            content_type="application/json",
            correlation_id=task_id,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._exchange.publish(message, routing_key=os.environ["BENCH_REPLIES"])

    async def is_result_ready(self, task_id: str) -> bool:
        raise NotImplementedError("a result is sent, not asked for")

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:
        raise NotImplementedError("a result is sent, not asked for")


broker = AioPikaBroker(
    os.environ["BENCH_AMQP_URL"],
    result_backend=Replies(),
    qos=int(os.environ["BENCH_CONCURRENCY"]),
    task_queues=[Queue(name=os.environ["BENCH_QUEUE"], type=QueueType.QUORUM)],
)


@broker.task("echo")
async def echo(request: dict[str, Any]) -> dict[str, Any]:
    return request
