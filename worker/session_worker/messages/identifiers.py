"""Random ids, new session ids, and text made fit to be stored."""

from __future__ import annotations

import os
import string
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterator

_BASE36 = string.digits + string.ascii_lowercase
_PAIRS = tuple(first + second for first in _BASE36 for second in _BASE36)
_PAIRS_IN_CODE = 6
_MOMENTS = 36**3
"""Into which a day is divided, each less than two seconds."""
_DRAWN_TOGETHER = 256


def _draw() -> Iterator[bytes]:
    """Give sixteen random bytes each time. To ask the system for each would cost more than all their uses."""
    while True:
        drawn = os.urandom(16 * _DRAWN_TOGETHER)
        for start in range(0, len(drawn), 16):
            yield drawn[start : start + 16]


_random = _draw().__next__


def new_token() -> UUID:
    return UUID(bytes=_random())


def new_message_id() -> str:
    """Return a random UUID, as text."""
    digits = _random().hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def new_trace_id() -> str:
    return _random().hex()


def new_span_id() -> str:
    return _random()[:8].hex()


def new_session_id(now: float | None = None) -> str:
    """Return ``ts_YYMMDD_<15 lower-case base-36 characters>``, the date in UTC. ``now`` is in seconds since
    1970.

    Three characters are the time of day, so that new ids lie side by side in an index; twelve are random.
    """
    number = int.from_bytes(_random(), "big")
    code = ""
    for _ in range(_PAIRS_IN_CODE):
        number, pair = divmod(number, len(_PAIRS))
        code += _PAIRS[pair]
    return _moment(int((time.time() if now is None else now) * _MOMENTS // 86_400)) + code


@lru_cache(maxsize=2)
def _moment(number: int) -> str:
    day, moment = divmod(number, _MOMENTS)
    time_of_day = _BASE36[moment // 1296] + _PAIRS[moment % 1296]
    return f"ts_{datetime.fromtimestamp(day * 86_400, UTC):%y%m%d}_{time_of_day}"


def storable(text: str, limit: int = 1000) -> str:
    """Return text that every database and JSON can hold: no NUL, no lone surrogate, ``limit`` characters."""
    if text.isascii() and "\0" not in text:
        return text[:limit]
    return text[:limit].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
