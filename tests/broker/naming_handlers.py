"""The scripted handler, in a worker to which one name has two addresses."""

from __future__ import annotations

from tests.broker.handlers_for_tests import scripted
from tests.support.addresses import name_them

__all__ = ["scripted"]

name_them()
