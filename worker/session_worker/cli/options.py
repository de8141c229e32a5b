"""The values of options, checked before anything is opened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer

from session_contracts.errors import ErrorCode
from session_worker.operators import operations as of_installation
from session_worker.settings import durations

if TYPE_CHECKING:
    from session_contracts import Operation
    from session_worker.settings import Settings


def duration(text: str | None, option: str) -> float | None:
    """Seconds. Raises typer.BadParameter."""
    try:
        return durations.seconds(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint=option) from None


def since(text: str | None) -> datetime | None:
    """When a duration of that length began. Raises typer.BadParameter."""
    seconds = duration(text, "--since")
    try:
        return None if seconds is None else datetime.now(UTC) - timedelta(seconds=seconds)
    except OverflowError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--since") from None


def error_code(text: str | None) -> str | None:
    """Raises typer.BadParameter unless it is one of the contract's."""
    if text is not None and text not in set(ErrorCode):
        raise typer.BadParameter(f"it is one of {', '.join(ErrorCode)}.", param_hint="--code")
    return text


def operations(loaded: Settings, only: str | None) -> tuple[Operation[Any, Any], ...]:
    """See ``operators/operations.py``. Raises typer.BadParameter, AppError."""
    try:
        return of_installation.operations(loaded, only)
    except ValueError as error:
        sentence = str(error).partition(": ")[2]
        raise typer.BadParameter(f"{sentence}.", param_hint="--operation") from None


def uuid(text: str, option: str, otherwise: str) -> UUID:
    """Raises typer.BadParameter, which says ``otherwise``."""
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(otherwise, param_hint=option) from None
