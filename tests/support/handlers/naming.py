"""The scripted handler, in a worker to which one name has two addresses."""

from __future__ import annotations

from tests.support.addresses import name_them
from tests.support.handlers.scripted import scripted

__all__ = ["scripted"]

name_them()
