"""New session ids, and text made fit to be stored."""

from __future__ import annotations

import secrets
import string
from datetime import UTC, datetime

_BASE36 = string.digits + string.ascii_lowercase
_PAIRS = tuple(first + second for first in _BASE36 for second in _BASE36)
_PAIRS_IN_CODE = 6


def new_session_id(today: datetime | None = None) -> str:
    """``ts_YYMMDD_<12 lower-case base-36 characters>``, the date in UTC."""
    number = secrets.randbelow(len(_PAIRS) ** _PAIRS_IN_CODE)
    code = ""
    for _ in range(_PAIRS_IN_CODE):
        number, pair = divmod(number, len(_PAIRS))
        code += _PAIRS[pair]
    return f"ts_{today or datetime.now(UTC):%y%m%d}_{code}"


def storable(text: str, limit: int = 1000) -> str:
    """Text that every database and JSON can hold: no NUL, no lone surrogate, bounded."""
    return text[:limit].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
