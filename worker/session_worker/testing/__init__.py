"""Runs an app in tests, without broker and server: ``TestWorker``."""

from session_worker.testing.sent import Reply, Sent
from session_worker.testing.worker import TestWorker

__all__ = ["Reply", "Sent", "TestWorker"]
