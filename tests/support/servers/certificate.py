"""A server's certificate."""

from __future__ import annotations

from typing import NamedTuple


class Certificate(NamedTuple):
    """What a server shows to its clients, and the authority of theirs; each as PEM."""

    cacertfile: str
    certfile: str
    keyfile: str
