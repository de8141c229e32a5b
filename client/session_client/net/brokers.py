"""Connecting to the first of several brokers that can be used, and why one cannot."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from aiormq.exceptions import AuthenticationError, ProbableAuthenticationError

from session_client.net import dial, tls
from session_client.net.close_reasons import Kind, close_reason
from session_client.net.errors import ConnectError, LinkLostError
from session_client.net.failures import tls_failure, tls_hang_up, unreachable
from session_client.net.urls import port_of, vhost_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterable
    from ssl import SSLContext

    from yarl import URL

T = TypeVar("T")


class Broker(NamedTuple):
    """``url_name`` is what the user knows the URL by. ``seconds``: for looking its name up, for connecting to
    one of its addresses, and for logging in there, each."""

    url: URL
    url_name: str
    seconds: float

    def error(self, cause: BaseException, farewell: str = "") -> ConnectError:
        """Say why no connection came about. ``farewell``: the words with which the broker closed it."""
        where = f"the broker at {self.url.host}:{port_of(self.url)}"
        if farewell:
            reason = close_reason(farewell)
            return self._turned_away(where, reason.kind if reason else Kind.OTHER, farewell)
        if isinstance(cause, ProbableAuthenticationError | AuthenticationError):
            return self._turned_away(where, Kind.LOGIN, farewell)
        if isinstance(cause, tls.UnusableError):
            return ConnectError(cause.diagnosis, permanent=True)
        if self.url.scheme == "amqps":
            if failure := tls_failure(cause, where, "cafile"):
                return ConnectError(failure, permanent=True)
            if hang_up := tls_hang_up(cause, where):
                return ConnectError(hang_up)
        if isinstance(cause, TimeoutError):
            return ConnectError(f"{where} did not answer within {self.seconds:g} s")
        return ConnectError(unreachable(cause, where, self.url_name))

    def _turned_away(self, where: str, kind: Kind, farewell: str) -> ConnectError:
        """Say why the broker closed a connection before it was open."""
        user, vhost = self.url.user or "guest", vhost_of(self.url)
        match kind:
            case Kind.LOGIN:
                what = f"{where} refused the login of user {user}"
                fix = f"check user and password in {self.url_name}, and that the user may enter the vhost"
            case Kind.VHOST:
                what = f"{where} has no vhost {vhost}, or user {user} may not enter it"
                fix = (
                    "create it (rabbitmqctl add_vhost), let the user in (rabbitmqctl set_permissions), or "
                    f"correct {self.url_name}"
                )
            case Kind.LIMIT:
                what, fix = f"{where} takes no more connections ({farewell})", "close some or raise the limit"
            case Kind.UNAVAILABLE:  # the vhost is down, as it is while the node boots
                what, fix = f"{where} is not ready for vhost {vhost} ({farewell})", "wait, or see its log"
            case _:
                what, fix = f"{where} closed the connection before it was open ({farewell})", "see its log"
        return ConnectError(what, fix, permanent=kind in {Kind.LOGIN, Kind.VHOST}, kind=kind)


class NoBrokerError(LinkLostError):
    """None of the brokers could be used; ``failures`` says of each address why, and is never empty."""

    def __init__(self, failures: list[LinkLostError]) -> None:
        super().__init__("; ".join(dict.fromkeys(map(str, failures))))
        self.failures = failures


async def first_to_open(
    urls: Iterable[URL],
    open_on: Callable[[Broker, SSLContext | None, socket.socket], Awaitable[T]],
    *,
    url_name: str,
    seconds: float,
) -> T:
    """Return what ``open_on`` makes of the first address where it succeeds. The brokers are tried in order.

    Args:
        urls: at least one.
        open_on: gets the broker, the context for TLS, and a connected socket, which it closes if it fails. It
            raises LinkLostError; after a permanent one the broker's other addresses are not tried.
        url_name, seconds: as in ``Broker``.

    Raises:
        NoBrokerError: it succeeded nowhere.
    """
    contexts: dict[Broker, SSLContext | None] = {}

    async def look_up(broker: Broker) -> list[dial.Address]:
        contexts[broker] = await tls.context_for(broker.url)
        async with asyncio.timeout(seconds):
            return await dial.look_up(broker.url.host or "", port_of(broker.url))

    failures: list[LinkLostError] = []
    lookups = {broker: look_up(broker) for broker in (Broker(url, url_name, seconds) for url in urls)}
    async with dial.Dialing(lookups, connect_seconds=seconds) as dialing:
        while answered := await dialing.next():
            broker, connected = answered
            try:
                return await open_on(broker, contexts[broker], connected)
            except LinkLostError as error:
                failures.append(error)
                if error.permanent:
                    dialing.skip(broker)
    raise NoBrokerError([*failures, *(broker.error(cause) for broker, cause in dialing.failures)])
