"""New session ids, and text that every store takes."""

import json
from datetime import UTC, date, datetime

from hypothesis import given
from hypothesis import strategies as st

from session_contracts import CreateSessionRequest
from session_worker.messages.identifiers import new_session_id, storable


@given(day=st.dates(date(2000, 1, 1), date(2099, 12, 31)))
def test_session_id_names_its_day_and_is_one_the_contract_accepts(day: date) -> None:
    session_id = new_session_id(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    prefix, named, code = session_id.split("_")
    assert (prefix, named) == ("ts", f"{day:%y%m%d}")
    assert len(code) == 15
    assert set(code) <= set("0123456789abcdefghijklmnopqrstuvwxyz")
    accepted = CreateSessionRequest.model_validate(
        {"user_id": "abc", "operation": "create_session", "payload": {}, "session_id": session_id}
    )
    assert accepted.session_id == session_id


@given(seconds=st.lists(st.floats(0, 86_399), min_size=2))
def test_session_ids_of_one_day_sort_by_time_to_two_seconds(seconds: list[float]) -> None:
    ids = [new_session_id(1_800_000_000 // 86_400 * 86_400 + second) for second in seconds]
    for one, first in zip(ids, seconds, strict=True):
        for other, second in zip(ids, seconds, strict=True):
            assert first + 2 > second or one < other


def test_session_ids_do_not_repeat() -> None:
    assert len({new_session_id() for _ in range(10_000)}) == 10_000


def test_session_id_is_of_today_in_utc() -> None:
    before, made, after = datetime.now(UTC), new_session_id(), datetime.now(UTC)
    assert made.split("_")[1] in {f"{before:%y%m%d}", f"{after:%y%m%d}"}


@given(text=st.text(st.characters()), limit=st.integers(0, 50))
def test_storable_text_is_bounded_utf8_without_nul(text: str, limit: int) -> None:
    stored = storable(text, limit)
    assert len(stored) <= limit
    assert "\0" not in stored
    assert json.loads(json.dumps(stored).encode()) == stored
    assert stored.encode().decode() == stored


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=1000))
def test_ordinary_text_is_stored_as_it_is(text: str) -> None:
    assert storable(text) == text
