"""A message: what is published, or was read off the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Properties:
    """The properties of a message that matter to us. ``timestamp`` is in seconds since 1970. ``illegible``
    names one that is needed and could not be decoded; it is None here."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = None
    persistent: bool = False
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    illegible: str = ""


@immutable
class Message:
    """What is published, always to the default exchange: the routing key is the queue's name."""

    queue: str
    body: bytes
    properties: Properties
    mandatory: bool = True
