"""Which operations a worker serves, with what limits, from which queues."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from session_contracts import BaseRequest, Operation
from session_worker.operations.app import App
from session_worker.operations.binding import Limits
from session_worker.operations.errors import AppError
from session_worker.operations.handler import Context  # noqa: TC001 - the app reads annotations
from session_worker.runtime.served import served_by, topology_of
from tests.support import parts


class Thing(BaseModel):
    name: str = ""


app = App()


@app.operation(Operation("paint", Thing, Thing), timeout=60, concurrency=3, retry_delays=(2, 7))
async def paint(request: BaseRequest[Thing], context: Context[None]) -> Thing:
    return request.payload


@app.operation(Operation("look", Thing, Thing), effects="none")
async def look(request: BaseRequest[Thing], context: Context[None]) -> Thing:
    return request.payload


def test_all_of_an_app_is_served_unless_the_settings_name_some() -> None:
    built_in = ["create_session", "get_session", "list_sessions", "close_session"]
    assert [each.name for each in served_by(parts.worker_settings(), app)] == [*built_in, "paint", "look"]
    some = parts.worker_settings(operations=("look", "close_session"), prefix="till")
    assert [each.names.work for each in served_by(some, app)] == ["till.look", "till.close"]


def test_a_name_that_the_app_has_not_is_told_with_those_that_it_has() -> None:
    with pytest.raises(AppError) as refused:
        served_by(parts.worker_settings(operations=("paint", "piant")), app)
    assert refused.value.what == "operations: there is no operation piant"
    assert "close_session, paint, look" in refused.value.fix


def test_what_an_operation_does_not_state_is_as_the_settings_say() -> None:
    settings = parts.worker_settings(handler_timeout=9.0, max_attempts=4, concurrency=8, retry_delays=(1,))
    limits = {each.name: each.limits for each in served_by(settings, app)}
    assert limits["paint"] == Limits(60, 4, 3, (2, 7))
    assert limits["look"] == Limits(9.0, 4, 8, (1,))


def test_a_time_limit_that_only_the_grace_makes_too_long_is_refused() -> None:
    """The broker would take the request away while it runs."""
    with pytest.raises(AppError, match="operation paint: its timeout") as refused:
        served_by(parts.worker_settings(shutdown_grace=1745.0), app)
    assert "1800 s" in refused.value.what
    assert served_by(parts.worker_settings(shutdown_grace=1745.0, operations=("look",)), app)


def test_each_operation_has_queues_of_its_own_and_reads_have_no_retry_queues() -> None:
    served = served_by(parts.worker_settings(operations=("paint", "look")), app)
    assert [queue.name for queue in topology_of(served).queues] == [
        "session.paint.dead",
        "session.paint.undelivered",
        "session.paint",
        "session.paint.retry.2s",
        "session.paint.retry.7s",
        "session.look.dead",
        "session.look.undelivered",
        "session.look",
        "session.replies",
    ]
