"""Who competes: how each is started, spoken to, and what it promises."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.messages import REPLIES, AioPikaRpc, Celery, Dramatiq, Json, Reading, Session, Taskiq

QUEUE: Final = "bench.requests"
SESSION_QUEUE: Final = "session.create"
READ_QUEUE: Final = "session.get"
PEERS: Final = Path(__file__).parent / "peers"
C_ECHO: Final = PEERS / "build" / "c_echo"


@dataclass(frozen=True, slots=True)
class Promise:
    """What an answered request may rely on, in words for a table."""

    validated: str
    outcome: str
    duplicates: str
    delivery: str
    processes: str = "1"


@dataclass(frozen=True, slots=True)
class Contestant:
    """`command` follows the interpreter; a command with an absolute path is run as it is."""

    name: str
    title: str
    command: tuple[str, ...]
    format: Json
    promise: Promise
    queue: str = QUEUE
    reply_arguments: dict[str, Any] = field(default_factory=dict)
    ledger: str | None = None  # "sqlite" or "postgresql"
    waits: bool = False  # can take part in the scenarios with slow handlers

    @property
    def argv(self) -> tuple[str, ...]:
        return self.command if Path(self.command[0]).is_absolute() else (sys.executable, *self.command)

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("ours-")


_NOTHING: Final = "no"
_NEW: Final = "a new request"
_CONFIRMED: Final = "reply confirmed, then ack"
_TRANSIENT: Final = "reply confirmed but not persistent, then ack"
_FASTSTREAM: Final = ("-m", "faststream", "run", "--log-level", "warning")


def _ours(ledger: str, title: str) -> Contestant:
    return Contestant(
        name=f"ours-{ledger}",
        title=f"Session Worker, {title}",
        command=("-m", "session_worker.cli", "run"),
        format=Session(SESSION_QUEUE, message_type="CreateSessionRequest"),
        promise=Promise(
            validated="contract, limits, reply address",
            outcome=f"claim, session and answer committed in {title}",
            duplicates="answered with the stored answer",
            delivery="outcome committed, reply confirmed, then ack",
        ),
        queue=SESSION_QUEUE,
        ledger=ledger,
        waits=True,
    )


CONTESTANTS: Final = (
    Contestant(
        name="echo",
        title="aio-pika, bare echo",
        command=("-m", "benchmarks.peers.echo"),
        format=Json(QUEUE),
        promise=Promise(_NOTHING, _NOTHING, _NEW, _CONFIRMED),
        waits=True,
    ),
    _ours("sqlite", "SQLite"),
    _ours("postgresql", "PostgreSQL"),
    Contestant(
        name="aio-pika-rpc",
        title="aio_pika.patterns.JsonRPC",
        command=("-m", "benchmarks.peers.aio_pika_rpc"),
        format=AioPikaRpc(QUEUE),
        promise=Promise(_NOTHING, _NOTHING, _NEW, f"{_CONFIRMED}; a failed reply drops the request"),
    ),
    Contestant(
        name="faststream",
        title="FastStream RPC, echo",
        command=(*_FASTSTREAM, "benchmarks.peers.faststream_echo:app"),
        format=Json(QUEUE),
        promise=Promise("a JSON object", _NOTHING, _NEW, _TRANSIENT),
        waits=True,
    ),
    Contestant(
        name="faststream-postgresql",
        title="FastStream RPC, claim and session in PostgreSQL",
        command=(*_FASTSTREAM, "benchmarks.peers.faststream_postgresql:app"),
        format=Session(QUEUE),
        promise=Promise(
            "our contract's model",
            "claim, then session and answer committed in PostgreSQL",
            "refused by a unique key, unanswered",
            _TRANSIENT,
        ),
        ledger="postgresql",
    ),
    Contestant(
        name="celery",
        title="Celery, rpc://",
        command=(
            *("-m", "celery", "--app", "benchmarks.peers.celery_echo", "worker"),
            *("--loglevel", "WARNING", "--queues", QUEUE),
        ),
        format=Celery(QUEUE),
        promise=Promise(
            _NOTHING,
            _NOTHING,
            _NEW,
            f"{_TRANSIENT} (`task_acks_late`)",
            "1 + one for each core",
        ),
    ),
    Contestant(
        name="taskiq",
        title="taskiq-aio-pika",
        command=(
            *("-m", "taskiq", "worker", "benchmarks.peers.taskiq_echo:broker"),
            *("--workers", "1", "--max-async-tasks", "256", "--log-level", "WARNING"),
        ),
        format=Taskiq(QUEUE),
        promise=Promise(_NOTHING, _NOTHING, _NEW, "reply confirmed by a result backend of ours, then ack"),
    ),
    Contestant(
        name="dramatiq",
        title="Dramatiq, reply by callback",
        command=("-m", "dramatiq", "benchmarks.peers.dramatiq_echo", "--queues", QUEUE),
        format=Dramatiq(QUEUE),
        promise=Promise(
            _NOTHING,
            _NOTHING,
            _NEW,
            "reply confirmed, then ack; classic queues (it declares no others)",
            "1 + one for each core, 8 threads in each",
        ),
        reply_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{REPLIES}.XQ"},
    ),
    Contestant(
        name="c-echo",
        title="C, librabbitmq, echo",
        command=(str(C_ECHO),),
        format=Json(QUEUE),
        promise=Promise("not even parsed", _NOTHING, _NEW, _CONFIRMED),
    ),
)


def reading(ours: Contestant) -> Contestant:
    """A worker of ours as those see it who read sessions."""
    return replace(ours, format=Reading(READ_QUEUE, message_type="GetSessionRequest"), queue=READ_QUEUE)


def find(names: list[str]) -> list[Contestant]:
    """Those named, in the order of the table.

    Raises:
        ValueError: there is no such contestant.
    """
    known = {contestant.name for contestant in CONTESTANTS}
    unknown = sorted(set(names) - known)
    if unknown:
        raise ValueError(f"no contestant is named {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [contestant for contestant in CONTESTANTS if contestant.name in names]
