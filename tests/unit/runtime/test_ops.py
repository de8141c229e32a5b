"""What processes say of themselves, and what the ops port makes of it: without a broker, by hand."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from session_worker.runtime import health, ops
from session_worker.runtime.health import Board, Report, Reporter
from session_worker.sandbox.workspace import free_port
from session_worker.telemetry.metrics import ATTEMPTS, INFLIGHT, merge
from tests.support.ops import Ops
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Iterator


def report(pid: int = 1, *, attempts: int = 0, inflight: int = 0, **checks: str) -> Report:
    metrics: dict[str, Any] = {ATTEMPTS.name: [([], [attempts])], INFLIGHT.name: [([], [inflight])]}
    return Report(pid, f"worker-{pid}", True, {"broker": ""} | checks, metrics)


@contextmanager
def serving(board: Board) -> Iterator[Ops]:
    port = free_port()
    with ops.serving("127.0.0.1", port, board):
        yield Ops(port)


def test_a_report_goes_through_the_pipe_as_it_is() -> None:
    told = report(7, attempts=3, broker="the broker is gone: ä\n")
    heard = Report.decode(told.encode())
    assert (heard.pid, heard.worker_id, heard.checks) == (7, "worker-7", told.checks)
    assert merge([heard.metrics]) == merge([told.metrics])
    assert told.encode().count(b"\n") == 1


def test_counters_keep_what_the_dead_counted_and_gauges_do_not() -> None:
    """Twice over, so that the sums of the dead are not lost with the next one."""
    board = Board(2)
    board.put(1, report(attempts=5, inflight=2))
    with serving(board) as port:
        for pid in (1, 2):
            board.put(2, report(pid, attempts=10, inflight=4))
            board.gone(2, "ended with exit code -9")
        assert port.metric(ATTEMPTS.name) == 25
        assert port.metric(INFLIGHT.name) == 2


def test_a_process_in_the_making_keeps_the_worker_unready_and_alive() -> None:
    board = Board(2)
    with serving(board) as port:
        assert port.red() == {"loop": "starting"}
        board.put(1, report())
        board.put(2, report(broker="refused"))
        assert port.red() == {"broker": "process 2: refused"}
        board.gone(2, "ended with exit code 3")
        assert port.red() == {"loop": "process 2: ended with exit code 3"}
        assert port.live()
        board.put(2, report())
        assert port.ready()
        board.stop()
        assert port.red() == {"shutdown": "the worker was told to stop"}


def test_a_silent_process_is_stuck_whatever_it_said_last(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(2)
    board.put(1, report())
    monkeypatch.setattr(health, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(ops, "REFRESH_SECONDS", 0.0)
    with serving(board) as port:
        soon(lambda: not port.live())
        board.put(2, report())
        assert port.red()["loop"].startswith("process 1: the event loop has not turned for")


async def test_a_reporter_reports_when_asked_and_at_the_end() -> None:
    told: list[Report] = []
    reporter = Reporter(told.append)
    reporter.ask()  # before there is anything to say
    task = asyncio.create_task(reporter.run(lambda: report(len(told))))
    await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.to_thread(reporter.ask)
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert [each.pid for each in told] == list(range(len(told)))
    assert len(told) == 7


def test_the_board_waits_for_what_it_asked_for() -> None:
    """A scrape shows what is, not what was a second ago."""
    board = Board(1)
    board.put(1, report(attempts=1))

    def answer() -> None:
        threading.Timer(0.1, partial(board.put, 1, report(attempts=2))).start()

    board.ask = answer
    with serving(board) as port:
        assert port.metric(ATTEMPTS.name) == 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /livez?verbose HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /livez/../metrics HTTP/1.1\r\n\r\n", 404),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /livez\r\n\r\n", 200),
        (b"POST /livez\r\n\r\n", 400),
        (b"GET /livez HTTP/2.0\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"AMQP\x00\x00\x09\x01\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + b"X: " + b"x" * 60_000 + b"\r\nX: " + b"x" * 60_000 + b"\r\n\r\n", 200),
        (b"GET /livez HTTP/1.1\r\n" + (b"X: " + b"x" * 60_000 + b"\r\n") * 3 + b"\r\n", 431),
    ],
)
def test_every_request_gets_its_answer(sent: bytes, status: int) -> None:
    board = Board(1)
    with serving(board) as port, socket.create_connection(("127.0.0.1", port.port), 5) as client:
        client.sendall(sent)
        answer = http.client.HTTPResponse(client, method=sent.split()[0].decode("latin-1"))
        with closing(answer):
            answer.begin()
            body = answer.read()
            assert answer.status == status
            assert answer.getheader("Server") is None, "no version for those who look for weaknesses"
            assert (answer.getheader("Allow") == "GET, HEAD") == (status == 405)
            assert bool(body) != sent.startswith(b"HEAD")


def test_clients_that_dawdle_keep_nobody_from_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is cut off in time; and only so many are let in at once, of whom the one who came first leaves for
    another one."""
    monkeypatch.setattr(ops, "REQUEST_SECONDS", 2.0)
    with serving(Board(1)) as port, ExitStack() as stack:

        def client() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port.port), 5))

        slow = [client() for _ in range(ops.CONNECTIONS + 10)]
        for each in slow[::2]:
            with suppress(ConnectionError):
                each.sendall(b"GET /livez")
        assert port.live()
        assert _hangs_up(slow[0])
        assert all(map(_hangs_up, slow))
        assert port.live()


@pytest.mark.parametrize("sent", [b"", b"GET /livez", b"GET /metrics HTTP/1.1\r\n\r\n"], ids=repr)
def test_visitors_who_do_not_go_keep_nobody_from_an_answer(sent: bytes) -> None:
    """Whether they ask nothing, half a question, or do not read the answer."""
    threads = threading.active_count()
    with serving(Board(1)) as port, ExitStack() as stack:
        for _ in range(3 * ops.CONNECTIONS):
            visitor = stack.enter_context(socket.create_connection(("127.0.0.1", port.port), 5))
            visitor.sendall(sent)
            assert threading.active_count() <= threads + 1 + ops.CONNECTIONS
        for path in ("/livez", "/metrics"):
            assert port.get(path)[0] == 200


def test_a_visitor_that_is_being_answered_makes_no_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ops, "REFRESH_SECONDS", 1.0)
    board = Board(1)
    board.put(1, report())
    asked = threading.Event()
    board.ask = asked.set
    with serving(board) as port, ExitStack() as stack:

        def client() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port.port), 5))

        asking = client()
        asking.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert asked.wait(5)
        for _ in range(2 * ops.CONNECTIONS):
            client()
        assert asking.recv(15) == b"HTTP/1.1 200 OK"


def test_a_visitor_that_sends_without_end_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it sends something."""
    monkeypatch.setattr(ops, "REQUEST_SECONDS", 0.5)
    with serving(Board(1)) as port, socket.create_connection(("127.0.0.1", port.port), 5) as client:
        client.settimeout(0.05)

        def cut_off() -> bool:
            with suppress(TimeoutError):
                return _hangs_up(client, b"G")
            return False

        soon(cut_off, 3)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /livez HTTP/1.1\r\n\r\n" + b"GET /metrics HTTP/1.1\r\n\r\n" * 2000,
        b"POST /livez HTTP/1.1\r\nContent-Length: 400000\r\n\r\n" + b"x" * 400_000,
        b"GET /livez HTTP/1.1\r\nX: " + b"x" * 400_000 + b"\r\n\r\n",
    ],
    ids=["pipelined", "body", "head"],
)
def test_an_answer_arrives_although_more_was_sent_than_is_wanted(sent: bytes) -> None:
    """To close on what is unread would take the answer back."""
    with serving(Board(1)) as port, socket.create_connection(("127.0.0.1", port.port), 5) as client:
        client.sendall(sent)
        answer = b""
        while part := client.recv(65_536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 ")
        assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_port_on_all_addresses_answers_by_ipv4_and_ipv6() -> None:
    port = free_port()
    with ops.serving("::", port, Board(1)):
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as client:
                client.settimeout(5)
                client.connect((host, port))
                client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
                assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_a_port_on_a_name_answers_at_each_address_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Except at those that this machine has not."""
    port = free_port()
    asked = socket.getaddrinfo

    def three(*_: object, **__: object) -> list[Any]:
        return [
            asked(host, port, type=socket.SOCK_STREAM)[0] for host in ("127.0.0.1", "127.0.0.2", "192.0.2.1")
        ]

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", three)
        listeners = ops.listen("name", port)
    assert {listener.getsockname()[0] for listener in listeners} == {"127.0.0.1", "127.0.0.2"}
    for listener in listeners:
        listener.close()


def test_a_client_that_is_there_when_the_port_closes_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        with serving(Board(1)) as port:
            waiting = stack.enter_context(socket.create_connection(("127.0.0.1", port.port), 5))
            waiting.sendall(b"GET /livez")
            assert port.live()
        assert _hangs_up(waiting)
    assert not caplog.records


def _hangs_up(client: socket.socket, sent: bytes = b"") -> bool:
    """Whether the other side does so without an answer."""
    try:
        client.sendall(sent)
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("127.0.0.1", r"ops_port: port \d+ of 127.0.0.1 is taken.*SESSION_WORKER_OPS_PORT"),
        ("192.0.2.1", "ops_host: 192.0.2.1 is no address of this machine.*SESSION_WORKER_OPS_HOST"),
        ("no.such.host.invalid", "ops_host: no.such.host.invalid is no address"),
    ],
)
def test_an_address_that_cannot_be_had_is_a_sentence(host: str, sentence: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ops.OpsPortError, match=sentence), ops.serving(host, port, Board(1)):
            pass


def test_the_port_is_free_again_at_once() -> None:
    """A worker that is restarted finds it so, although somebody was just answered."""
    port = free_port()
    for _ in range(3):
        with ops.serving("127.0.0.1", port, Board(1)):
            assert Ops(port).live()
