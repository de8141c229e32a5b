"""What it means that a connection to the broker broke, or never came about.

The many ways in which aiormq says so leave this file as one: ``LinkLostError``.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiormq.exceptions import AMQPError, AuthenticationError, ProbableAuthenticationError

from session_client.net.objections import Kind, objection
from session_client.net.trouble import refusal, tls_hang_up, tls_trouble, unreachable, why_lost
from session_worker.messages.errors import LinkLostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yarl import URL

CONNECT_SECONDS = 10.0


class ConnectError(LinkLostError):
    """No connection came about. ``permanent`` when trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool, booting: bool = False) -> None:
        super().__init__(message, booting=booting)
        self.permanent = permanent


class ForbiddenError(LinkLostError):
    """The broker's user lacks a permission; the message says which. Trying again at once cannot help."""

    permanent = True

    def __init__(self, message: str) -> None:
        super().__init__(message, kind=Kind.PERMISSION)


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
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise LinkLostError("the connection was lost") from None
    except (AMQPError, OSError, RuntimeError, RecursionError, StopAsyncIteration) as error:
        raise lost_by(error) from error


def lost_by(error: BaseException | None) -> LinkLostError:
    """The meaning of ``error``, with which a channel or connection was closed."""
    told = objection(str(error), queue="read")
    if told is None:
        return LinkLostError(why_lost(error))
    if told.kind is Kind.PERMISSION:
        return ForbiddenError(told.sentence)
    return LinkLostError(told.sentence, booting=told.kind is Kind.UNAVAILABLE, kind=told.kind)


def port_of(url: URL) -> int:
    return url.port or (5671 if url.scheme == "amqps" else 5672)


def vhost_of(url: URL) -> str:
    return url.path[1:] or "/"


def connect_error(cause: BaseException, url: URL, farewell: str) -> ConnectError:
    where = f"the broker at {url.host}:{port_of(url)}"
    if not farewell and isinstance(cause, ProbableAuthenticationError | AuthenticationError):
        farewell = "ACCESS_REFUSED"
    if farewell:
        user = url.user or "guest"
        said = refusal(farewell, where, user=user, vhost=vhost_of(url), url="amqp_url")
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
