"""Where a measurement takes place: private servers, and for every run a vhost and a ledger of its own."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from benchmarks.messages import REPLIES
from benchmarks.process import ContestantError, ContestantProcess
from benchmarks.wire import Connection, ReplyQueue
from tests.support.servers import PostgreSQL, RabbitMQ

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from benchmarks.contestants import Contestant
    from benchmarks.messages import Request
    from benchmarks.wire import Reply

REPLY_SECONDS: Final = 60.0
"""How long no reply may come before a run counts as failed."""
CONCURRENCY: Final = 256
POSTGRESQL_SETTINGS: Final = {
    "shared_buffers": "2GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "30min",
    "wal_compression": "lz4",
}
"""As docs/operations.md advises for production; every contestant with a ledger has the same server."""
_HANDLER: Final = "benchmarks.peers.waiting_handler:wait"


class Stage:
    """A RabbitMQ and a PostgreSQL, both durable; seen by nobody else, gone afterwards."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="session-worker-bench-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.node = stack.enter_context(RabbitMQ())
            self.postgresql = stack.enter_context(PostgreSQL(durable=True))
            for name, value in POSTGRESQL_SETTINGS.items():
                self.postgresql.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            self.postgresql.stop()
            self.postgresql.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def new_ledger(self, kind: str | None) -> str:
        """The URL of an empty ledger; empty where none is needed."""
        if kind == "sqlite":
            return f"sqlite:///{self.folder}/ledger-{next(self._numbers)}.db"
        if kind == "postgresql":
            return self.postgresql.createdb(f"ledger_{next(self._numbers)}")
        return ""

    def drop_ledger(self, url: str) -> None:
        """In PostgreSQL this is a checkpoint for all databases, which the next ones to write pay for: an
        ordinary run leaves its ledger to the end of the stage."""
        name = url.rpartition("/")[2]
        if url.startswith("sqlite"):
            for path in self.folder.glob(f"{name}*"):
                path.unlink()
        elif url:
            self.postgresql.dropdb(name)

    @contextmanager
    def running(
        self,
        contestant: Contestant,
        *,
        ledger_url: str | None = None,
        concurrency: int = CONCURRENCY,
        waiting: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> Iterator[Run]:
        """A contestant that consumes, on a fresh vhost; `waiting`: with a handler that waits; `settings`:
        what else is in the environment of ours."""
        vhost = f"bench-{next(self._numbers)}"
        url = self.node.vhost(vhost)
        database = self.new_ledger(contestant.ledger) if ledger_url is None else ledger_url
        environment = _environment(url, database, contestant, concurrency, waiting) | dict(settings or {})
        processes = int(environment.get("SESSION_WORKER_PROCESSES", 1))
        log = self.folder / f"{vhost}.log"
        try:
            with (
                ReplyQueue(url, REPLIES, contestant.reply_arguments) as replies,
                ContestantProcess(contestant.name, contestant.argv, environment, log) as process,
            ):
                process.wait_consuming(url, contestant.queue, processes)
                with Connection(url) as sender:
                    yield Run(contestant, url, process, replies, sender)
        finally:
            self.node.delete_vhost(vhost)
            if ledger_url is None and database.startswith("sqlite"):
                self.drop_ledger(database)


@dataclass(frozen=True, slots=True)
class Run:
    """A contestant at work."""

    contestant: Contestant
    url: str
    process: ContestantProcess
    replies: ReplyQueue
    sender: Connection

    def encoded(self, requests: Iterable[Request]) -> Iterable[tuple[Request, bytes]]:
        """Requests with what goes over the wire; made ahead of time unless they come one by one."""
        encode = self.contestant.format.encode
        if isinstance(requests, Sequence):
            return [(request, encode(request).frames()) for request in requests]
        return ((request, encode(request).frames()) for request in requests)

    def read(self) -> list[Reply]:
        """The replies that one read brings.

        Raises:
            ContestantError: the contestant has ended.
            WireError: none came for too long.
        """
        self.process.check()
        return self.replies.read(REPLY_SECONDS)

    def check(self, request: Request, reply: Reply) -> None:
        """Raises ContestantError when the answer is wrong."""
        try:
            right = self.contestant.format.is_right(request, reply)
        except (ValueError, LookupError, TypeError):  # it has not even the shape of an answer
            right = False
        if not right:
            raise ContestantError(f"{self.contestant.name} answered wrongly: {reply.body[:500]!r}")


def _environment(
    url: str, database: str, contestant: Contestant, concurrency: int, waiting: bool
) -> dict[str, str]:
    if contestant.is_ours:
        settings = {
            "AMQP_URL": url,
            "LEDGER_URL": database,
            "CONCURRENCY": str(concurrency),
            "MIGRATE": "true",
            "LOG_LEVEL": "warning",
        } | ({"HANDLER": _HANDLER} if waiting else {})
        return {f"SESSION_WORKER_{name}": value for name, value in settings.items()}
    return {
        "BENCH_AMQP_URL": url,
        "BENCH_QUEUE": contestant.queue,
        "BENCH_REPLIES": REPLIES,
        "BENCH_DATABASE_URL": database,
        "BENCH_CONCURRENCY": str(concurrency),
    } | ({"BENCH_WAIT": "1"} if waiting else {})
