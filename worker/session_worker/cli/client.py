"""The client that ``send`` and ``demo`` use."""

from __future__ import annotations

import logging

import typer

from session_client import SessionClient


def client_for(amqp_url: str, prefix: str, name: str = "cli") -> SessionClient:
    """A client, not yet open.

    Raises:
        typer.BadParameter: the name does not fit into a queue's. (URL and prefix were checked as settings.)
    """
    # The library reports a broken connection with its whole conversation; the client says it in a sentence.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    try:
        return SessionClient(amqp_url, name=name, prefix=prefix)
    except ValueError as error:
        raise typer.BadParameter(f"{str(error).removeprefix('name: ')}.", param_hint="--name") from None
