"""Text that commands a terminal or hides from its reader, in a ledger and in a broker's last words."""

from __future__ import annotations

import asyncio
import json
import socketserver
import sqlite3
import threading
import unicodedata
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pamqp.base
import pamqp.frame
from pamqp import commands as spec

from session_worker.ledger import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07\r\x9b2J\x7f\x85\u061c\u200b\u200e\u200f\u202e\u2066\u2028\u2029\ufeff\u00ad"
    "\U000e0041\u115f\u3164\ue000[red]é 漢 e\u0301[/red]"
)
REQUEST_ID = UUID(int=7)


def commands_in(text: str) -> set[str]:
    """What a terminal would obey, or would not show."""
    empty = "\u034f\u115f\u1160\u3164\uffa0"
    return {
        character
        for character in text
        if (unicodedata.category(character)[0] == "C" and character != "\n")
        or unicodedata.category(character) in ("Zl", "Zp")
        or character in empty
    }


def hostile_ledger(file: Path) -> str:
    """The URL of a ledger in which others wrote what they liked, with a failed and a completed request."""
    url = f"sqlite:///{file}"
    asyncio.run(upgrade(url))
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    said = f"eve{HOSTILE}"
    moves = [
        {"status": status, "at": now, "attempt": 1, "worker_id": said + status, "detail": said}
        for status in ("processing", "failed")
    ]
    row = {
        "status": "failed",
        "attempt": 1,
        "token": "t",
        "fingerprint": b"",
        "user_id": said,
        "operation": said,
        "casefile_id": said,
        "title": said,
        "reply_to": said,
        "correlation_id": said,
        "received_at": now,
        "updated_at": now,
        "finished_at": now,
        "error": said,
        "detail": said,
        "history": json.dumps(moves),
    }
    failed = row | {"request_id": str(REQUEST_ID), "session_id": said, "error_code": said}
    completed = row | {
        "request_id": str(UUID(int=8)),
        "session_id": said + "2",
        "status": "completed",
        "error_code": None,
    }
    with closing(sqlite3.connect(file)) as ledger, ledger:
        for each in (failed, completed):
            names = ", ".join(each)
            ledger.execute(
                f"INSERT INTO requests ({names}) VALUES ({', '.join('?' * len(each))})", [*each.values()]
            )
        ledger.execute(
            "INSERT INTO workers VALUES (?, ?, ?, ?)", [said, now, now, "9999-01-01T00:00:00.000000+00:00"]
        )
    return url


class _Refusal(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        turns: list[pamqp.base.Frame] = [
            spec.Connection.Start(server_properties={}),
            spec.Connection.Tune(frame_max=131_072),
            spec.Connection.Close(541, f"INTERNAL_ERROR - {HOSTILE}", 0, 0),
        ]
        with suppress(OSError):
            for turn in turns:
                self.request.recv(10_000)
                self.request.sendall(pamqp.frame.marshal(turn, 0))
            while self.request.recv(10_000):
                pass


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def hostile_broker() -> Iterator[str]:
    """The URL of a broker that refuses everybody, with words of its own."""
    with _Server(("127.0.0.1", 0), _Refusal) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"amqp://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
