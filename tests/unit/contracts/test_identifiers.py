"""Identifiers and timestamps: which texts are taken, and as what."""

import re
import time
from datetime import UTC, date, datetime
from typing import Any
from uuid import RFC_4122

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from session_contracts.types import CasefileId, SessionId, Timestamp, UserId, new_request_id, now
from tests.unit.contracts.strategies import CASEFILE_IDS, CODES, SESSION_IDS, TEXT, TIMESTAMPS, USER_IDS

CASEFILE: TypeAdapter[Any] = TypeAdapter(CasefileId)
SESSION: TypeAdapter[Any] = TypeAdapter(SessionId)
USER: TypeAdapter[Any] = TypeAdapter(UserId)
TIME: TypeAdapter[Any] = TypeAdapter(Timestamp)


def takes(adapter: TypeAdapter[Any], text: str) -> bool:
    try:
        adapter.validate_python(text)
    except ValidationError:
        return False
    return True


@given(CASEFILE_IDS)
def test_casefile_ids_are_lower_cased(text: str) -> None:
    assert CASEFILE.validate_python(text) == CASEFILE.validate_python(text.upper()) == text.lower()


@given(SESSION_IDS)
def test_session_ids_are_lower_cased(text: str) -> None:
    assert SESSION.validate_python(text) == SESSION.validate_python(text.upper()) == text.lower()


@given(st.text())
def test_no_other_text_is_an_identifier(text: str) -> None:
    assume(not re.fullmatch(r"(?a:[a-zA-Z]{2}_\d{6}_[a-zA-Z0-9]+)", text))
    assert not takes(CASEFILE, text)
    assert not takes(SESSION, text)


@given(st.from_regex(r"[0-9]{6}", fullmatch=True), CODES)
def test_digits_of_an_identifier_are_a_calendar_day(digits: str, code: str) -> None:
    try:
        date(2000 + int(digits[:2]), int(digits[2:4]), int(digits[4:]))
        is_day = True
    except ValueError:
        is_day = False
    assert takes(CASEFILE, f"cf_{digits}_{code}") is is_day
    assert takes(SESSION, f"ts_{digits}_{code}") is is_day


@pytest.mark.parametrize("year", range(100))
def test_leap_days_exist_in_leap_years_only(year: int) -> None:
    assert takes(CASEFILE, f"cf_{year:02}0229_a") is (year % 4 == 0)


@pytest.mark.parametrize("text", ["cf_251013_abc123", "cf_251013_abc"])
def test_published_casefile_examples_are_taken(text: str) -> None:
    assert takes(CASEFILE, text)


@pytest.mark.parametrize("text", ["ts_251013_tool001", "ts_250920_exec456", "cs_251013_chat001"])
def test_published_session_examples_are_taken(text: str) -> None:
    assert takes(SESSION, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cf_251013_",
        "cf_251013_a b",
        "cf_251013_a\n",
        "cf_251013_a_b",
        " cf_251013_a",
        "cf_20251013_a",
        "cf-251013-a",
        "cf_991399_x",
        "cf_000000_none",
        "cf_٢٥١٠١٣_abc",
        "cf_251013_\u212a",
        "ts_251013_abc",
        "cf_251013_" + "a" * 65,
    ],
)
def test_near_misses_are_no_casefile_ids(text: str) -> None:
    assert not takes(CASEFILE, text)


@given(USER_IDS)
def test_user_without_an_at_sign_is_taken_as_it_is(text: str) -> None:
    assert USER.validate_python(text) == text


@given(
    st.text(TEXT.filter(lambda c: c != "@"), max_size=20),
    st.text(TEXT.filter(lambda c: c != "@"), max_size=20),
)
def test_domain_after_a_single_at_sign_holds_a_dot(name: str, domain: str) -> None:
    text = f"{name}@{domain}"
    assert takes(USER, text) is (len(text) >= 3 and "." in domain)


@given(TIMESTAMPS)
def test_timestamps_are_kept_as_they_are_written(text: str) -> None:
    assert TIME.validate_python(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "2025-10-13T14:30:00Z",
        "2025-10-13T09:15:30+00:00",
        "2025-10-13T09:15:30.123456789-03:30",
        "2025-10-13T09:15:30,5+0100",
        "2025-10-13T09:15+01",
        "2024-02-29T00:00:00",
    ],
)
def test_iso_8601_date_times_are_taken(text: str) -> None:
    assert TIME.validate_python(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2025-10-13",
        "14:30:00Z",
        "1760365800",
        "2025-10-13 14:30:00Z",
        "2025-10-13T14:30:00Z\n",
        "2025-10-13T14:30:00 Z",
        "2025-10-13T14:30:00Zulu",
        "2025-02-29T00:00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-10-13T25:00:00Z",
        "2025-10-13T14:61:00Z",
        "2025-10-13T14:30:00+25:00",
        "0000-01-01T00:00:00Z",
        "٢٠٢٥-10-13T14:30:00Z",
        "2025-10-13T14:30:00." + "0" * 10_000 + "Z",
    ],
)
def test_other_texts_are_no_timestamps(text: str) -> None:
    assert not takes(TIME, text)


def test_our_own_timestamps_are_utc_with_an_offset() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    text = now()
    assert TIME.validate_python(text) == text
    assert text.endswith("+00:00")
    assert before <= datetime.fromisoformat(text) <= datetime.now(UTC)


def test_new_request_ids_are_uuids_of_version_7_in_the_order_of_time() -> None:
    before = time.time_ns() // 1_000_000
    made = new_request_id()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, RFC_4122)
    assert before <= made.int >> 80 <= after


def test_new_request_ids_differ_in_every_bit_that_is_not_prescribed() -> None:
    made = [new_request_id().int for _ in range(2000)]
    random = (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)
    ones = zeros = 0
    for number in made:
        ones, zeros = ones | number, zeros | ~number
    assert len(set(made)) == 2000
    assert ones & random == zeros & random == random
