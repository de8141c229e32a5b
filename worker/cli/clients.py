"""The client that ``send`` and ``demo`` use."""

from __future__ import annotations

import logging

import typer

from client import SessionClient


def client_for(amqp_url: str, prefix: str) -> SessionClient:
    """A client, not yet open.

    Raises:
        typer.BadParameter: the URL is none.
    """
    # The library reports a broken connection with its whole conversation; the client says it in a sentence.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    try:
        return SessionClient(amqp_url, name="cli", prefix=prefix)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--amqp-url / SESSION_WORKER_AMQP_URL") from None
