"""Why the broker did not take a message."""

from __future__ import annotations


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
