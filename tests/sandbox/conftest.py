"""Two nodes for all tests of this folder: a node takes seconds to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.servers import RabbitMQ

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def node() -> Iterator[RabbitMQ]:
    with RabbitMQ() as node:
        yield node


@pytest.fixture(scope="package")
def managed_node() -> Iterator[RabbitMQ]:
    """A node with the management interface."""
    with RabbitMQ(management=True) as node:
        yield node
