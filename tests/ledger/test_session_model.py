"""Sessions against a model of them: whatever is done in whatever order, every ledger tells the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID, uuid4

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule, run_state_machine_as_test
from pydantic_core import to_json

from session_contracts import ListSessionsPayload
from session_contracts.types import timestamp
from session_worker.ledger import open_reader
from session_worker.ledger.protocol import Reopened, StepResult
from tests.support.ledger import FINGERPRINT, NO_FILES, completed, entry, failed, released, take, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from session_worker.ledger.protocol import Claim, Ledger
    from session_worker.ledger.reader import Entry

T = TypeVar("T")
Find = Callable[[UUID], Coroutine[Any, Any, "Entry | None"]]
USERS = ("ada", "bob", "eve")
CASEFILES = (None, "cf_261122_one", "cf_261122_two")
A_USER, A_CASEFILE = st.sampled_from(USERS), st.sampled_from(CASEFILES)
WHO = st.one_of(st.none(), st.none(), A_USER)
"""None: whose session it is."""


@dataclass
class Request:
    """A request that has an outcome. ``counts``: so it is for the session that it names."""

    claim: Claim
    creates: bool
    counts: bool = False
    moves: int = 0
    ended_at: datetime | None = None


@dataclass
class Session:
    """A session, and the requests that count for it."""

    claim: Claim
    created_at: datetime
    metadata: dict[str, Any]
    requests: list[Request] = field(default_factory=list)
    closed_at: str | None = None

    def summary(self) -> dict[str, Any]:
        ends = [each.ended_at for each in self.requests if each.ended_at is not None]
        return {
            "session_id": self.claim.session_id,
            "user_id": self.claim.user_id,
            "casefile_id": self.claim.casefile_id,
            "title": self.claim.title,
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(max(ends)),
            "active": self.closed_at is None,
            "request_count": len(self.requests),
        }

    def events(self) -> int:
        return sum(each.moves for each in self.requests)


class Sessions(RuleBasedStateMachine):
    """Requests of three users that create, name, read, list and close sessions, fail and are redriven."""

    ids = Bundle("ids")
    """Those of sessions, and those that were only reserved."""
    failures = Bundle("failures")
    """Requests that can be redriven."""

    def __init__(self, runner: asyncio.Runner, ledger: Ledger, find: Find) -> None:
        super().__init__()
        self._run, self._ledger, self._find = runner.run, ledger, find
        self._suffix = f"-{uuid4().hex}"  # nobody of an earlier run
        self._sessions: dict[str, Session] = {}

    @rule(
        target=ids,
        user=A_USER,
        casefile=A_CASEFILE,
        detours=st.integers(0, 2),
        metadata=st.dictionaries(st.text('aä"\\', max_size=3), st.integers() | st.none(), max_size=2),
    )
    def create(self, user: str, casefile: str | None, detours: int, metadata: dict[str, Any]) -> str:
        request = Request(self._take(user + self._suffix, detours, casefile_id=casefile), creates=True)
        return self._complete(request, metadata)

    @rule(target=ids, user=A_USER, count=st.integers(2, 5))
    def create_together(self, user: str, count: int) -> Any:
        """In one batch, hence at one moment."""
        name = user + self._suffix
        claims = self._run(_all(*(take(self._ledger, user_id=name) for _ in range(count))))
        return multiple(*(self._complete(Request(claim, creates=True), {}) for claim in claims))

    @rule(targets=(ids, failures), user=A_USER)
    def fail_to_create(self, user: str) -> Any:
        request = Request(self._take(user + self._suffix, 0), creates=True)
        self._end(request, failed(request.claim))
        return request

    @rule(session=ids, user=WHO, detours=st.integers(0, 2))
    def name(self, session: str | Request, user: str | None, detours: int) -> None:
        request = self._naming(session, user, detours)
        self._end(request, completed(request.claim, session=None))

    @rule(target=failures, session=ids, user=WHO)
    def name_and_fail(self, session: str | Request, user: str | None) -> Request:
        request = self._naming(session, user, 0)
        self._end(request, failed(request.claim))
        return request

    @rule(names=st.lists(st.tuples(ids, WHO), min_size=2, max_size=6))
    def name_together(self, names: list[tuple[str | Request, str | None]]) -> None:
        requests = [self._naming(session, user, 0) for session, user in names]
        finishes = [completed(each.claim, session=None) for each in requests]
        self._run(_all(*map(self._ledger.finish, finishes)))
        for request in requests:
            self._note(request)

    @rule(request=failures, again=st.booleans())
    def redrive(self, request: Request, again: bool) -> None:
        if self._run(self._ledger.reopen(request.claim.request_id, FINGERPRINT)) is not Reopened.REOPENED:
            assert self._entry(request).status == "completed"
            return
        request.claim = self._again(request.claim)
        if again:
            self._end(request, failed(request.claim))
        elif request.creates:
            self._complete(request, {"redriven": True})
        else:
            self._end(request, completed(request.claim, session=None))

    @rule(session=ids, user=WHO)
    def close(self, session: str | Request, user: str | None) -> None:
        name = self._name(session, user)
        known = self._known(session, name)
        closed = self._run(self._ledger.close_session(_id(session), name))
        if known is None:
            assert closed is None
            return
        assert closed is not None
        known.closed_at = known.closed_at or closed.closed_at
        assert (closed.session_id, closed.closed_at) == (_id(session), known.closed_at)
        assert (closed.total_requests, closed.total_events) == (len(known.requests), known.events())
        assert closed.duration_seconds is not None
        assert closed.duration_seconds >= 0

    @rule(session=ids, user=WHO)
    def get(self, session: str | Request, user: str | None) -> None:
        name = self._name(session, user)
        known = self._known(session, name)
        found = self._run(self._ledger.get_session(_id(session), name))
        assert (found and found.model_dump()) == (
            known and known.summary() | {"event_count": known.events(), "metadata": known.metadata}
        )

    @rule(
        user=A_USER,
        casefile=A_CASEFILE,
        active_only=st.booleans(),
        limit=st.integers(1, 4) | st.just(100),
        offset=st.integers(0, 5),
    )
    def list(self, user: str, casefile: str | None, active_only: bool, limit: int, offset: int) -> None:
        asked = ListSessionsPayload(casefile_id=casefile, active_only=active_only, limit=limit, offset=offset)
        page = self._run(self._ledger.list_sessions(asked, user + self._suffix))
        wanted = [
            each.summary()
            for _, each in sorted(self._sessions.items(), key=lambda item: (item[1].created_at, item[0]))[
                ::-1
            ]
            if each.claim.user_id == user + self._suffix
            and casefile in (None, each.claim.casefile_id)
            and not (active_only and each.closed_at)
        ]
        assert page.model_dump() == {
            "sessions": wanted[offset : offset + limit],
            "total_count": len(wanted),
            "offset": offset,
            "limit": limit,
        }

    def teardown(self) -> None:
        for session_id in self._sessions:
            self.get(session_id, None)

    def _take(self, name: str, detours: int, **changes: Any) -> Claim:
        """Claim a new request, which is handed back a few times."""
        claim: Claim = self._run(take(self._ledger, user_id=name, **changes))
        for _ in range(detours):
            self._run(self._ledger.release(released(claim)))
            claim = self._again(claim)
        return claim

    def _again(self, claim: Claim) -> Claim:
        return replace(claim, token=self._run(take(self._ledger, claim.request_id)).token)

    def _naming(self, session: str | Request, user: str | None, detours: int) -> Request:
        return Request(
            self._take(self._name(session, user), detours, session_id=_id(session), operation="extend"),
            creates=False,
        )

    def _complete(self, request: Request, metadata: dict[str, Any]) -> str:
        """Create the session."""
        claim = request.claim
        self._end(request, completed(claim, session=to_json(metadata).decode()))
        session_id, received_at = claim.session_id or "", self._entry(request).received_at
        self._sessions[session_id] = Session(claim, received_at, metadata, [request])
        return session_id

    def _end(self, request: Request, finish: Any) -> None:
        assert self._run(self._ledger.finish(finish)) is StepResult.APPLIED
        self._note(request)

    def _note(self, request: Request) -> None:
        """Count in the model what the ledger is to count."""
        found = self._entry(request)
        request.moves, request.ended_at = len(found.history), found.finished_at
        session = self._sessions.get(request.claim.session_id or "")
        if (
            session is not None
            and not request.creates
            and not request.counts
            and session.claim.user_id == request.claim.user_id
        ):
            request.counts = True
            session.requests.append(request)

    def _entry(self, request: Request) -> Entry:
        found = self._run(self._find(request.claim.request_id))
        assert found is not None
        return found

    def _known(self, session: str | Request, name: str) -> Session | None:
        known = self._sessions.get(_id(session))
        return known if known is not None and known.claim.user_id == name else None

    def _name(self, session: str | Request, user: str | None) -> str:
        """The full name of a user; None: of whoever a session belongs to, or its id was reserved for."""
        if user is not None:
            return user + self._suffix
        claim = self._sessions[session].claim if isinstance(session, str) else session.claim
        return claim.user_id


def _id(session: str | Request) -> str:
    return session if isinstance(session, str) else session.claim.session_id or ""


async def _all(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*calls)


@asynccontextmanager
async def finder(url: str) -> AsyncIterator[Find]:
    """What finds entries: an open reader, as to open one for each takes long."""
    if url in NO_FILES:
        yield lambda request_id: entry(url, request_id)
        return
    reader = open_reader(url)
    await reader.open()
    try:
        yield reader.get
    finally:
        await reader.close()


@contextmanager
def entered(runner: asyncio.Runner, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    yield runner.run(manager.__aenter__())
    runner.run(manager.__aexit__(None, None, None))


def test_sessions_are_what_a_model_of_them_says(ledger_url: str) -> None:
    with (
        asyncio.Runner() as runner,
        entered(runner, worker(ledger_url)) as ledger,
        entered(runner, finder(ledger_url)) as find,
    ):
        run_state_machine_as_test(
            cast("Any", lambda: Sessions(runner, ledger, find)),
            settings=settings(
                max_examples=25,
                stateful_step_count=25,
                deadline=None,
                phases=[Phase.reuse, Phase.generate],  # to shrink an example takes minutes
                suppress_health_check=list(HealthCheck),
            ),
        )
