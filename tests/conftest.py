"""Servers, addresses and processes for the tests. A server starts when the first test asks for it."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import pytest_asyncio

from session_worker.ledger import upgrade
from tests.support.external_rabbitmq import ExternalRabbitMQ
from tests.support.guard import Guard, heed_signals
from tests.support.ledger import no_file, sqlite_in_memory
from tests.support.servers import PostgreSQL, RabbitMQ
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
OURS = tuple(str(ROOT / package) for package in ("client", "contracts", "worker"))
HABITS = (
    *("SESSION_WORKER_", "OTEL_", "PG", "RABBITMQ_", "ERL_", "LC_", "LANG", "XDG_"),
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_"),
    *("PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONUTF8", "PYTHONWARNINGS"),
)
"""Variables of who runs the tests, with which the programs would behave in another way."""
IN_MEMORY_TOO = {
    *("test_claim_rules", "test_claims", "test_reopening", "test_sessions", "test_steps"),
    *("test_session_model", "test_unstorable_data"),
}
"""Tests of ledgers that ask nothing of a server or a file: they run over the ledger in memory too."""
EXTERNAL_BROKER = os.environ.get("SESSION_WORKER_TEST_AMQP_URL")


def pytest_configure(config: pytest.Config) -> None:
    for name in os.environ:
        if name.startswith(HABITS) and not name.startswith("SESSION_WORKER_TEST_"):
            del os.environ[name]
    os.environ |= {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
    if hasattr(config, "workerinput"):  # one of several: they end with the run
        heed_signals()
    else:
        guard = ExitStack()
        guard.enter_context(Guard())
        config.add_cleanup(guard.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: begun last, they would run while nobody else has anything to do."""
    items.sort(key=lambda item: "soak" not in item.keywords)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "ledger_url" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        kinds = ["sqlite", "postgresql", *(["memory"] if module in IN_MEMORY_TOO else [])]
        metafunc.parametrize("ledger_url", kinds, indirect=True)


@pytest.fixture(autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that a test does not name is not that of whoever runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / f"state-{uuid4().hex[:12]}"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


@pytest.fixture(autouse=True)
def _no_task_left(request: pytest.FixtureRequest) -> None:
    """Every asynchronous test: none of our tasks may be running when it has ended."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_task_watch")


@pytest_asyncio.fixture
async def _task_watch() -> AsyncIterator[None]:
    yield
    await eventually(_none_of_our_tasks_runs, 2.0)


def _none_of_our_tasks_runs() -> bool:
    running = (task for task in asyncio.all_tasks() if task is not asyncio.current_task())
    codes = ((task.get_name(), getattr(task.get_coro(), "cr_code", None)) for task in running)
    left = [name for name, code in codes if code is not None and code.co_filename.startswith(OURS)]
    assert not left, f"tasks still running after the test: {left}"
    return True


@pytest_asyncio.fixture
async def full_pool() -> AsyncIterator[None]:
    """asyncio's pool has one thread, which is taken until the test ends."""
    over = threading.Event()
    pool = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(pool)
    pool.submit(over.wait, 60)
    yield
    over.set()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ | ExternalRabbitMQ]:
    """The broker that the tests share: a private node, or the one of SESSION_WORKER_TEST_AMQP_URL."""
    if EXTERNAL_BROKER:
        yield ExternalRabbitMQ(EXTERNAL_BROKER)
    else:
        with RabbitMQ() as node:
            yield node


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[RabbitMQ]:
    """A private node for tests that stop, kill or alarm it; a test leaves it running."""
    with RabbitMQ() as node:
        yield node


@pytest.fixture
def vhost(rabbitmq: RabbitMQ | ExternalRabbitMQ) -> Iterator[str]:
    """The name of a vhost for this test alone."""
    name = f"test-{uuid4().hex[:12]}"
    rabbitmq.vhost(name)
    yield name
    rabbitmq.delete_vhost(name)


@pytest.fixture
def amqp_url(rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str) -> str:
    """The URL of this test's vhost."""
    return rabbitmq.vhost_url(vhost)


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[TcpProxy]:
    """A wire to this test's vhost that can be broken."""
    async with TcpProxy(amqp_url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A private PostgreSQL; it skips fsync, since no test cuts the machine's power."""
    with PostgreSQL(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def ledger_template(postgresql: PostgreSQL) -> str:
    """The name of a database with the ledger's schema, to be copied."""
    asyncio.run(upgrade(postgresql.createdb("ledger_template")))
    return "ledger_template"


@pytest.fixture
def empty_postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """A database of this test's own, with nothing in it."""
    name = f"test_{uuid4().hex[:12]}"
    yield postgresql.createdb(name)
    postgresql.dropdb(name)


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL, ledger_template: str) -> Iterator[str]:
    """A database of this test's own, with the ledger's schema."""
    name = f"test_{uuid4().hex[:12]}"
    yield postgresql.createdb(name, template=ledger_template)
    postgresql.dropdb(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A ledger file of this test's own, not there yet."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kind of ledger in turn, SQLite's file in memory. ``memory``: the one for users' tests."""
    if request.param == "sqlite":
        with sqlite_in_memory() as url:
            yield url
    elif request.param == "memory":
        with no_file() as url:
            yield url
    else:
        yield request.getfixturevalue("postgresql_url")


@pytest.fixture(scope="session")
def amqplib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node example in a folder of its own, with the amqplib that its lock names."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(
            f"{' and '.join(missing)} missing: install Node 18 or newer (`apt-get install nodejs npm`)"
        )
    folder = tmp_path_factory.mktemp("amqplib")
    for name in ("package.json", "package-lock.json", "amqplib_requester.mjs"):
        shutil.copy(ROOT / "examples" / name, folder)
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"npm cannot install amqplib: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture
def worker_process(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers and returns each when it is up; `wait=False`: at once. They are gone after the test."""
    workers: list[WorkerProcess] = []

    def start(*, wait: bool = True, **arguments: Any) -> WorkerProcess:
        worker = WorkerProcess(**({"folder": tmp_path} | arguments))
        workers.append(worker)
        if wait:
            worker.wait_up()
        return worker

    yield start
    for worker in workers:
        with closing(worker):
            pass
