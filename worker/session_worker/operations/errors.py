"""The sentence for an app that cannot be served as it is written."""

from __future__ import annotations

from session_client.net.diagnosis import DiagnosedError


class AppError(DiagnosedError):
    """An app, or one of its handlers, cannot be served as it is written."""
