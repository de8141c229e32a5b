"""A private broker for ``dev`` and ``demo``: seen by nobody else, gone afterwards."""

from session_worker.sandbox.rabbitmq import RabbitMQ
from session_worker.sandbox.workspace import SandboxError

__all__ = ["RabbitMQ", "SandboxError"]
