"""Each address of a name is tried, and none holds up the others."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from session_client.net.dial import Address, Dialing, look_up
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


def dialing(*hosts: str, port: int, seconds: float = 60) -> Dialing[str]:
    async def found(host: str) -> list[Address]:
        return [Address(socket.AF_INET, (host, port))]

    return Dialing({host: found(host) for host in hosts}, connect_seconds=seconds)


async def first_answer(dialing: Dialing[str]) -> str:
    answered = await dialing.next()
    assert answered is not None
    host, connected = answered
    connected.close()
    return host


async def test_an_address_that_does_not_answer_holds_up_the_next_one_for_a_moment(port: int) -> None:
    async with asyncio.timeout(10), dialing(DROPPING, "127.0.0.1", port=port) as hosts:
        assert await first_answer(hosts) == "127.0.0.1"


async def test_the_first_address_is_taken_where_it_answers(port: int) -> None:
    async with dialing("127.0.0.1", DROPPING, port=port) as hosts:
        assert await first_answer(hosts) == "127.0.0.1"


async def test_an_address_that_was_being_tried_is_tried_again_after_one_that_answered(port: int) -> None:
    """Whoever answered may turn out to be of no use."""
    async with asyncio.timeout(10), dialing(DROPPING, "127.0.0.1", port=port, seconds=1) as hosts:
        await first_answer(hosts)
        assert hosts.failures == []
        assert await hosts.next() is None
        assert [(host, type(error)) for host, error in hosts.failures] == [(DROPPING, TimeoutError)]


async def test_of_each_address_it_is_said_why_it_was_not_reached(port: int) -> None:
    with socket.create_server(("127.0.0.3", 0)) as closed:
        refusing = closed.getsockname()[1]

    async def found(host: str, port: int) -> list[Address]:
        return [Address(socket.AF_INET, (host, port))]

    async def unknown() -> list[Address]:
        raise socket.gaierror(-2, "Name or service not known")

    lookups = {"dropping": found(DROPPING, port), "refusing": found("127.0.0.3", refusing), "no": unknown()}
    async with Dialing(lookups, connect_seconds=1) as hosts:
        assert await hosts.next() is None
    failures = {host: type(error) for host, error in hosts.failures}
    assert failures == {
        "dropping": TimeoutError,
        "refusing": ConnectionRefusedError,
        "no": socket.gaierror,
    }


async def test_who_stops_waiting_leaves_no_task_behind(port: int) -> None:
    """Neither of those that look a name up nor of those that connect."""
    before = asyncio.all_tasks()

    async def dial() -> None:
        async with dialing(DROPPING, port=port) as hosts:
            await hosts.next()

    task = asyncio.create_task(dial())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_all_addresses_of_a_name_are_found() -> None:
    assert [address.place for address in await look_up("127.0.0.1", 5672)] == [("127.0.0.1", 5672)]
