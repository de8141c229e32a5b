"""A handler that says things in every way there is, and nothing that can easily be written down."""

from __future__ import annotations

import asyncio
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

if TYPE_CHECKING:
    from session_contracts import CreateSessionRequest
    from session_worker.operations.handler import Context

# As modules do that were written for programs of their own.
logging.basicConfig(level=logging.DEBUG, format="%(message)s")
log = structlog.get_logger()


class Unspeakable:
    def __str__(self) -> NoReturn:
        raise KeyboardInterrupt

    __repr__ = __str__


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


async def handle(_request: CreateSessionRequest, context: Context) -> None:
    log.info(
        "said %d", Unspeakable(), value=circular(), method_name=Unspeakable(), request_id=context.request_id
    )
    logging.getLogger("shop").info("recorded %s", 1)
    warnings.warn("warned", stacklevel=1)
    print("printed\nprinted")  # noqa: T201
    await asyncio.to_thread(print, "printed in a thread", file=sys.stderr)
    sys.stdout.write("begun")
