"""The worker's event loop, which tries each address of a name that it is to connect to.

uvloop tries one after the other without a limit, and so does asyncio unless it is asked for more. asyncpg,
which does not ask, takes the loop as it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from session_client.net.dial import Dialing, look_up

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_SECONDS = 3.0
"""For one address; shorter than what connecting to a database may take in all."""


class _Dialing(asyncio.AbstractEventLoop):
    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **options: Any
    ) -> tuple[Any, Any]:
        """As any loop's; by way of ``session_client.net.dial`` unless the caller has special wishes."""
        if not isinstance(host, str) or options.keys() - {"ssl", "server_hostname"}:
            return await super().create_connection(protocol_factory, host, port, **options)
        async with Dialing({host: look_up(host, port)}, connect_seconds=CONNECT_SECONDS) as dialing:
            answered = await dialing.next()
        if answered is None:
            raise dialing.failures[-1][1]
        _, connected = answered
        if options.get("ssl"):
            options["server_hostname"] = options.get("server_hostname") or host
        return await super().create_connection(protocol_factory, sock=connected, **options)


class PlainLoop(_Dialing, asyncio.SelectorEventLoop):
    """asyncio's own: it loads faster, where little is done."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop there is."""
    try:
        import uvloop
    except ImportError:
        return PlainLoop()

    class Loop(_Dialing, uvloop.Loop):  # type: ignore[misc]
        pass

    return Loop()
