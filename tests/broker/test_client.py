"""The client against a real broker, with a stand-in worker: what a caller gets."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import aio_pika
import pytest
from pydantic import BaseModel, Field
from yarl import URL

from session_client import (
    ClientClosed,
    ConnectionFailed,
    ReplyInvalid,
    RequestFailed,
    RequestNotRouted,
    RequestTimedOut,
    SessionClient,
)
from session_contracts import (
    CreateSessionPayload,
    CreateSessionRequest,
    CreateSessionResponse,
    ErrorCode,
    Names,
    Operation,
)
from tests.support.responder import answer, refusal, responding, session_id_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.responder import Responder

USER = "ada@example.com"
PAYLOAD = b'"payload":{"session_id":"ts_251013_a","created_at":"2025-10-13T14:30:00Z"}}'


class ExtendSession(BaseModel):
    minutes: int = Field(alias="m", gt=0)


class SessionExtended(BaseModel):
    until: str


EXTEND = Operation("extend_session", ExtendSession, SessionExtended)


def extended(message: aio_pika.abc.AbstractIncomingMessage, payload: object, **fields: object) -> bytes:
    """A response with this payload, whatever was asked."""
    request_id = json.loads(message.body)["request_id"]
    return json.dumps({"request_id": request_id, "status": "completed", "payload": payload} | fields).encode()


Mode = Literal["queue", "direct"]
both_modes = pytest.mark.parametrize("reply", ["queue", "direct"])


@pytest.fixture
async def responder(amqp_url: str) -> AsyncIterator[Responder]:
    async with responding(amqp_url) as responder:
        yield responder


@asynccontextmanager
async def channel_to(amqp_url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    connection = await aio_pika.connect(amqp_url, timeout=10)
    async with connection:
        yield await connection.channel()


def seconds(expiration: object) -> float:
    assert isinstance(expiration, int | float)
    return expiration


@both_modes
async def test_500_concurrent_calls_each_get_their_own_answer(
    amqp_url: str, responder: Responder, reply: Mode
) -> None:
    """Correlation: every response bears the id and the session of the request it answers."""
    requests = [CreateSessionRequest(user_id=USER, payload=CreateSessionPayload()) for _ in range(500)]
    async with SessionClient(amqp_url, reply=reply) as client:
        responses = await asyncio.gather(*(client.request(request) for request in requests))
    assert [response.request_id for response in responses] == [request.request_id for request in requests]
    assert {r.payload.session_id for r in responses} == {session_id_of(r.request_id) for r in requests}
    asked = {json.loads(message.body)["request_id"] for message in responder.requests}
    assert asked == {str(request.request_id) for request in requests}


async def test_a_request_is_published_as_the_contract_says(amqp_url: str, responder: Responder) -> None:
    """Properties and body, as another implementation of the worker would rely on them."""
    request_id = uuid4()
    async with SessionClient(amqp_url, name="shop") as client:
        response = await client.create_session(
            user_id=USER,
            casefile_id="cf_251013_ABC",
            title="A title",
            timeout=7,
            request_id=request_id,
            metadata={"source": "test"},
        )
    assert response.payload.casefile_id == "cf_251013_abc"
    [message] = responder.requests
    body = CreateSessionRequest.model_validate_json(message.body)
    assert (body.request_id, body.user_id, body.payload.title) == (request_id, USER, "A title")
    assert body.metadata == {"source": "test"}
    assert 0 < seconds(message.expiration) <= 7
    assert message.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert (message.content_type, message.type) == ("application/json", "CreateSessionRequest")
    assert message.headers == {"x-request-id": str(request_id)}
    assert (message.reply_to or "").startswith("session.replies.shop.")
    assert message.timestamp is not None
    assert len({message.message_id, message.correlation_id, str(request_id), None}) == 4


async def test_an_operation_of_ones_own_is_asked_for_like_any_other(amqp_url: str) -> None:
    """Routing key and type follow from the operation, the payload goes by its aliases, and the session that
    the request names stands beside it."""
    async with responding(amqp_url, Names().of(EXTEND.key)) as responder, SessionClient(amqp_url) as client:
        responder.make_reply = lambda message: extended(message, {"until": "later"})
        response = await client.call(
            EXTEND, ExtendSession(m=5), user_id=USER, session_id="ts_251130_A", metadata={"source": "test"}
        )
        again = await client.request(
            EXTEND.request_model(user_id=USER, payload=ExtendSession(m=7), operation=EXTEND.name), EXTEND
        )
    assert response.payload.until == again.payload.until == "later"
    sent, own = responder.requests
    body = json.loads(sent.body)
    assert (sent.routing_key, sent.type) == ("extend_session", "ExtendSessionRequest")
    assert (body["operation"], body["payload"]) == ("extend_session", {"m": 5})
    assert (body["session_id"], body["metadata"]) == ("ts_251130_a", {"source": "test"})
    assert json.loads(own.body)["payload"] == {"m": 7}


async def test_the_methods_for_sessions_ask_what_their_arguments_say(amqp_url: str) -> None:
    """Each by its own routing key, and each gets the payload of its own answer."""
    name = "ts_251130_a"
    summary = {
        "session_id": name,
        "user_id": USER,
        "created_at": "2025-11-30T14:30:00Z",
        "updated_at": "2025-11-30T14:30:00Z",
        "active": True,
        "request_count": 1,
    }
    answers = {
        "get": summary | {"event_count": 3},
        "list": {"sessions": [summary], "total_count": 7, "offset": 2, "limit": 1},
        "close": {"session_id": name, "closed_at": "now", "total_requests": 1, "total_events": 3},
    }
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(SessionClient(amqp_url))
        responders = {}
        for key, payload in answers.items():
            responder = await stack.enter_async_context(responding(amqp_url, Names().of(key)))
            responder.make_reply = partial(extended, payload=payload)
            responders[key] = responder
        got = await client.get_session(name, user_id=USER)
        listed = await client.list_sessions(
            user_id=USER, casefile_id="cf_251013_abc", active_only=False, limit=1, offset=2
        )
        closed = await client.close_session(name, user_id=USER)
    assert (got.payload.session_id, got.payload.event_count) == (name, 3)
    assert ([each.title for each in listed.payload.sessions], listed.payload.total_count) == ([None], 7)
    assert (closed.payload.closed_at, closed.payload.duration_seconds) == ("now", None)
    asked = {key: json.loads(responder.requests[0].body) for key, responder in responders.items()}
    assert {key: body["operation"].partition("_")[0] for key, body in asked.items()} == {
        key: key for key in answers
    }
    assert asked["list"]["payload"] == {
        "user_id": None,
        "casefile_id": "cf_251013_abc",
        "active_only": False,
        "limit": 1,
        "offset": 2,
    }


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"status": "failed", "error": "too late"}, RequestFailed, "too late"),
        ({"status": "completed"}, ReplyInvalid, "completed and has no payload"),
        ({"status": "completed", "payload": {"since": 1}}, ReplyInvalid, "payload.until: is required"),
    ],
)
async def test_an_answer_without_a_payload_is_an_error(
    amqp_url: str, fields: dict[str, object], error: type[Exception], words: str
) -> None:
    """So that what is returned always has one."""
    async with responding(amqp_url, Names().of(EXTEND.key)) as responder, SessionClient(amqp_url) as client:
        responder.make_reply = lambda message: extended(message, **({"payload": None} | fields))
        with pytest.raises(error, match=words):
            await client.call(EXTEND, ExtendSession(m=5), user_id=USER)


async def test_a_call_that_no_worker_serves_names_the_routing_key(
    amqp_url: str, responder: Responder
) -> None:
    async with SessionClient(amqp_url) as client:
        with pytest.raises(RequestNotRouted, match="for 'extend_session'; start a worker that serves it"):
            await client.call(EXTEND, ExtendSession(m=5), user_id=USER)
        await client.create_session(user_id=USER)


async def test_two_calls_with_one_request_id_both_get_an_answer(amqp_url: str, responder: Responder) -> None:
    """The correlation id belongs to the call, not to the request."""
    request_id = uuid4()
    async with SessionClient(amqp_url) as client:
        first, second = await asyncio.gather(
            *(client.create_session(user_id=USER, request_id=request_id) for _ in range(2))
        )
    assert first.request_id == second.request_id == request_id
    assert len({message.correlation_id for message in responder.requests}) == 2


async def test_duplicate_and_foreign_replies_are_dropped(amqp_url: str, responder: Responder) -> None:
    """A call takes the first reply only, and a reply that nobody waits for harms nobody."""
    responder.copies = 3
    async with SessionClient(amqp_url) as client:
        await client.create_session(user_id=USER)
        async with channel_to(amqp_url) as channel:
            await channel.default_exchange.publish(
                aio_pika.Message(b"?"), routing_key=responder.requests[0].reply_to or ""
            )
        request_id = uuid4()
        response = await client.create_session(user_id=USER, request_id=request_id)
    assert response.request_id == request_id
    assert len(responder.requests) == 2


async def test_a_failed_response_is_raised_with_its_code(amqp_url: str, responder: Responder) -> None:
    """RequestFailed carries the response; programs read ``code`` and ``retryable``."""
    responder.make_reply = refusal
    async with SessionClient(amqp_url) as client:
        with pytest.raises(RequestFailed, match="the case is closed") as caught:
            await client.create_session(user_id=USER)
    assert caught.value.code == ErrorCode.REJECTED
    assert caught.value.retryable is False
    assert caught.value.response.error == "the case is closed"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"garbage", "invalid JSON"),
        (b"{}", "status: is required"),
        (
            b'{"request_id":"%s","status":"pending","payload":{"session_id":"s","created_at":"t"}}',
            "not final",
        ),
        (
            b'{"request_id":"%s","status":"completed","payload":{"session_id":"s","created_at":"t"}}',
            "another",
        ),
    ],
)
async def test_a_reply_that_breaks_the_contract_is_a_clear_error(
    amqp_url: str, responder: Responder, body: bytes, problem: str
) -> None:
    """The caller who waits is told at once, and the client works on."""
    responder.make_reply = lambda _: body.replace(b"%s", str(uuid4()).encode())
    async with SessionClient(amqp_url) as client:
        with pytest.raises(ReplyInvalid, match=problem):
            await client.create_session(user_id=USER)


async def test_unknown_fields_of_a_newer_worker_are_ignored(amqp_url: str, responder: Responder) -> None:
    """A tolerant reader: a worker may add fields without breaking its requesters."""
    original = responder.make_reply
    responder.make_reply = lambda message: original(message).replace(b"{", b'{"novelty":1,', 1)
    async with SessionClient(amqp_url) as client:
        assert isinstance(await client.create_session(user_id=USER), CreateSessionResponse)


async def test_a_timeout_carries_the_id_with_which_asking_again_works(
    amqp_url: str, responder: Responder
) -> None:
    """The first call gets no reply; the second, with the id from the error, learns how it ended."""
    responder.ignore = 1
    async with SessionClient(amqp_url) as client:
        with pytest.raises(RequestTimedOut, match="send it again with this request id") as caught:
            await client.create_session(user_id=USER, timeout=0.3)
        response = await client.create_session(user_id=USER, request_id=caught.value.request_id)
    assert response.request_id == caught.value.request_id


async def test_a_try_that_times_out_is_sent_again_with_the_same_id(
    amqp_url: str, responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call, three publishes: each with its own message id and less time to live."""
    monkeypatch.setattr("session_client.call.FIRST_REPLY_WAIT_SECONDS", 0.1)
    responder.ignore = 2
    async with SessionClient(amqp_url) as client:
        response = await client.create_session(user_id=USER, timeout=20)
    assert {str(message.headers["x-request-id"]) for message in responder.requests} == {
        str(response.request_id)
    }
    assert len({message.message_id for message in responder.requests}) == 3
    lives = [seconds(message.expiration) for message in responder.requests]
    assert lives == sorted(lives, reverse=True)
    assert lives[-1] < lives[0]


async def test_without_an_exchange_a_call_is_not_routed_and_others_survive(
    amqp_url: str, responder: Responder
) -> None:
    """The broker closes the channel over it; a call whose request it had taken still gets its reply."""
    responder.may_reply.clear()
    async with SessionClient(amqp_url) as client, channel_to(amqp_url) as channel:
        waiting = asyncio.create_task(client.create_session(user_id=USER))
        await responder.received(1)
        await channel.exchange_delete(Names().exchange)
        for _ in range(3):
            with pytest.raises(RequestNotRouted, match="no exchange 'session'"):
                await client.create_session(user_id=USER)
        responder.may_reply.set()
        await waiting
    assert len(responder.requests) == 1


@both_modes
async def test_a_call_to_an_exchange_without_queues_is_not_routed(amqp_url: str, reply: Mode) -> None:
    """Nobody has to wait for a deadline to learn that there is no worker; 20 at once as well as one."""
    async with channel_to(amqp_url) as channel, SessionClient(amqp_url, reply=reply) as client:
        await channel.declare_exchange(Names().exchange, "topic", durable=True)
        outcomes = await asyncio.gather(
            *(client.create_session(user_id=USER) for _ in range(20)), return_exceptions=True
        )
    assert {type(outcome) for outcome in outcomes} == {RequestNotRouted}


async def test_a_request_the_broker_does_not_accept_is_sent_until_it_does(amqp_url: str) -> None:
    """basic.nack from a full queue: the call waits and tries again, it does not fail."""
    async with channel_to(amqp_url) as channel, SessionClient(amqp_url) as client:
        exchange = await channel.declare_exchange(Names().exchange, "topic", durable=True)
        full = await channel.declare_queue(
            Names().work,
            durable=True,
            arguments={"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"},
        )
        await full.bind(exchange, Names().routing_key)
        await channel.default_exchange.publish(aio_pika.Message(b"in the way"), routing_key=full.name)
        with pytest.raises(RequestTimedOut, match="does not accept"):
            await client.create_session(user_id=USER, timeout=0.2)
        waiting = asyncio.create_task(client.create_session(user_id=USER, timeout=10))
        async with asyncio.timeout(10):
            await full.purge()
            while (request := await full.get(fail=False)) is None:
                assert not waiting.done()
        await channel.default_exchange.publish(
            aio_pika.Message(answer(request), correlation_id=request.correlation_id),
            routing_key=request.reply_to or "",
        )
        await waiting


@both_modes
async def test_closing_ends_waiting_calls_at_once(amqp_url: str, responder: Responder, reply: Mode) -> None:
    """Nobody waits for the reply of a client that is gone; later calls are refused as clearly."""
    responder.may_reply.clear()
    client = SessionClient(amqp_url, reply=reply)
    async with client:
        waiting = asyncio.create_task(client.create_session(user_id=USER))
        await responder.received(1)
    async with asyncio.timeout(1):
        with pytest.raises(ClientClosed, match="outcome of request"):
            await waiting
    with pytest.raises(ClientClosed):
        await client.create_session(user_id=USER)
    with pytest.raises(ClientClosed):
        await client.open()


async def test_a_closed_client_leaves_no_task_and_no_queue(amqp_url: str, responder: Responder) -> None:
    """Its libraries' tasks have ended too, and its reply queue does not wait for its expiry."""
    before = asyncio.all_tasks()
    async with SessionClient(amqp_url) as client:
        await client.create_session(user_id=USER)
    await eventually(lambda: not asyncio.all_tasks() - before)
    async with channel_to(amqp_url) as channel:
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.get_queue(responder.requests[0].reply_to or "")


async def test_a_cancelled_call_leaves_nothing_behind(amqp_url: str, responder: Responder) -> None:
    """Its late reply is dropped and the client works on."""
    responder.may_reply.clear()
    async with SessionClient(amqp_url) as client:
        call = asyncio.create_task(client.create_session(user_id=USER))
        await responder.received(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert client._calls._waiting == {}
        responder.may_reply.set()
        await client.create_session(user_id=USER)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: str(URL(url).with_user("nobody").with_password("s3cret")), "login of user nobody"),
        (
            lambda url: str(URL(url).with_path("/not-there")),
            r"has no vhost not-there, or user \w+ may not",
        ),
        (lambda _: "amqp://guest:s3cret@127.0.0.1:1/", "connection refused: nothing listens there"),
    ],
)
async def test_a_client_that_cannot_start_says_why_and_hides_the_password(
    amqp_url: str, change: object, reason: str
) -> None:
    """One sentence for people instead of a library's traceback."""
    assert callable(change)
    with pytest.raises(ConnectionFailed, match=reason) as caught:
        await SessionClient(change(amqp_url)).open()
    assert "s3cret" not in str(caught.value)


async def test_of_a_cluster_the_first_broker_that_answers_is_used(
    amqp_url: str, responder: Responder
) -> None:
    """A node that is down does not keep the client from starting."""
    async with SessionClient(f"amqp://guest:guest@127.0.0.1:1/, {amqp_url}") as client:
        await client.create_session(user_id=USER)


async def test_a_client_that_is_used_from_another_loop_tells_its_caller(
    amqp_url: str, responder: Responder, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing goes wrong in the loop in which it was opened, where it goes on to work."""
    async with SessionClient(amqp_url) as client:
        call = asyncio.to_thread(lambda: asyncio.run(client.create_session(user_id="ada")))
        with pytest.raises(RuntimeError, match="opened in another event loop; call it there"):
            await call
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(client.close()))
        response = await client.create_session(user_id="ada")
    assert response.status == "completed"
    assert caplog.records == []
