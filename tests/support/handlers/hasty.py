"""The scripted handler, in a worker that looks after its entrance several times a second."""

from __future__ import annotations

from session_worker.broker import link
from tests.support.handlers.scripted import scripted

__all__ = ["scripted"]

link.ENTRANCE_SECONDS = 0.2
