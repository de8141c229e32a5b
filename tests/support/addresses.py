"""Names with several addresses, and addresses where nobody answers."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "two-fold.test"
DROPPING = "127.0.0.2"
ADDRESSES = (DROPPING, "127.0.0.1")
"""Those of `NAME` where `name_them` was called, in this order."""


@contextmanager
def dropping(port: int) -> Iterator[None]:
    """Within the block, `DROPPING` answers nobody who connects to this port, as behind a firewall: its queue
    of connections that nobody accepts is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((DROPPING, port))
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((DROPPING, port))
        yield


@contextmanager
def silent(port: int) -> Iterator[None]:
    """Within the block, `DROPPING` takes connections to this port, and says nothing."""
    with socket.create_server((DROPPING, port), backlog=64):
        yield


def name_them() -> None:
    """Let `NAME` have `ADDRESSES` in this process."""
    ask = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        hosts = ADDRESSES if host == NAME else (host,)
        return [found for each in hosts for found in ask(each, port, *args, **kwargs)]

    socket.getaddrinfo = getaddrinfo
