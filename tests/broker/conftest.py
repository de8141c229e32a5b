"""What the worker's broker tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from session_worker.sandbox.workspace import free_port
from tests.support.lab import Lab, open_lab
from tests.support.ops import Ops

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ


@pytest.fixture
def lab(rabbitmq: RabbitMQ | ExternalRabbitMQ, sqlite_url: str, tmp_path: Path) -> Iterator[Lab]:
    """A vhost and a SQLite ledger for this test alone; it starts the workers."""
    with open_lab(rabbitmq, sqlite_url, tmp_path) as lab:
        yield lab


@pytest.fixture
def lab_on_postgresql(
    rabbitmq: RabbitMQ | ExternalRabbitMQ, postgresql_url: str, tmp_path: Path
) -> Iterator[Lab]:
    """`lab`, with the ledger that several processes need."""
    with open_lab(rabbitmq, postgresql_url, tmp_path) as lab:
        yield lab


@pytest.fixture
def lab_on_each_ledger(
    rabbitmq: RabbitMQ | ExternalRabbitMQ, ledger_url: str, tmp_path: Path
) -> Iterator[Lab]:
    """`lab`, with each kind of ledger in turn."""
    with open_lab(rabbitmq, ledger_url, tmp_path) as lab:
        yield lab


@pytest.fixture
def ops() -> Ops:
    """The ops port of a worker that is yet to be started with `ops_port=ops.port`."""
    return Ops(free_port())


@pytest.fixture(scope="module")
def served(rabbitmq: RabbitMQ | ExternalRabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that the tests of a module share, with one worker that tries twice; they leave it as it was."""
    folder = tmp_path_factory.mktemp("served")
    with open_lab(rabbitmq, f"sqlite:///{folder / 'ledger.db'}", folder) as lab:
        lab.worker(max_attempts=2, handler_timeout=1, max_body_bytes=8192)
        yield lab
