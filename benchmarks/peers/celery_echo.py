"""Celery with results over RabbitMQ; late acknowledgement, so that a killed worker loses nothing."""

import os
from typing import Any

from celery import Celery
from kombu import Queue

app = Celery("bench", broker=os.environ["BENCH_AMQP_URL"], backend="rpc://")
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_queues=[
        Queue(
            os.environ["BENCH_QUEUE"],
            routing_key=os.environ["BENCH_QUEUE"],
            queue_arguments={"x-queue-type": "quorum"},
        )
    ],
    worker_prefetch_multiplier=128,  # what its guide to optimising names for many short tasks
)


@app.task(name="echo")
def echo(request: dict[str, Any]) -> dict[str, Any]:
    return request
