"""The errors of a connection to a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_client.net.close_reasons import Kind
from session_client.net.diagnosis import DiagnosedError

if TYPE_CHECKING:
    from session_client.net.diagnosis import Diagnosis


class LinkLostError(DiagnosedError):
    """A connection, or a channel it cannot do without, is gone or was not built.

    ``kind``: that of the broker's reason, if it gave one. ``permanent``: trying again cannot help. Whether a
    publish under way arrived is unknown.
    """

    def __init__(
        self,
        what: Diagnosis | str,
        fix: str = "",
        *,
        kind: Kind | None = None,
        permanent: bool = False,
    ) -> None:
        super().__init__(what, fix)
        self.kind = kind
        self.permanent = permanent


class ConnectError(LinkLostError):
    """No connection came about."""


class ForbiddenError(LinkLostError):
    """The broker's user lacks a permission; the message says which."""

    def __init__(self, what: Diagnosis | str, fix: str = "") -> None:
        super().__init__(what, fix, kind=Kind.PERMISSION, permanent=True)
