"""Private servers for the demo, the tests and the benchmarks: seen by nobody else, gone afterwards."""

from worker.sandbox.postgresql import PostgreSQL
from worker.sandbox.rabbitmq import RabbitMQ
from worker.sandbox.workspace import SandboxError

__all__ = ["PostgreSQL", "RabbitMQ", "SandboxError"]
