"""The types of the fields on the wire, each with the rule that a value must follow, in plain words.

pydantic-core checks everything but free-form objects and the calendar of a timestamp. Each type says its rule
itself (``Rule``): the parser's own messages may quote the value, and never reach a requester.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, cast
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

MAX_DEPTH = 16
"""How deep objects and lists may be nested in a free-form object, itself included."""
MAX_VALUES = 1000
"""Values in a free-form object, at all depths together, objects and lists included."""
MAX_KEY = 256
"""Characters in a key of a free-form object, and in an item of a list of strings."""
MAX_TEXT = 16_384
"""Characters in a string of a free-form object."""
MAX_ITEMS = 100
"""Items in a list of strings."""

RULE = "rule"
"""The error type of the messages that are written here. They are safe to show."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Annotation: say ``text`` of any value that is invalid. It never quotes the value."""

    text: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type=RULE, custom_error_message=self.text
        )


# The days of 2000 to 2099 as YYMMDD; February's last only in leap years.
_DAY = (
    r"(?:[0-9]{2}(?:(?:0[13578]|1[02])(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)(?:0[1-9]|[12][0-9]|30)"
    r"|02(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[02468][048]|[13579][26])0229)"
)
_CODE = r"[A-Za-z0-9]{1,64}"
_SESSION_CODE = r"[A-Za-z0-9_]{1,64}"
_NO_NUL = r"^[^\x00]*$"


def _identifier(prefix: str, code: str) -> StringConstraints:
    # pydantic matches the pattern before it lower-cases the text, so the pattern has both cases, in ASCII.
    return StringConstraints(strict=True, to_lower=True, pattern=f"^{prefix}_{_DAY}_{code}$")


CasefileId = Annotated[
    str,
    _identifier("[cC][fF]", _CODE),
    Rule("must look like cf_YYMMDD_code: a calendar day, then 1 to 64 letters or digits"),
]
SessionId = Annotated[
    str,
    _identifier("[tTcC][sS]", _SESSION_CODE),
    Rule(
        "must look like ts_YYMMDD_code or cs_YYMMDD_code: a calendar day, then 1 to 64 letters, digits or "
        "underscores"
    ),
]
UserId = Annotated[
    str,
    # No @; or one @ and a dot after it; or several.
    StringConstraints(
        strict=True,
        min_length=3,
        max_length=320,
        pattern=r"^(?:[^\x00@]*|[^\x00@]*@[^\x00@]*\.[^\x00@]*|[^\x00@]*@[^\x00@]*@[^\x00]*)$",
    ),
    Rule("must be a string of 3 to 320 characters without NUL, with a dot in what follows a single @"),
]
Title = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=200, pattern=_NO_NUL),
    Rule("must be a string of 1 to 200 characters without NUL"),
]
Texts = Annotated[
    list[Annotated[str, StringConstraints(strict=True, max_length=MAX_KEY, pattern=_NO_NUL)]],
    Field(max_length=MAX_ITEMS, fail_fast=True),
    Rule(f"must be a list of at most {MAX_ITEMS} strings of at most {MAX_KEY} characters without NUL"),
]
RequestId = Annotated[UUID, Rule("must be a UUID")]


def _check_calendar(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Timestamp = Annotated[
    str,
    StringConstraints(
        strict=True,
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?"
        r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2}){0,2})?$",
    ),
    AfterValidator(_check_calendar),
    Rule("must be an ISO 8601 date and time, for example 2025-10-13T14:30:00Z"),
]


def new_request_id() -> UUID:
    """Make a UUID of version 7 (RFC 9562): the time in milliseconds, then 74 random bits.

    New requests touch the same few pages of a ledger's index then, however many entries it has.
    """
    random = bytearray(os.urandom(10))
    random[0] = random[0] & 0x0F | 0x70
    random[2] = random[2] & 0x3F | 0x80
    return UUID(bytes=(time.time_ns() // 1_000_000).to_bytes(6, "big") + bytes(random))


def now() -> str:
    """Return the time as the contracts write it."""
    return timestamp(datetime.now(UTC))


def timestamp(moment: datetime) -> str:
    """Return the moment as all our times on the wire: ISO 8601, in UTC, with offset and milliseconds."""
    moment = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")


Path = tuple[str | int, ...]
"""Where a value stands in a JSON document: keys and places in lists, from the outside in."""


def flaw(document: dict[str, Any], *, max_values: int | None = MAX_VALUES) -> tuple[Path, str] | None:
    """Find the first value in a JSON object that is not to be accepted, and the rule that it breaks.

    The search goes level by level, not recursively, because the sender chooses the depth. ``max_values``:
    None is no limit.
    """
    if not document:  # what most requests send
        return None
    level: list[tuple[Path, Any]] = [((), document)]
    seen = 0
    for _ in range(MAX_DEPTH):
        deeper: list[tuple[Path, Any]] = []
        for path, container in level:
            seen += len(container)
            if max_values is not None and seen > max_values:
                return (), f"must not hold more than {max_values} values"
            named = isinstance(container, dict)
            for key, value in container.items() if named else enumerate(container):
                if named and (rule := _flaw_of_key(key)):
                    return path, rule
                if isinstance(value, dict | list | tuple):
                    deeper.append(((*path, key), value))
                elif rule := _flaw_of_scalar(value):
                    return (*path, key), rule
        if not deeper:
            return None
        level = deeper
    return level[0][0][:1], f"must not be nested more than {MAX_DEPTH} deep"


def _flaw_of_key(key: object) -> str:
    return _flaw_of_text(key, MAX_KEY) if isinstance(key, str) else "must hold JSON values only"


def _flaw_of_text(text: str, limit: int) -> str:
    if len(text) > limit:
        return f"must not hold a key of over {MAX_KEY} or a string of over {MAX_TEXT} characters"
    if "\0" in text:
        return "must not hold a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "must not hold half a surrogate pair"
    return ""


def _flaw_of_scalar(value: object) -> str:
    if isinstance(value, str):
        return _flaw_of_text(value, MAX_TEXT)
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**63 else "must not hold a whole number beyond 64 bits"
    if isinstance(value, float):
        return "" if isfinite(value) else "must not hold NaN or an infinite number"
    return "" if value is None else "must hold JSON values only"


def _check_object(value: dict[str, Any]) -> dict[str, Any]:
    found = flaw(value)
    if found is not None:
        raise PydanticCustomError(RULE, cast("Any", found[1]))
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_check_object)]
