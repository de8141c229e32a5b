"""Private servers for tests and benchmarks: seen by nobody else, gone afterwards."""

from session_worker.sandbox import SandboxError
from tests.support.servers.postgresql import PostgreSQL
from tests.support.servers.rabbitmq import RabbitMQ

__all__ = ["PostgreSQL", "RabbitMQ", "SandboxError"]
