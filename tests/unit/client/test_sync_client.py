"""The client for code that blocks, without a broker: its face, its thread, and when it refuses."""

from __future__ import annotations

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from session_client import ClientClosed, ConnectionFailed, RequestTimedOut, SessionClient, SyncSessionClient

NOBODY = "amqp://guest:s3cret@127.0.0.1:1/"


def members(cls: type) -> dict[str, object]:
    return {name: each for name, each in vars(cls).items() if not name.startswith("_")}


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "session-client"]


def test_it_has_the_methods_of_the_other_client_with_the_same_arguments_and_results() -> None:
    """Whoever knows the one knows the other."""
    of_async, of_sync = members(SessionClient), members(SyncSessionClient)
    assert of_async.keys() == of_sync.keys()
    for name, method in of_async.items():
        assert callable(method)
        assert inspect.signature(method) == inspect.signature(of_sync[name]), name  # type: ignore[arg-type]
    assert inspect.signature(SessionClient) == inspect.signature(SyncSessionClient)


def test_a_wrong_argument_is_told_when_the_client_is_made() -> None:
    """Not with the first call, which is somewhere else."""
    with pytest.raises(ValueError, match=r"^url: "):
        SyncSessionClient("localhost")


def test_a_wrong_argument_of_a_call_is_a_sentence_that_names_it() -> None:
    client = SyncSessionClient(NOBODY)
    with pytest.raises(ValueError, match=r"^user_id: must be"):
        client.create_session(user_id="a")
    client.close()


async def test_a_call_in_an_event_loop_is_refused_and_says_what_to_do() -> None:
    """It would stand still, and all that runs in it."""
    client = SyncSessionClient(NOBODY)
    with pytest.raises(RuntimeError, match="use SessionClient here, or call it in a thread"):
        client.create_session(user_id="ada")
    with pytest.raises(RuntimeError, match="would block this event loop"):
        client.open()
    assert threads() == []
    with pytest.raises(RequestTimedOut):
        await asyncio.to_thread(client.create_session, user_id="ada", timeout=0.01)
    client.close()


def test_a_client_that_is_made_has_no_thread_and_none_when_it_was_closed() -> None:
    client = SyncSessionClient(NOBODY)
    assert threads() == []
    with pytest.raises(RequestTimedOut):
        client.create_session(user_id="ada", timeout=0.01)
    assert len(threads()) == 1
    client.close()
    assert threads() == []
    client.close()


def test_two_threads_that_are_the_first_start_one_thread() -> None:
    client = SyncSessionClient(NOBODY)
    together = threading.Barrier(8)

    def ask() -> int:
        together.wait(10)
        with pytest.raises(RequestTimedOut):
            client.create_session(user_id="ada", timeout=0.2)
        return len(threads())

    with ThreadPoolExecutor(8) as pool:
        assert {each.result() for each in [pool.submit(ask) for _ in range(8)]} == {1}
    client.close()


def test_a_closed_client_stays_closed() -> None:
    client = SyncSessionClient(NOBODY)
    client.close()
    with pytest.raises(ClientClosed, match="make a new one"):
        client.create_session(user_id="ada")
    with pytest.raises(ClientClosed, match="make a new one"):
        client.open()


def test_who_opens_it_is_told_that_no_broker_is_there_and_may_try_again() -> None:
    """The first call need not: it waits for the broker within its own time, and says what it waited for."""
    client = SyncSessionClient(NOBODY)
    for _ in range(2):
        with pytest.raises(ConnectionFailed, match="connection refused") as caught:
            client.open()
        assert "s3cret" not in str(caught.value)
        assert threads() == []
    client.open(wait=False)
    client.open()
    with pytest.raises(RequestTimedOut, match="cannot be reached"):
        client.create_session(user_id="ada", timeout=0.5)
    client.close()


def test_a_client_that_nobody_has_any_more_ends_its_thread() -> None:
    client = SyncSessionClient(NOBODY)
    client.open(wait=False)
    assert len(threads()) == 1
    del client
    assert threads() == []
