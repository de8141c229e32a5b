"""One worker serves several operations: none of them waits for another, and they share their resources."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.broker.test_worker_lifetime import last_words
from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.lab import Lab
    from tests.support.ops import Ops
    from tests.support.requester import RawReply
    from tests.support.worker_process import WorkerProcess

APP = "tests.support.apps.shop:app"
BUILT_IN = ("create_session", "get_session", "list_sessions", "close_session")


class Shop:
    """A lab whose workers serve the app, and what the app wrote down."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self._notes = folder / "notes"
        self._wrong = folder / "wrong"

    def worker(self, **settings: Any) -> WorkerProcess:
        env = {"TEST_NOTES": str(self._notes), "TEST_LIFESPAN": str(self._wrong)}
        return self.lab.worker(env=env, handler="off", **{"app": APP, **settings})

    def go_wrong(self, where: str) -> None:
        """Have the lifespan fail there from now on; see the app."""
        self._wrong.write_text(where)

    def send(self, operation: str, count: int = 1, **payload: object) -> list[str]:
        """Requests that are answered on the default reply queue; their ids."""
        request_ids = [str(uuid4()) for _ in range(count)]
        with self.lab.requester() as requester:
            for request_id in request_ids:
                body = {
                    "request_id": request_id,
                    "user_id": "ada@example.com",
                    "operation": operation,
                    "payload": payload,
                }
                key = f"session.{operation}"
                requester.send(json.dumps(body).encode(), routing_key=key, reply_to=None)
        return request_ids

    def notes(self, what: str) -> list[int]:
        """The processes that wrote this down, once for each time."""
        if not self._notes.exists():
            return []
        lines = (line.split(" ", 1) for line in self._notes.read_text().splitlines())
        return [int(pid) for pid, said in lines if said == what]

    def running(self, operation: str, count: int) -> None:
        soon(lambda: len(self.notes(f"{operation} 1")) >= count, 30)


@pytest.fixture
def shop(lab: Lab, tmp_path: Path) -> Shop:
    return Shop(lab, tmp_path)


def receipts(replies: list[RawReply]) -> list[dict[str, Any]]:
    """The payloads of answers, all of which are completed."""
    bodies = [json.loads(reply.body) for reply in replies]
    assert {body["status"] for body in bodies} == {"completed"}, bodies
    return [body["payload"] for body in bodies]


# ------------------------------------------------------------------------------------------ side by side


def test_a_slow_operation_holds_no_other(shop: Shop) -> None:
    """Its slots and its prefetch are full and more of it waits; hundreds of others are answered meanwhile."""
    shop.worker()
    slow = shop.send("order", 12, gate=str(shop.lab.gate))
    shop.running("order", 4)
    others = shop.send("look", 200) + shop.send("pack", 20)
    receipts(shop.lab.take("session.replies", len(others), 60))
    assert len(shop.notes("order 1")) == 4, "not one of the slow ones had ended"
    shop.lab.open_gate()
    receipts(shop.lab.take("session.replies", len(slow), 30))
    shop.lab.quiet()


def test_an_operation_without_a_thread_pauses_alone(shop: Shop, ops: Ops) -> None:
    """Its calls outlive their attempts; the worker says of which operation, and goes on with the others."""
    worker = shop.worker(ops_port=ops.port)
    stuck = shop.send("pack", 2, gate=str(shop.lab.gate))
    assert worker.wait_for("consuming paused")["operation"] == "pack"
    soon(lambda: ops.red().get("consumer", "").startswith("pack paused: "), 20)
    assert "order" not in ops.red()["consumer"]
    waiting = shop.send("pack", 3)
    others = shop.send("order", 20) + shop.send("look", 20)
    receipts(shop.lab.take("session.replies", len(others), 30))
    assert len(shop.notes("pack 1")) == 2
    shop.lab.open_gate()
    assert worker.wait_for("consuming again")["operation"] == "pack"
    receipts(shop.lab.take("session.replies", len(stuck) + len(waiting), 30))


def test_each_operation_has_its_own_limits(shop: Shop) -> None:
    """A request of one that fails goes round by that one's retry queue, up to its own attempts."""
    shop.worker(max_attempts=2)
    shop.send("order", fails=1)
    receipts(shop.lab.take("session.replies", 1, 30))
    assert len(shop.notes("order 2")) == 1
    depths = shop.lab.broker.queue_depths(shop.lab.vhost)
    retries = {name for name in depths if ".retry." in name}
    assert {name for name in retries if ".pack." in name} == {
        "session.pack.retry.1s",
        "session.pack.retry.600s",
    }
    assert {name for name in retries if ".order." in name} == {"session.order.retry.1s"}
    assert not {name for name in retries if ".look." in name or ".get." in name}


def test_a_plain_function_runs_in_a_thread_with_the_resources(shop: Shop) -> None:
    worker = shop.worker()
    shop.send("pack")
    [receipt] = receipts(shop.lab.take("session.replies", 1, 30))
    assert receipt["thread"].startswith("handler")
    assert receipt["shelf"] == f"shelf of {worker.pid}"


# -------------------------------------------------------------------------------- what a worker serves


def test_a_worker_serves_the_operations_that_it_is_told_to(shop: Shop) -> None:
    """Those of an app that it names on the command line; it declares no queue of another's."""
    shop.worker(app="off", command=(PROGRAM, "run", APP, "--operations", "look,order"))
    depths = shop.lab.broker.queue_depths(shop.lab.vhost)
    assert "session.order" in depths
    assert not {name for name in depths if name.startswith(("session.pack", "session.get"))}
    asked = shop.send("order") + shop.send("look")
    receipts(shop.lab.take("session.replies", len(asked), 30))


def test_an_operation_that_the_app_has_not_is_named_with_those_it_has(shop: Shop) -> None:
    words = last_words(shop.worker(wait=False, operations="order,odrer"))
    assert "there is no operation odrer" in words
    for name in (*BUILT_IN, "order", "pack", "look"):
        assert name in words


def test_an_attempt_that_outlasts_the_brokers_patience_is_refused_at_the_start(shop: Shop) -> None:
    """The time limit is an operation's own, the grace the worker's: only together they are too long."""
    words = last_words(shop.worker(wait=False, shutdown_grace=1799, handler_timeout=0.5))
    assert "operation pack" in words
    assert "1800 s" in words


# -------------------------------------------------------------------------------------------- lifespan


def test_the_lifespan_is_left_after_the_last_handler(shop: Shop) -> None:
    """What runs when the worker is told to stop uses its resources to the end."""
    worker = shop.worker(shutdown_grace=30)
    shop.send("order", 4, gate=str(shop.lab.gate))
    shop.running("order", 4)
    assert shop.notes("entered") == [worker.pid]
    worker.terminate()
    worker.wait_for("draining")
    assert shop.notes("left") == []
    shop.lab.open_gate()
    assert worker.wait(15) == 0
    receipts(shop.lab.take("session.replies", 4, 30))
    assert shop.notes("left") == [worker.pid]
    assert shop.notes("used after it was closed") == []


@pytest.mark.parametrize(
    ("operation", "script"), [("order", {"stubborn": True}), ("pack", {})], ids=["coroutine", "thread"]
)
def test_a_handler_that_does_not_end_finds_no_closed_resources(
    shop: Shop, operation: str, script: dict[str, object]
) -> None:
    """Its request is handed back, and the process ends; until then nothing is taken from it."""
    worker = shop.worker(shutdown_grace=0)
    shop.send(operation, 1, gate=str(shop.lab.gate), **script)
    shop.running(operation, 1)
    worker.terminate()
    assert worker.wait(30) == 0
    assert shop.notes("left") == []
    assert "handlers" in worker.wait_for("lifespan not left")["reason"]


def test_a_lifespan_that_fails_at_the_start_is_one_sentence(shop: Shop) -> None:
    """Its traceback is on the log; nothing was consumed."""
    shop.go_wrong("start")
    worker = shop.worker(wait=False)
    assert worker.wait(30) == 1
    assert "the app's lifespan failed: ConnectionError: the stock cannot be reached" in worker.output[-1]
    assert "Traceback" not in worker.output[-1]
    assert "shop.py" in json.dumps(worker.wait_for("lifespan failed"))
    assert shop.lab.broker.queue_depths(shop.lab.vhost) == {}


@pytest.mark.parametrize(("where", "event"), [("end", "lifespan failed"), ("hangs", "lifespan not left")])
def test_a_lifespan_that_does_not_end_well_is_logged_and_ends_the_worker_as_ever(
    shop: Shop, where: str, event: str
) -> None:
    shop.go_wrong(where)
    worker = shop.worker()
    worker.terminate()
    assert worker.wait(20) == 0
    worker.wait_for(event)
    worker.wait_for("worker stopped")


def test_a_worker_whose_lifespan_ends_before_it_drains_and_fails(shop: Shop) -> None:
    """Handlers would go on with resources that are not there any more."""
    worker = shop.worker()
    shop.go_wrong("midway")
    assert worker.wait(30) == 1
    assert "the app's lifespan failed" in worker.output[-1]
    assert "the stock is gone" in json.dumps(worker.wait_for("lifespan failed"))


def test_a_worker_that_is_told_to_stop_does_not_wait_for_its_resources(shop: Shop, ops: Ops) -> None:
    """Until then it is not ready, and says what it waits for."""
    worker = shop.worker(wait=False, app="tests.support.apps.patient:app", ops_port=ops.port)
    soon(lambda: len(shop.notes("waiting")) == 1, 30)
    assert ops.red()["broker"] == "waiting for the app's lifespan"
    assert ops.live()
    worker.terminate()
    assert worker.wait(10) == 0
