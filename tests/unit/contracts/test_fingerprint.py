"""Two requests are the same request exactly when operation, user and payload are."""

import json
import unicodedata
from hashlib import sha256
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from session_contracts import CreateSessionPayload, CreateSessionRequest, fingerprint
from tests.unit.contracts.strategies import PAYLOADS, REQUESTS, USER_IDS


def request(title: str | None = None, casefile_id: str | None = None) -> CreateSessionRequest:
    payload = CreateSessionPayload(title=title, casefile_id=casefile_id)
    return CreateSessionRequest(user_id="ada@example.com", payload=payload)


@given(REQUESTS, REQUESTS)
def test_only_operation_user_and_payload_count(
    one: CreateSessionRequest, other: CreateSessionRequest
) -> None:
    same = other.model_copy(update={"user_id": one.user_id, "payload": one.payload})
    assert fingerprint(same) == fingerprint(one)


@given(USER_IDS, USER_IDS, PAYLOADS, PAYLOADS)
def test_another_user_or_payload_is_another_request(
    user: str, other_user: str, payload: CreateSessionPayload, other_payload: CreateSessionPayload
) -> None:
    assume((user, payload) != (other_user, other_payload))
    one = CreateSessionRequest(user_id=user, payload=payload)
    other = CreateSessionRequest(user_id=other_user, payload=other_payload)
    assert fingerprint(one) != fingerprint(other)


@given(REQUESTS, st.randoms())
def test_order_of_keys_does_not_count(asked: CreateSessionRequest, random: Any) -> None:
    def shuffled(value: dict[str, Any]) -> dict[str, Any]:
        items = [(key, shuffled(item) if key == "payload" else item) for key, item in value.items()]
        random.shuffle(items)
        return dict(items)

    body = json.dumps(shuffled(asked.model_dump(mode="json")))
    assert fingerprint(CreateSessionRequest.model_validate_json(body)) == fingerprint(asked)


@given(st.text(st.characters(min_codepoint=0xC0, max_codepoint=0x1FF), min_size=1, max_size=50))
def test_unicode_normal_forms_are_kept_apart(title: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, title) for form in ("NFC", "NFD"))
    assume(composed != decomposed)
    assert fingerprint(request(composed)) != fingerprint(request(decomposed))


def test_case_of_an_identifier_does_not_count() -> None:
    assert fingerprint(request(casefile_id="CF_251013_ABC")) == fingerprint(
        request(casefile_id="cf_251013_abc")
    )


def test_null_counts_as_absent() -> None:
    """A payload field added later does not change the fingerprints in a ledger."""
    body = '{"user_id": "ada@example.com", "payload": {"title": null}}'
    canonical = b'{"operation":"create_session","payload":{},"user_id":"ada@example.com"}'
    assert fingerprint(CreateSessionRequest.model_validate_json(body)) == sha256(canonical).digest()


def test_it_is_the_sha_256_of_canonical_json() -> None:
    """Ledgers hold these values for good: another encoding would be a conflict for every request in them."""
    canonical = (
        '{"operation":"create_session","payload":{"casefile_id":"cf_251013_abc","title":"Zoë \u2028\\n"},'
        '"user_id":"ada@example.com"}'
    )
    assert fingerprint(request("Zoë \u2028\n", "cf_251013_abc")) == sha256(canonical.encode()).digest()
