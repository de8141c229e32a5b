"""Conformance: every case of the table of claims, over both databases."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from session_worker.ledger.protocol import Claimed, NotNow
from tests.ledger.claim_rules import RULES, VALUES, Rule
from tests.support.ledger import FINGERPRINT, a_claim, check_moves, entry, sql, worker

if TYPE_CHECKING:
    from session_worker.ledger.protocol import Claim, ClaimAnswer

LIMIT = 3
HISTORIES = {
    "pending": ("pending", "processing", "pending"),
    "processing": ("pending", "processing"),
    "completed": ("pending", "processing", "completed"),
    "failed": ("pending", "processing", "failed"),
}


def test_the_rules_cover_every_case_once() -> None:
    covered = Counter(tuple(case.values()) for rule in RULES for case in rule.cases())
    assert covered == dict.fromkeys(product(*VALUES.values()), 1)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name.replace(" ", "-"))
async def test_a_claim_is_answered_as_the_table_says(ledger_url: str, rule: Rule) -> None:
    """A claim that takes nothing changes nothing; one that takes the entry counts as the table says."""
    async with (
        worker(ledger_url, "grace over", holder_timeout=1000) as old,
        worker(ledger_url, "grace runs", holder_timeout=1000, takeover_grace=500) as new,
        worker(ledger_url, "alive", holder_timeout=1000),
    ):
        ledgers = {"over": old, "runs": new}
        cases = [(case, _claim(case)) for case in rule.cases()]
        await sql(ledger_url, _insert(ledger_url, [_row(case, claim) for case, claim in cases]))
        before = await _states(ledger_url)
        answers = await asyncio.gather(*(ledgers[case["grace"]].claim(claim) for case, claim in cases))
        after = await _states(ledger_url)
        checked = {case["status"]: claim for case, claim in cases}
        for (case, claim), answer in zip(cases, answers, strict=True):
            assert _kind(answer) == rule.answer, case
            was, is_ = before[str(claim.request_id)], after[str(claim.request_id)]
            if not isinstance(answer, Claimed) or case["token"] == "its own":
                assert is_ == was, case
                continue
            assert is_["attempt"] == was["attempt"] + rule.attempts == answer.attempt, case
            assert is_["crashes"] == was["crashes"] + rule.crashes == answer.crashes, case
            assert is_["token"] == str(claim.token), case
            assert is_["status"] == ("pending" if answer.expired else "processing"), case
            assert is_["holder"] == (None if answer.expired else f"grace {case['grace']}"), case
        for claim in checked.values():
            check_moves(await entry(ledger_url, claim.request_id))


def _claim(case: dict[str, str]) -> Claim:
    return a_claim(suspect_after=None if case["crashes"] == "no limit" else LIMIT)


def _row(case: dict[str, str], claim: Claim) -> dict[str, Any]:
    """An entry as ``case`` describes it, beside the ``claim`` that is to come."""
    now = datetime.now(UTC)
    running = case["status"] == "processing"
    holder = f"grace {case['grace']}" if case["holder"] == "me" else case["holder"]
    times = {
        "received_at": now - timedelta(seconds=100),
        "updated_at": now - timedelta(seconds=50),
        "expires_at": now + timedelta(seconds=-10 if case["expired"] == "yes" else 1000),
        "next_attempt_at": now + timedelta(seconds=-20 if case["due"] == "now" else 500),
    }
    history = [
        {
            "status": status,
            "at": times["received_at"].isoformat(),
            "attempt": 1,
            "worker_id": "x",
            "detail": None,
        }
        for status in HISTORIES[case["status"]]
    ]
    return {
        "request_id": str(claim.request_id),
        "status": case["status"],
        "attempt": 1,
        "crashes": LIMIT - running if case["crashes"] == "reached" else 0,
        "token": str(claim.token if case["token"] == "its own" else uuid4()),
        "holder": None if case["status"] == "pending" else holder,
        "fingerprint": FINGERPRINT if case["fingerprint"] == "same" else b"\x02" * 32,
        "session_id": claim.session_id,
        "user_id": claim.user_id,
        "operation": claim.operation,
        **{name: time.isoformat(timespec="microseconds") for name, time in times.items()},
        "history": json.dumps(history),
    }


def _insert(url: str, rows: list[dict[str, Any]]) -> str:
    def literal(value: object) -> str:
        if isinstance(value, bytes):
            return f"x'{value.hex()}'" if url.startswith("sqlite") else f"'\\x{value.hex()}'"
        return "NULL" if value is None else f"'{value}'"

    values = ", ".join(f"({', '.join(map(literal, row.values()))})" for row in rows)
    return f"INSERT INTO requests ({', '.join(rows[0])}) VALUES {values}"


async def _states(url: str) -> dict[str, dict[str, Any]]:
    columns = ("status", "attempt", "crashes", "token", "holder", "updated_at", "history")
    rows = await sql(url, f"SELECT request_id, {', '.join(columns)} FROM requests")
    return {
        str(request_id): dict(zip(columns, (status, attempt, crashes, str(token), *others), strict=True))
        for request_id, status, attempt, crashes, token, *others in rows
    }


def _kind(answer: ClaimAnswer) -> str:
    match answer:
        case Claimed(expired=True):
            return "Claimed expired"
        case NotNow():
            return f"NotNow {'running' if answer.running else 'waiting'}"
        case _:
            return type(answer).__name__
