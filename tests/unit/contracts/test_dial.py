"""Each address of a name is tried, and none holds up the others."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from session_client.net.dial import Place, UnreachedError, first_to_answer, look_up
from tests.support.addresses import DROPPING, dropping

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def port() -> Iterator[int]:
    """Where 127.0.0.1 answers and `DROPPING` drops what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = server.getsockname()[1]
        with dropping(found):
            yield found


def _at(address: str, port: int) -> Place[str]:
    return Place(address, socket.AF_INET, (address, port))


async def test_an_address_that_does_not_answer_holds_up_the_next_one_for_a_moment(port: int) -> None:
    async with asyncio.timeout(10):
        place, connected = await first_to_answer([_at(DROPPING, port), _at("127.0.0.1", port)], 60)
    connected.close()
    assert place.of == "127.0.0.1"


async def test_the_first_address_is_taken_where_it_answers(port: int) -> None:
    place, connected = await first_to_answer([_at("127.0.0.1", port), _at(DROPPING, port)], 60)
    connected.close()
    assert place.of == "127.0.0.1"


async def test_of_each_address_it_is_said_why_it_was_not_reached(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()[1]
    with pytest.raises(UnreachedError) as unreached:
        await first_to_answer([_at(DROPPING, port), _at("127.0.0.1", refusing)], 1)
    failures = {place.of: type(error) for place, error in unreached.value.failures}
    assert failures == {DROPPING: TimeoutError, "127.0.0.1": ConnectionRefusedError}


async def test_who_stops_waiting_leaves_no_connection_behind(port: int) -> None:
    dialing = asyncio.create_task(first_to_answer([_at(DROPPING, port)], 60))
    await asyncio.sleep(0)
    dialing.cancel()
    await asyncio.wait({dialing})
    assert dialing.cancelled()


async def test_all_addresses_of_a_name_are_found() -> None:
    found = await look_up("mine", "127.0.0.1", 5672)
    assert [(place.of, place.address) for place in found] == [("mine", ("127.0.0.1", 5672))]
