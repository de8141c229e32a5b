"""Dramatiq keeps results in Redis or Memcached; over RabbitMQ it answers by a success callback.

The callback's actor belongs to the requester: this worker only sends to its queue.
"""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

dramatiq.set_broker(RabbitmqBroker(url=os.environ["BENCH_AMQP_URL"], confirm_delivery=True))


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"], on_success="reply")
def echo(request: dict[str, Any]) -> dict[str, Any]:
    return request


@dramatiq.actor(queue_name=os.environ["BENCH_REPLIES"])
def reply(_message: dict[str, Any], _result: dict[str, Any]) -> None:
    raise NotImplementedError("the requester takes it")
