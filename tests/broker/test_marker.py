"""The marker beside a work queue: the first ledger that it names is the one, for whoever reads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from session_client.net.errors import LinkLostError
from session_worker.broker import marker
from session_worker.broker.connection import Connection
from session_worker.broker.marker import Owner
from tests.acceptance.conftest import Cli, cli
from tests.support.lab import Lab, code_of, request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ

__all__ = ["cli"]

NAME = "session.create.ledger"
MINE = Owner("2026-01-01T00:00:00.000000+00:00", "postgresql://host/sessions")


async def test_the_first_ledger_is_the_owner_for_everybody(amqp_url: str) -> None:
    """Sixteen at once, each with a ledger of its own; and whoever comes later."""
    connections = [await Connection.open([amqp_url], "test") for _ in range(16)]
    await marker.declare(connections[0], NAME)
    ids = [Owner(str(uuid4()), "sqlite:////some where.db") for _ in connections]
    owners = await asyncio.gather(
        *(marker.mark(connection, NAME, ledger) for connection, ledger in zip(connections, ids, strict=True))
    )
    assert all(owner == owners[0] for owner in owners)
    assert owners[0] in ids
    assert await marker.mark(connections[3], NAME, MINE) == owners[0]
    for connection in connections:
        await connection.close()


async def test_reading_takes_the_permission_to_read_and_writing_that_to_reply(
    amqp_url: str, rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str
) -> None:
    connection = await Connection.open([amqp_url], "test")
    await marker.declare(connection, NAME)
    await connection.close()
    user = rabbitmq.add_user(
        f"user-{uuid4().hex[:8]}", "password", vhost, "^$", r"^amq\.default$", r"^session\.create(\.ledger)?$"
    )
    connection = await Connection.open([user], "test")
    assert await marker.mark(connection, NAME, MINE) == MINE
    assert await marker.mark(connection, NAME, Owner("another", "")) == MINE
    await connection.close()


async def test_a_marker_that_is_not_there_or_may_not_be_read_loses_no_connection(
    amqp_url: str, rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str
) -> None:
    connection = await Connection.open([amqp_url], "test")
    with pytest.raises(LinkLostError, match="missing"):
        await marker.mark(connection, NAME, MINE)
    await marker.declare(connection, NAME)
    assert await marker.mark(connection, NAME, MINE) == MINE
    await connection.close()
    user = rabbitmq.add_user(f"user-{uuid4().hex[:8]}", "password", vhost, "^$", "^$", r"^session\.create$")
    connection = await Connection.open([user], "test")
    with pytest.raises(LinkLostError, match="no read permission"):
        await marker.mark(connection, NAME, MINE)
    assert not connection.lost.done()
    await connection.close()


def test_a_worker_with_another_ledger_does_not_consume_until_it_is_told_to_adopt_the_queues(
    lab: Lab, tmp_path: Path, cli: Cli
) -> None:
    """One sentence names the right ledger and the command, which then works."""
    first = lab.worker()
    first.terminate()
    assert first.wait() == 0
    other = f"sqlite:///{tmp_path}/other.db"

    refused = lab.worker(wait=False, ledger_url=other)

    assert refused.wait() == 1
    said = refused.output[-1]
    assert f"queue session.create: belongs to another ledger, {lab.ledger_url} (made 20" in said
    assert "session-worker topology apply --adopt-ledger" in said
    again = lab.worker()
    again.terminate()
    assert again.wait() == 0
    adopted = cli("topology", "apply", "--adopt-ledger", amqp_url=lab.url, ledger_url=other)
    assert f"They belong to the ledger {other}." in adopted.out
    with lab.requester() as requester:
        lab.worker(ledger_url=other)
        assert code_of(requester.ask(request())) is None
    late = lab.worker(wait=False)
    assert late.wait() == 1


def test_the_marker_is_read_on_a_connection_of_its_own(
    lab: Lab, rabbitmq: RabbitMQ | ExternalRabbitMQ
) -> None:
    """A connection of its own: brokers end one over a stream, and allow a user only so many."""
    name = f"user-{uuid4().hex[:8]}"
    user = rabbitmq.add_user(name, "password", lab.vhost, ".*", ".*", ".*")
    rabbitmq.limit_user(name, "max-connections", 2)
    worker = lab.worker(amqp_url=user)
    assert "takes no more connections" in worker.wait_for("ledger of the queues unknown")["reason"]
    with lab.requester() as requester:
        assert code_of(requester.ask(request())) is None


def test_a_worker_goes_on_where_it_cannot_look_at_the_marker(
    lab: Lab, rabbitmq: RabbitMQ | ExternalRabbitMQ
) -> None:
    """Its user's permissions are those of an earlier release: nothing that runs may stop by itself."""
    lab.worker().terminate()
    user = rabbitmq.add_user(
        f"user-{uuid4().hex[:8]}",
        "password",
        lab.vhost,
        "^$",
        r"^amq\.default$",
        r"^session\.create(\.undelivered)?$",
    )
    worker = lab.worker(amqp_url=user, declare=False, operations="create_session")
    told = worker.wait_for("ledger of the queues unknown")
    assert "no read permission on queue session.create.ledger" in told["reason"]
