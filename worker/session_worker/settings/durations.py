"""Durations and times of day as people write and read them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from session_client.net.diagnosis import InvalidValueError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(text: str) -> float:
    """Read ``90``, ``90s``, ``15m``, ``1.5h`` or ``7d``; return seconds.

    Raises:
        InvalidValueError: it is none of these.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", text.strip().lower())
    if match is None:
        raise InvalidValueError("is not a time", "write 30s, 15m, 1h or 7d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def text(duration: float) -> str:
    """Write a duration, given in seconds, in the unit that a person would choose."""
    if duration < 1:
        return f"{duration * 1000:.0f} ms"
    if duration < 90:
        return f"{duration:.2f} s"
    if duration < 5400:
        return f"{duration / 60:.1f} min"
    return f"{duration / 3600:.1f} h" if duration < 172_800 else f"{duration / 86_400:.1f} d"


def clock(moment: datetime | str) -> str:
    """Write date and time of day in UTC, as the log does, so that the two can be compared."""
    return f"{_utc(moment):%Y-%m-%d %H:%M:%S} UTC"


def time_of_day(moment: datetime | str, precision: str = "seconds") -> str:
    """Write the time of day in UTC without the zone, for a column whose head names it."""
    return _utc(moment).time().isoformat(precision)


def ago(moment: datetime | str, now: datetime) -> str:
    """Write how long before ``now`` a moment was."""
    return text(max(0.0, (now - _parsed(moment)).total_seconds()))


def _utc(moment: datetime | str) -> datetime:
    return _parsed(moment).astimezone(UTC).replace(tzinfo=None)


def _parsed(moment: datetime | str) -> datetime:
    return datetime.fromisoformat(moment) if isinstance(moment, str) else moment


def spread(durations: list[float]) -> str:
    """Write the median and the 95th and 99th percentile of ``durations`` in seconds."""
    if not durations:
        return "no answer to time"
    return ", ".join(f"p{share} {text(percentile(durations, share))}" for share in (50, 95, 99))


def percentile(durations: list[float], share: int) -> float:
    """Return the smallest duration that at least ``share`` per cent do not exceed."""
    return sorted(durations)[max(0, math.ceil(len(durations) * share / 100) - 1)]
