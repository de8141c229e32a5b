"""The commands and the operations of a user's app: with its code at hand, and without."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.conftest import Cli
    from tests.support.worker_process import WorkerProcess

CODE = """
from pathlib import Path

from pydantic import BaseModel, Field

from session_contracts import BaseRequest, Operation
from session_worker.operations.app import App
from session_worker.operations.handler import Context


class ExtendSession(BaseModel):
    minutes: int = Field(gt=0)
    reason: str = "it was asked for"


class SessionExtended(BaseModel):
    minutes: int


app = App()


@app.operation(Operation("extend_session", ExtendSession, SessionExtended), max_attempts=1, retry_delays=[2])
async def extend(request: BaseRequest[ExtendSession], context: Context[None]) -> SessionExtended:
    if not Path("mended").exists():
        raise LookupError("no such calendar")
    return SessionExtended(minutes=request.payload.minutes)
"""
APP = "their_shop:app"
EXTEND = ("send", "--user", "ada@example.com", "--operation", "extend_session")


@pytest.fixture
def shop(
    worker_process: Callable[..., WorkerProcess], amqp_url: str, ledger_url: str, tmp_path: Path
) -> dict[str, str]:
    """A worker that serves the app is up. Where it is."""
    (tmp_path / "their_shop.py").write_text(CODE)
    worker_process(amqp_url=amqp_url, ledger_url=ledger_url, app=APP)
    return {"amqp_url": amqp_url, "ledger_url": ledger_url}


def test_any_operation_is_sent_with_the_apps_models_or_as_raw_json(
    cli: Cli, shop: dict[str, str], tmp_path: Path
) -> None:
    """A payload that breaks a rule is not sent where the models are at hand, else the worker refuses it."""
    (tmp_path / "mended").touch()
    ask = (*EXTEND, "--payload", '{"minutes": 5}')
    for app in ((), ("--app", APP)):
        answered = cli(*ask, *app, **shop)
        assert (answered.code, answered.out.splitlines()[0]) == (0, 'completed  {"minutes":5}')
    wrong = (*EXTEND, "--payload", '{"minutes": 0}')
    unsent, refused = cli(*wrong, "--app", APP, **shop), cli(*wrong, "--json", **shop)
    assert (unsent.code, "payload.minutes: " in unsent.err) == (2, True)
    assert refused.documents[0]["metadata"]["error_code"] == "invalid_request"
    assert "payload.minutes" in refused.documents[0]["error"]


def test_a_request_that_is_asked_again_as_it_says_is_the_same(
    cli: Cli, shop: dict[str, str], tmp_path: Path
) -> None:
    """Also without the app, whose models have defaults: the payload is told as it was sent."""
    (tmp_path / "mended").touch()
    id_ = str(uuid4())
    ask = (*EXTEND, "--request-id", id_, "--payload", '{"minutes": 5}', "--app", APP)
    late = cli(*ask, "--timeout", "0.001", **shop)
    again = late.err.partition("it is not done a second time: session-worker ")[2].strip()
    assert again.startswith(f"send --request-id {id_} --user ada@example.com --operation extend_session ")
    payload = json.loads(again.partition("--payload '")[2].rpartition("'")[0])
    assert payload == {"minutes": 5, "reason": "it was asked for"}
    raw = cli(*EXTEND, "--request-id", id_, "--payload", json.dumps(payload), **shop)
    assert (raw.code, cli(*ask, **shop).code) == (0, 0)
    assert len(cli("requests", "--operation", "extend_session", "--json", **shop).documents) == 1


def test_sessions_are_read_and_closed_and_reads_leave_no_entry(cli: Cli, shop: dict[str, str]) -> None:
    (created,) = cli("send", "--user", "ada", "--title", "East wing", "--json", **shop).documents
    session_id = created["payload"]["session_id"]
    named = ("send", "--user", "ada", "--payload", json.dumps({"session_id": session_id}), "--json")
    (read,) = cli(*named, "--operation", "get_session", **shop).documents
    (closed,) = cli(*named, "--operation", "close_session", **shop).documents
    assert read["payload"]["title"] == "East wing"
    assert closed["payload"]["session_id"] == session_id
    assert cli("status", read["request_id"], **shop).out == "unknown\n"
    (entry,) = cli("status", closed["request_id"], "--json", **shop).documents
    assert entry["operation"] == "close_session"


def test_letters_of_an_app_are_redriven_without_its_code(
    cli: Cli, shop: dict[str, str], tmp_path: Path
) -> None:
    """Where nobody names the app or its operation, only the letters of the built-in ones are looked at."""
    (failed,) = cli(*EXTEND, "--payload", '{"minutes": 5}', "--json", **shop).documents
    only = ("--operation", "extend_session")
    soon(lambda: len(cli("dead", "list", *only, "--json", **shop).documents) == 1)
    assert cli("dead", "list", "--json", **shop).documents == []
    for chosen in (only, ("--app", APP)):
        (letter,) = cli("dead", "list", *chosen, "--json", **shop).documents
        assert (letter["operation"], letter["request_id"]) == ("extend_session", failed["request_id"])
    (group,) = cli("dead", "groups", "--app", APP, "--json", **shop).documents
    assert (group["operation"], group["exception_type"]) == ("extend_session", "LookupError")

    (tmp_path / "mended").touch()
    (tmp_path / "their_shop.py").unlink()
    assert cli("dead", "redrive", *only, "--yes", "--json", **shop).documents[0]["reopened"] == 1
    soon(lambda: cli("status", failed["request_id"], "--json", **shop).documents[0]["status"] == "completed")
    assert cli("dead", "list", *only, "--json", **shop).documents == []


def test_topology_top_doctor_and_schemas_follow_the_app(cli: Cli, shop: dict[str, str]) -> None:
    place = {"amqp_url": shop["amqp_url"]}
    assert cli("topology", "check", "--app", APP, **place).code == 0
    queues = cli("top", "--json", "--app", APP, **shop).documents[0]["queues"]
    assert queues["session.extend_session"] == {"messages": 0, "consumers": 1, "trouble": None}
    assert "session.extend_session.retry.2s" in queues
    checks = {each["name"]: each for each in cli("doctor", "--json", "--app", APP, **shop).documents}
    assert checks["app"]["state"] == checks["queue session.extend_session"]["state"] == "ok"
    assert "1 consumes session.extend_session" in checks["workers"]["found"]
    document = json.loads(cli("schema", "asyncapi", "--app", APP).out)
    assert document["channels"]["extend_session"]["address"] == "extend_session"
    schema = json.loads(cli("schema", "request", "--operation", "extend_session", "--app", APP).out)
    assert "minutes" in json.dumps(schema)


def test_an_app_that_does_not_load_is_one_sentence(cli: Cli, amqp_url: str) -> None:
    for command in ("dead list", "topology check", "top --once", "schema asyncapi"):
        ran = cli(*command.split(), "--app", "nowhere:app", amqp_url=amqp_url)
        assert (ran.code, len(ran.err.splitlines())) == (1, 1)
        assert "module nowhere cannot be imported" in ran.err
