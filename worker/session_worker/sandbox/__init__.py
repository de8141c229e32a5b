"""Private servers for the demo, the tests and the benchmarks: seen by nobody else, gone afterwards."""

from session_worker.sandbox.postgresql import PostgreSQL
from session_worker.sandbox.rabbitmq import RabbitMQ
from session_worker.sandbox.workspace import SandboxError

__all__ = ["PostgreSQL", "RabbitMQ", "SandboxError"]
