"""Conformance: the ledger keeps the trace that a request came with, and tells it to whoever asks later."""

from __future__ import annotations

from session_worker.ledger.protocol import Claimed, Finished, Mismatch, NotNow
from tests.support.ledger import FINGERPRINT, a_claim, bury, completed, failed, postponed, take, worker

FIRST = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_first_claims_trace_is_told_to_every_later_one(ledger_url: str) -> None:
    """While it runs, at the next attempt, in a new round and with the answer; to another request never."""
    async with worker(ledger_url) as ledger:
        claim = a_claim(traceparent=FIRST)
        assert await ledger.claim(claim) == await ledger.claim(claim)  # redriven, its answer lost
        again = a_claim(claim.request_id, traceparent=OTHER)
        running = await ledger.claim(again)
        assert isinstance(running, NotNow)
        assert running.traceparent == FIRST
        await ledger.postpone(postponed(claim, 0))
        second = await ledger.claim(again)
        assert isinstance(second, Claimed)
        assert (second.attempt, second.traceparent) == (2, FIRST)
        await ledger.finish(failed(again))
        await ledger.reopen(claim.request_id, FINGERPRINT)
        last = a_claim(claim.request_id)
        redriven = await ledger.claim(last)
        assert isinstance(redriven, Claimed)
        assert redriven.traceparent == FIRST
        await ledger.finish(completed(last))
        finished = await ledger.claim(a_claim(claim.request_id, traceparent=OTHER))
        assert isinstance(finished, Finished)
        assert finished.traceparent == FIRST
        conflict = await ledger.claim(a_claim(claim.request_id, fingerprint=b"\2" * 32))
        assert conflict == Mismatch()


async def test_a_takeover_is_told_the_trace(ledger_url: str) -> None:
    async with worker(ledger_url, "gone") as gone, worker(ledger_url, "other") as other:
        claim = await take(gone, traceparent=FIRST)
        await bury(ledger_url, "gone")
        answer = await other.claim(a_claim(claim.request_id))
        assert isinstance(answer, Claimed)
        assert (answer.crashes, answer.traceparent) == (1, FIRST)


async def test_a_request_without_a_trace_has_none(ledger_url: str) -> None:
    """Also when somebody asks for it who has one: it was not there when the request came."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(completed(claim))
        answer = await ledger.claim(a_claim(claim.request_id, traceparent=OTHER))
        assert isinstance(answer, Finished)
        assert answer.traceparent is None
