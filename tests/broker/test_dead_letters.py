"""What operators do with the parking lot: they look, send again, drop."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from session_contracts import CREATE_SESSION, GET_SESSION, ErrorCode, Names, Operation, RequestStatus, amqp
from session_worker.broker.connection import Connection
from session_worker.broker.topology import Topology
from session_worker.ledger import open_ledger
from session_worker.ledger.protocol import Claim, Finish
from session_worker.messages.identifiers import new_session_id
from session_worker.operators import dead_letters
from session_worker.operators.dead_letters import Fate, Filter, ParkingLot, Sender
from session_worker.operators.dead_letters.parking_lot import PAGE
from session_worker.operators.operations import AnyObject
from session_worker.settings import load
from tests.faults.crashing_redrive import STEPS
from tests.support.lab import ROOT, answer, code_of, request
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.lab import Lab
    from tests.support.requester import Requester

DEAD = "session.create.dead"
ALL = Filter()
EXTEND = Operation("extend_session", AnyObject, AnyObject)


@asynccontextmanager
async def parking_lot(lab: Lab, *operations: Operation[Any, Any]) -> AsyncIterator[ParkingLot]:
    async with ParkingLot.open(load(amqp_url=lab.url), operations or [CREATE_SESSION]) as lot:
        yield lot


def look(
    lab: Lab, wanted: Filter = ALL, limit: int | None = None, *operations: Operation[Any, Any]
) -> list[dict[str, Any]]:
    """The letters as documents, whole."""

    async def work() -> list[dict[str, Any]]:
        async with parking_lot(lab, *operations) as lot:
            pages = [page async for page in lot.matching(wanted, limit)]
        return [letter.document(whole=True) for page in pages for letter in page]

    return asyncio.run(work())


def redrive(
    lab: Lab,
    wanted: Filter = ALL,
    limit: int | None = None,
    *operations: Operation[Any, Any],
    unknown: bool = False,
) -> Counter[Fate]:
    async def work() -> Counter[Fate]:
        ledger = open_ledger(lab.ledger_url, worker_id=f"operator-{uuid4()}", holder_timeout=15)
        await ledger.open()
        try:
            async with Sender.open(load(amqp_url=lab.url)) as sender, parking_lot(lab, *operations) as lot:
                redriving = dead_letters.redrive(
                    lot, wanted, limit, ledger=ledger, sender=sender, unknown=unknown
                )
                return Counter([fate async for fate in redriving])
        finally:
            await ledger.close()

    return asyncio.run(work())


def finish(lab: Lab) -> Counter[Fate]:
    """Redrive until nothing is left: the broker may still be about to give back what a killed one held."""
    fates: Counter[Fate] = Counter()

    def empty() -> bool:
        fates.update(redrive(lab))
        return lab.depth(DEAD) == 0

    soon(empty)
    return fates


def bug(lab: Lab) -> Path:
    """A defect of the handler's that is there until its file is gone."""
    file = lab.folder / f"bug-{uuid4().hex}"
    file.touch()
    return file


def fail(lab: Lab, requester: Requester, count: int, **script: Any) -> list[str]:
    """Requests that fail and are parked, in no certain order; their ids."""
    ids = [str(uuid4()) for _ in range(count)]
    before = len(requester.replies)
    parked = lab.depth(DEAD)
    for id_ in ids:
        requester.send(request(id_, **script))
    for reply in requester.collect(before + count, 60)[before:]:
        assert code_of(reply) == "handler_failed"
    lab.holds(DEAD, parked + count)
    return ids


def answers(requester: Requester) -> dict[str, set[bytes]]:
    """The distinct answers `completed` by request id."""
    requester.process(0.05)
    found: dict[str, set[bytes]] = {}
    for reply in requester.replies:
        if code_of(reply) is None:
            found.setdefault(answer(reply)["request_id"], set()).add(reply.body)
    return found


def completed(requester: Requester, ids: list[str], deadline: float = 30.0) -> None:
    """Wait until each of `ids` is answered `completed`, always by the same bytes."""
    soon(lambda: set(ids) <= set(answers(requester)), deadline)
    assert all(len(bodies) == 1 for bodies in answers(requester).values())


def test_a_replayed_request_gets_a_new_round_and_its_requester_a_new_answer(lab_on_each_ledger: Lab) -> None:
    """It goes to the queue and the correlation id of the one who asked; to ask again gets the new answer."""
    lab = lab_on_each_ledger
    lab.worker(max_attempts=2)
    defect = bug(lab)
    request_id = str(uuid4())
    with lab.requester() as requester:
        body = request(request_id, bug=str(defect))
        assert code_of(requester.ask(body, correlation_id="first", headers={"traceparent": "00-a-b-01"})) == (
            "handler_failed"
        )
        lab.holds(DEAD, 1)
        defect.unlink()
        assert redrive(lab) == {Fate.REOPENED: 1}
        new = requester.collect(2)[1]
        assert (code_of(new), new.properties.correlation_id) == (None, "first")
        assert not new.headers.get("x-idempotent-replayed")
        again = requester.ask(body)
        assert again.body == new.body
        assert again.headers["x-idempotent-replayed"]
    entry = lab.entry(request_id)
    assert (entry.status, entry.attempt) == (RequestStatus.COMPLETED, 1)
    assert [move["detail"] for move in entry.history].count("redriven by an operator") == 1
    assert answer(new)["payload"]["session_id"] == entry.session_id
    assert lab.sessions() == 1
    lab.quiet()


def test_a_request_that_fails_again_is_parked_once_and_the_redrive_ends(lab: Lab) -> None:
    """More letters than a page. Those parked anew while it runs stay outside it, and count redrives."""
    lab.worker(max_attempts=1)
    defect = bug(lab)
    with lab.requester() as requester:
        ids = fail(lab, requester, PAGE + 20, bug=str(defect))
        for count in (1, 2):
            assert redrive(lab) == {Fate.REOPENED: len(ids)}
            lab.quiet(DEAD)
            soon(lambda: len(look(lab)) == len(ids))
            parked = look(lab)
            assert sorted(letter["request_id"] for letter in parked) == sorted(ids)
            assert {letter["redrives"] for letter in parked} == {count}
        defect.unlink()
        assert redrive(lab) == {Fate.REOPENED: len(ids)}
        completed(requester, ids)
    lab.quiet()
    assert lab.sessions() == len(ids)
    assert set(lab.runs().values()) == {4}


def test_looking_a_hundred_times_changes_nothing(lab: Lab) -> None:
    """Neither the letters nor their order, nor what a redrive does; the queue has no limit to wear out."""
    lab.worker(max_attempts=1)
    defect = bug(lab)
    with lab.requester() as requester:
        ids = fail(lab, requester, 3, bug=str(defect))
        first = look(lab)
        assert {letter["request_id"] for letter in first} == set(ids)
        for number in range(100):
            # Also in part, as who looks for one letter does.
            assert look(lab, limit=1 + number % 3) == first[: 1 + number % 3]
        lab.holds(DEAD, 3)
        assert look(lab) == first
        defect.unlink()
        assert redrive(lab) == {Fate.REOPENED: 3}
        completed(requester, ids)


def test_letters_that_are_parked_while_one_reads_stay_outside_and_all_are_given_back(lab: Lab) -> None:
    """Who reads holds what was there when he began: others see the new ones alone."""
    lab.worker(max_attempts=1)

    async def work(requester: Requester) -> None:
        async with parking_lot(lab) as lot:
            assert lot.count == PAGE + 1
            pages = lot.pages()
            first = await anext(pages)
            new = await asyncio.to_thread(_park_one_more, requester)
            async with parking_lot(lab) as other:
                assert other.count == 2
            rest = [letter async for page in pages for letter in page]
        found = {str(letter.request_id) for letter in [*first, *rest]}
        assert found == set(ids)
        assert new not in found

    def _park_one_more(requester: Requester) -> str:
        id_ = str(uuid4())
        assert code_of(requester.ask(request(id_, fails=9))) == "handler_failed"
        lab.holds(DEAD, PAGE + 2)
        return id_

    with lab.requester() as requester:
        ids = fail(lab, requester, PAGE + 1, fails=9)
        asyncio.run(work(requester))
    lab.holds(DEAD, PAGE + 2)


def test_one_of_two_readers_ends_although_the_other_holds_the_letters(lab: Lab) -> None:
    """What was counted is gone when it asks for it."""
    lab.declare()
    with lab.requester() as requester:
        for _ in range(3):
            requester.send(b"a letter", routing_key=DEAD)

    async def work() -> int:
        async with parking_lot(lab) as one, parking_lot(lab) as two:
            assert (one.count, two.count) == (3, 3)
            held = [page async for page in one.pages()]
            return sum([len(page) async for page in two.pages()]) + 10 * sum(map(len, held))

    assert asyncio.run(work()) == 30


def test_the_filters_find_what_they_say(lab: Lab) -> None:
    """By code, exception, user, age and id; and the groups count what there is."""
    lab.worker(max_attempts=1)
    defect = bug(lab)
    with lab.requester() as requester:
        buggy = fail(lab, requester, 3, bug=str(defect))
        broken = fail(lab, requester, 2, fails=9)
        grace = str(uuid4())
        body = request(grace, fails=9).replace(b"ada@", b"grace@")
        assert code_of(requester.ask(body)) == "handler_failed"
        requester.send(b"{garbage")
        lab.holds(DEAD, 7)

    def found(**wanted: Any) -> list[str]:
        return [letter["request_id"] for letter in look(lab, Filter(**wanted))]

    now = datetime.now(UTC)
    assert sorted(found(exception="BugError")) == sorted(buggy)
    assert sorted(found(code="handler_failed")) == sorted([*buggy, *broken, grace])
    assert found(user="grace@example.com") == [grace]
    assert found(since=now - timedelta(hours=1)) == found()
    assert found(since=now + timedelta(hours=1)) == []
    assert found(letter=UUID(broken[1])) == [broken[1]]
    [garbage] = look(lab, Filter(code="unreadable"))
    assert (garbage["request_id"], garbage["body"]) == (None, "{garbage")
    assert look(lab, Filter(letter=UUID(garbage["letter_id"]))) == [garbage]

    async def grouped() -> list[dead_letters.Group]:
        async with parking_lot(lab) as lot:
            return await dead_letters.groups(lot, ALL)

    groups = asyncio.run(grouped())
    assert {(group.code, group.exception_type): group.count for group in groups} == {
        ("handler_failed", "BugError"): 3,
        ("handler_failed", "RuntimeError"): 3,
        ("unreadable", None): 1,
    }
    newest = next(group for group in groups if group.exception_type == "BugError")
    assert str(newest.example) == found(exception="BugError")[-1]
    assert newest.message.endswith("BugError: the bug")
    assert newest.first is not None
    assert newest.last is not None
    assert newest.first <= newest.last


def test_a_purge_drops_what_is_wanted_and_nothing_else(lab: Lab) -> None:
    lab.worker(max_attempts=1)
    with lab.requester() as requester:
        fail(lab, requester, 5, fails=9)
        ids = [letter["request_id"] for letter in look(lab)]
        assert code_of(requester.ask(b"{garbage")) == "unreadable"
        lab.holds(DEAD, 6)

    async def purge(wanted: Filter, limit: int | None = None) -> int:
        async with parking_lot(lab) as lot:
            return await lot.purge(wanted, limit)

    assert asyncio.run(purge(Filter(code="unreadable"))) == 1
    assert asyncio.run(purge(Filter(letter=UUID(ids[2])))) == 1
    assert asyncio.run(purge(ALL, 2)) == 2
    assert [letter["request_id"] for letter in look(lab)] == ids[3:]
    assert {entry.status for entry in lab.entries(ids)} == {RequestStatus.FAILED}


def test_the_letter_of_a_refused_request_reopens_nothing(lab: Lab) -> None:
    """A conflict goes through the flow and is refused once more; the entry of the other request with its id,
    which failed too, is not touched."""
    lab.worker(max_attempts=1)
    request_id = str(uuid4())
    with lab.requester() as requester:
        assert code_of(requester.ask(request(request_id, fails=9))) == "handler_failed"
        assert code_of(requester.ask(request(request_id, title="another"))) == "idempotency_conflict"
        lab.holds(DEAD, 2)
        lab.noted(request_id, "sent")
        before = lab.entry(request_id)
        assert redrive(lab, Filter(code="idempotency_conflict")) == {Fate.RESENT: 1}
        assert code_of(requester.collect(3)[2]) == "idempotency_conflict"
        lab.holds(DEAD, 2)
    assert lab.entry(request_id) == before
    assert [letter["redrives"] for letter in look(lab)] == [0, 1]


def test_a_letter_refused_for_a_setting_completes_once_that_is_changed(lab: Lab) -> None:
    """The answer goes to the address that was forbidden; and a letter without any id still has none."""
    strict = lab.worker(reply_to_allow="nobody")
    request_id = str(uuid4())
    with lab.requester() as requester:
        requester.send(request(request_id), correlation_id="x")
        requester.send(b'{"user_id": "ada@example.com", "operation": "create_session", "payload": {}}')
        assert {code_of(reply) for reply in lab.take("session.replies")} == {"reply_to_forbidden"}
        lab.holds(DEAD, 2)
        strict.terminate()
        strict.wait()
        lab.worker()
        assert redrive(lab) == {Fate.RESENT: 2}
        completed(requester, [request_id])
        lab.holds(DEAD, 1)
    [letter] = look(lab)
    assert (letter["error_code"], letter["request_id"]) == ("missing_request_id", None)
    assert lab.sessions() == 1


def test_a_letter_that_cannot_be_redriven_stays_and_is_counted(lab: Lab) -> None:
    """A cut body; a request that the ledger does not know any more; an id that is another's by now."""
    lab.worker(max_attempts=1)
    defect = bug(lab)
    with lab.requester() as requester:
        pruned, taken = fail(lab, requester, 2, bug=str(defect))
        assert code_of(requester.ask(b"{" + b"x" * 10_000)) == "unreadable"
        lab.holds(DEAD, 3)
        with closing(sqlite3.connect(lab.ledger_url.removeprefix("sqlite:///"))) as ledger, ledger:
            ledger.execute("DELETE FROM requests WHERE request_id = ?", (pruned,))
            ledger.execute("UPDATE requests SET fingerprint = x'00' WHERE request_id = ?", (taken,))
        defect.unlink()
        before = look(lab)
        assert redrive(lab) == {Fate.CUT: 1, Fate.UNKNOWN: 1, Fate.CONFLICT: 1}
        assert look(lab) == before
        assert redrive(lab, Filter(letter=UUID(pruned)), unknown=True) == {Fate.RESENT: 1}
        completed(requester, [pruned])
    assert lab.entry(taken).status is RequestStatus.FAILED
    assert [letter["redrive"] for letter in look(lab)] == ["reopened", "cut"]


def test_letters_that_the_broker_parked_itself_are_letters_too(lab: Lab) -> None:
    """They have no code of ours. Replayed, they are what they were: requests."""
    lab.declare()
    request_id = str(uuid4())
    with lab.requester() as requester:
        headers = {"x-death": "forged", "x-attempts": -1, "x-redrive-count": 2**62, "x-failed-at": "whenever"}
        requester.send(request(request_id), routing_key=DEAD, headers=headers)
        [letter] = look(lab)
        assert (letter["error_code"], letter["request_id"], letter["redrive"]) == (None, None, "resent")
        lab.worker()
        assert redrive(lab) == {Fate.RESENT: 1}
        completed(requester, [request_id])


def test_a_copy_that_is_sent_twice_is_done_once(lab: Lab) -> None:
    """No worker is up: killed before it dropped the letters, the redrive sends second copies."""
    defect = bug(lab)
    first = lab.worker(max_attempts=1)
    with lab.requester() as requester:
        ids = fail(lab, requester, 4, bug=str(defect))
        first.terminate()
        first.wait()
        assert crash(lab, "sent", 4) == -signal.SIGKILL
        lab.holds(DEAD, 4)
        assert {entry.status for entry in lab.entries(ids)} == {RequestStatus.PENDING}
        assert finish(lab) == {Fate.RESENT: 4}
        defect.unlink()
        lab.worker(max_attempts=1)
        completed(requester, ids)
        lab.quiet()
    assert lab.sessions() == 4
    assert set(lab.runs().values()) == {2}


def test_a_redrive_killed_at_any_step_can_be_run_again(lab_on_each_ledger: Lab) -> None:
    """kill -9 at the third of five letters: none is lost, none is done twice, each has one answer."""
    lab = lab_on_each_ledger
    lab.worker(max_attempts=1)
    every: list[str] = []
    with lab.requester() as requester:
        for step in STEPS:
            defect = bug(lab)
            ids = fail(lab, requester, 5, bug=str(defect))
            defect.unlink()
            assert crash(lab, step, 3) == -signal.SIGKILL, step
            assert finish(lab).keys() <= {Fate.REOPENED, Fate.RESENT}, step
            completed(requester, ids)
            lab.quiet()
            every += ids
    assert lab.sessions() == len(every)
    assert lab.runs() == dict.fromkeys(every, 2)


def test_a_thousand_letters_are_redriven_by_one_command_that_is_killed_half_way(lab: Lab) -> None:
    """Every requester gets its new answer, and there is one session for each request."""
    lab.worker(max_attempts=1)
    defect = bug(lab)
    with lab.requester() as requester:
        ids = fail(lab, requester, 1000, bug=str(defect))
        defect.unlink()
        assert crash(lab, "confirmed", 500) == -signal.SIGKILL
        assert 500 <= finish(lab).total() <= 600
        completed(requester, ids, 60)
        lab.quiet()
    assert lab.sessions() == 1000
    assert set(lab.runs().values()) == {2}


@pytest.mark.parametrize("size", [1, 200_000])
def test_a_letter_keeps_its_body_whole(lab: Lab, size: int) -> None:
    """However many frames it takes."""
    lab.worker(max_attempts=1)
    request_id = str(uuid4())
    body = request(request_id, fails=9, padding=["x" * 1000] * (size // 1000))
    with lab.requester() as requester:
        assert code_of(requester.ask(body)) == ErrorCode.HANDLER_FAILED
        lab.holds(DEAD, 1)
    [letter] = look(lab)
    assert (letter["body"].encode(), letter["body_bytes"]) == (body, len(body))


def test_letters_of_each_operation_go_back_to_its_own_queue(lab_on_each_ledger: Lab) -> None:
    """One command for all: the operation is that of the queue, and one without queues has no letters."""
    lab = lab_on_each_ledger
    lab.declare()
    asyncio.run(_declare(lab, EXTEND))
    extended = str(uuid4())
    asked = {"request_id": extended, "user_id": "ada@example.com", "payload": {"minutes": 5}}
    body = json.dumps(asked).encode()
    asyncio.run(_fail_at_once(lab, EXTEND, body))
    claimed = {amqp.REQUEST_ID: extended, amqp.ERROR_CODE: "handler_failed", amqp.ATTEMPTS: 6}
    with lab.requester() as requester:
        requester.send(create := request(), routing_key=DEAD)
        requester.send(body, routing_key="session.extend_session.dead", headers=claimed)
    every = (CREATE_SESSION, GET_SESSION, EXTEND)

    letters = look(lab, ALL, None, *every)
    assert [(letter["operation"], letter["request_id"]) for letter in letters] == [
        ("create_session", None),
        ("extend_session", extended),
    ]
    assert look(lab, ALL, None, EXTEND) == letters[1:]
    assert redrive(lab, ALL, None, *every) == {Fate.RESENT: 1, Fate.REOPENED: 1}
    assert lab.take("session.create")[0].body == create
    assert lab.take("session.extend_session")[0].body == body
    assert lab.entry(extended).status is RequestStatus.PENDING
    assert look(lab, ALL, None, *every) == []


async def _declare(lab: Lab, operation: Operation[Any, Any]) -> None:
    connection = await Connection.open([lab.url], "test")
    await Topology.of(Names().of(operation.key), (1,)).apply(connection)
    await connection.close()


async def _fail_at_once(lab: Lab, operation: Operation[Any, Any], body: bytes) -> None:
    """Have the ledger keep a request that has failed, as a worker would."""
    asked, fingerprint = operation.read(body)
    token = uuid4()
    ledger = open_ledger(lab.ledger_url, worker_id="one", holder_timeout=15)
    await ledger.open()
    await ledger.claim(
        Claim(asked.request_id, fingerprint, token, new_session_id(), asked.user_id, operation.name)
    )
    code = ErrorCode.HANDLER_FAILED
    await ledger.finish(Finish(asked.request_id, token, RequestStatus.FAILED, b"{}", code, "it failed"))
    await ledger.close()


def crash(lab: Lab, step: str, count: int) -> int:
    """The exit code of a redrive that kills itself at a step of its `count`th letter."""
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.crashing_redrive", "--at", step, "--count", str(count)],
        env={
            "PYTHONPATH": str(ROOT),
            "SESSION_WORKER_AMQP_URL": lab.url,
            "SESSION_WORKER_LEDGER_URL": lab.ledger_url,
        },
        cwd=lab.folder,
        timeout=60,
        check=False,
    ).returncode
