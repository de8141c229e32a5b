"""A cluster of three nodes that loses one under load."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.faults import audit
from tests.faults.crowd import Crowd
from tests.faults.support import NAMES, declare_on, settled, start_worker
from tests.support.cluster import Cluster
from tests.support.waiting import eventually, soon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.faults

VHOST = "replicated"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        cluster.nodes[0].vhost(VHOST)
        for node in cluster.nodes:
            # A retry copy on its way back to a leader that dies is sent again after three minutes by default.
            node.eval("application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 3000)")
        yield cluster


async def test_service_goes_on_when_the_node_that_leads_the_queue_is_killed(
    cluster: Cluster, sqlite_url: str, tmp_path: Path
) -> None:
    """Two of three nodes are enough: requests are answered while one is away, none is lost or done twice."""
    await declare_on(cluster.nodes[0].vhost_url(VHOST))
    leader = await asyncio.to_thread(cluster.leader, VHOST, NAMES.work)
    survivor = next(node for node in cluster.nodes if node is not leader)
    urls = {"amqp_url": cluster.url(VHOST), "ledger_url": sqlite_url}
    worker = start_worker(tmp_path, max_attempts=4, **urls)
    crowd = Crowd(survivor.vhost_url(VHOST), random.Random(1), rate=20, killing=False)
    talking = asyncio.create_task(crowd.run(), name="crowd")

    async def answers(more: int) -> None:
        wanted = len(crowd.book.answers) + more
        await eventually(lambda: len(crowd.book.answers) >= wanted, 60)

    try:
        await answers(50)
        await asyncio.to_thread(leader.kill)
        await answers(100)
        await asyncio.to_thread(leader.start)
        await answers(50)
        crowd.stop()
        await eventually(lambda: crowd.quiet, 60)
        await asyncio.to_thread(soon, lambda: settled(survivor, VHOST), 60)
        assert worker.returncode is None
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        worker.close()
        print("".join(worker.output[-40:]))  # noqa: T201 -- shown when the test fails
        print(crowd.left, survivor.queue_depths(VHOST))  # noqa: T201
    audit.check(crowd.book, await audit.read(sqlite_url))
