"""What it means that a connection to the broker broke, or never came about.

The many ways in which aiormq says so leave this file as one: ``LinkLostError``.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ConnectionInternalError,
    ProbableAuthenticationError,
)

from contracts.trouble import access_trouble, refusal, tls_hang_up, tls_trouble, unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yarl import URL

CONNECT_SECONDS = 10.0


class LinkLostError(Exception):
    """The connection or a channel it cannot do without is gone. ``booting``: the broker failed inside, as it
    does while it starts."""

    def __init__(self, message: str, *, booting: bool = False) -> None:
        super().__init__(message)
        self.booting = booting


class ConnectError(LinkLostError):
    """No connection came about. ``permanent`` when trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool, booting: bool = False) -> None:
        super().__init__(message, booting=booting)
        self.permanent = permanent


class ForbiddenError(LinkLostError):
    """The broker's user lacks a permission; the message says which. Trying again at once cannot help."""

    permanent = True


@contextmanager
def broker_errors() -> Iterator[None]:
    """Turn every way in which aiormq says that a connection or channel is gone into ``LinkLostError``.

    One of them is a ``CancelledError`` that nobody asked for, another a ``StopAsyncIteration`` when the peer
    hangs up during the handshake.
    """
    try:
        yield
    except LinkLostError:
        raise
    except ConnectionInternalError as error:
        raise LinkLostError(
            f"the broker failed inside ({error}), as it may while it starts; its log says why", booting=True
        ) from error
    except ChannelAccessRefused as error:
        raise ForbiddenError(access_trouble(str(error), queue="read") or str(error)) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise LinkLostError("the connection was lost") from None
    except (AMQPError, OSError, RuntimeError, RecursionError, StopAsyncIteration) as error:
        raise LinkLostError(f"{type(error).__name__}: {error}") from error


def connect_error(cause: BaseException, url: URL, farewell: str) -> ConnectError:
    port = url.port or (5671 if url.scheme == "amqps" else 5672)
    where = f"the broker at {url.host}:{port}"
    if not farewell and isinstance(cause, ProbableAuthenticationError | AuthenticationError):
        farewell = "ACCESS_REFUSED"
    if farewell:
        user, vhost = url.user or "guest", url.path.lstrip("/") or "/"
        said = refusal(farewell, where, user=user, vhost=vhost, url="amqp_url")
        return ConnectError(
            said.sentence, permanent=not said.may_pass, booting=farewell.startswith("INTERNAL_ERROR")
        )
    if url.scheme == "amqps":
        if trouble := tls_trouble(cause, where, "cafile"):
            return ConnectError(trouble, permanent=True)
        if trouble := tls_hang_up(cause, where):
            return ConnectError(trouble, permanent=False)
    if isinstance(cause, TimeoutError):
        return ConnectError(f"{where} did not answer within {CONNECT_SECONDS:g} s", permanent=False)
    return ConnectError(unreachable(cause, where, "amqp_url"), permanent=False)
