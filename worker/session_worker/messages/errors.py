"""What can go wrong between the worker and the broker, as those say it who settle deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from session_client.net.objections import Kind


class LinkLostError(Exception):
    """The connection or a channel it cannot do without is gone. ``booting``: the broker failed inside, as it
    does while it starts. ``kind``: that of the broker's objection, if it had one."""

    def __init__(self, message: str, *, booting: bool = False, kind: Kind | None = None) -> None:
        super().__init__(message)
        self.booting = booting
        self.kind = kind


class PublishError(Exception):
    """The broker did not take a message; the text says why."""


class UnroutableError(PublishError):
    """No queue has that name."""


class NackedError(PublishError):
    """The queue did not take it, for example because it is full."""


class UnconfirmedError(PublishError):
    """No confirm came in time: the message may or may not have arrived."""


class NotConnectedError(PublishError):
    """There is no connection to send it by, and none came about for a good while."""


class UnsendableError(PublishError):
    """It can never be sent as it is: it cannot be encoded, or the broker closes the channel over it."""


class TooLongError(UnsendableError):
    """Its properties take ``excess`` bytes more than fit into a frame of this connection, the one that cannot
    be split."""

    def __init__(self, reason: str, excess: int) -> None:
        super().__init__(reason)
        self.excess = excess
