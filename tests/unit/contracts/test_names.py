"""Names on the broker, and the reply addresses a worker may send to."""

import re
from time import process_time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from session_contracts import DEFAULT_REPLY_TO_ALLOW, DIRECT_REPLY_TO, Names, amqp, is_direct_reply_to

PID_44 = "g1h2AA5yZXBseUA2ODc4MTMzNAAAcEoAAAAAaS8eQg=="
PID_40 = "g1h2AA1yZXBseUA2ODc4MTMzAABwSgAAAABpLx5C"
KEY = "Zx3eOMdXy4lbhrIQ8fO9iA=="
ALLOWED = re.compile(DEFAULT_REPLY_TO_ALLOW)


def test_names_are_those_of_the_contract() -> None:
    names = Names()
    assert (names.exchange, names.routing_key, names.work) == ("session", "create", "session.create")
    assert names.retry(5) == "session.create.retry.5s"
    assert (names.undelivered, names.dead) == ("session.create.undelivered", "session.create.dead")
    assert names.replies == "session.replies"


def test_prefix_is_first_in_every_name() -> None:
    names = Names("acme.session")
    everything = (names.exchange, names.work, names.retry(1), names.undelivered, names.dead, names.replies)
    assert all(name.startswith("acme.session") for name in everything)


@pytest.mark.parametrize("queue", ["work", "dead", "undelivered", "ledger", "replies"])
def test_queues_of_an_installation_are_ours(queue: str) -> None:
    assert Names("acme").is_ours(getattr(Names("acme"), queue))
    assert Names("acme").is_ours(Names("acme").retry(7)), "also one of a worker with other delays"
    assert Names("acme").is_ours(getattr(Names("acme", "extend"), queue)), "also those of other operations"


@pytest.mark.parametrize(
    "queue",
    ["", "acme", "acme.replies.web.7", "acme.replies-of-web", "session.create", "amq.gen-1", "acmes.create"],
)
def test_other_queues_are_not_ours(queue: str) -> None:
    assert not Names("acme").is_ours(queue)


def test_headers_have_names_of_their_own() -> None:
    headers = [value for value in vars(amqp).values() if isinstance(value, str) and value.startswith("x-")]
    assert len(headers) == len(set(headers)) > 0


@pytest.mark.parametrize(
    "name",
    [
        f"{DIRECT_REPLY_TO}.{PID_44}.{KEY}",
        f"{DIRECT_REPLY_TO}.{PID_40}.{KEY}",
        f"{DIRECT_REPLY_TO}.{'Ab+/' * 11}.{'Ab+/' * 6}",
        "amq.gen-Xw3fWq8mBZ0lHq2v1a-_9Q",
        "amq_0123456789abcdef0123456789abcdef",
        "spring.gen-Xw3fWq8mBZ0lHq2v1a-_9Q",
        "session.replies",
        "session.replies.web.7f3a",
        "my-app.replies.7",
        "rpc.reply.x",
        "reply",
        "response",
        "callback.42",
        "orders.responses",
        "orders-replies",
        "orders_reply_7",
        "orders:callback",
        "tenant/replies/7",
        "reply." + "x" * 249,
    ],
)
def test_reply_addresses_are_allowed(name: str) -> None:
    assert ALLOWED.match(name)
    assert ALLOWED.search(name)
    assert ALLOWED.fullmatch(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "orders",
        "session",
        "session.create",
        "session.create.retry.5s",
        "session.create.undelivered",
        "session.create.dead",
        "session.replying",
        "replyx.orders",
        "xreply",
        "Session.Replies",
        "amq.direct",
        "amq.topic.replies",
        "amq.gen-",
        "amq_",
        DIRECT_REPLY_TO,
        f"{DIRECT_REPLY_TO}.",
        f"{DIRECT_REPLY_TO}.x",
        f"{DIRECT_REPLY_TO}.replies",
        f"{DIRECT_REPLY_TO}.x.replies",
        f"{DIRECT_REPLY_TO}.{PID_44}",
        f"{DIRECT_REPLY_TO}.{PID_44}.{KEY[:-1]}",
        f"{DIRECT_REPLY_TO}.{PID_44[:-1]}.{KEY}",
        f"{DIRECT_REPLY_TO}.{PID_44}.{KEY}.replies",
        f"{DIRECT_REPLY_TO}.{PID_44}.{KEY}\n",
        f"{DIRECT_REPLY_TO}.{PID_44.replace('A', '-')}.{KEY}",
        f"{DIRECT_REPLY_TO}.{PID_44.replace('A', '_')}.{KEY}",
        f"{DIRECT_REPLY_TO}.=={PID_44[:-2]}.{KEY}",
        "session.replies\n",
        "session.replies\r\nx",
        "session.replies\0",
        "réponse.replies",
        "reply." + "x" * 250,
    ],
)
def test_other_addresses_are_not_allowed(name: str) -> None:
    assert not ALLOWED.search(name)


@pytest.mark.parametrize("name", ["x.amq.rabbitmq.reply-to", "amq.rabbitmq", "session.replies"])
def test_ordinary_names_are_not_direct_reply_to(name: str) -> None:
    assert not is_direct_reply_to(name)


@pytest.mark.parametrize("rest", ["", ".", ".x", f".{PID_44}.{KEY}"])
def test_direct_reply_to_is_recognised_well_formed_or_not(rest: str) -> None:
    assert is_direct_reply_to(DIRECT_REPLY_TO + rest)


@given(st.text(alphabet="abey.-_:/", max_size=20), st.text(alphabet="abey.-_:/", max_size=20))
@example("orders.", ".7")
def test_a_segment_is_a_whole_segment(before: str, after: str) -> None:
    expected = (not before or before[-1] in "._:/-") and (not after or after[0] in "._:/-")
    assert bool(ALLOWED.search(f"{before}callback{after}")) is expected


@pytest.mark.parametrize(
    "name",
    [
        ".reply" * 42 + "!",
        "reply." * 42 + "!",
        "-" * 254 + "!",
        "response" * 31 + "!",
        "." * 100 + "responses" + "." * 100 + "!",
        "amq_" + "a" * 250 + "!",
        f"{DIRECT_REPLY_TO}." + "A" * 232,
        "callback-" * 100_000 + "!",
    ],
)
def test_matching_takes_no_time_worth_naming(name: str) -> None:
    """The name is the requester's choice: no backtracking that grows out of hand."""
    start = process_time()
    for _ in range(100):
        assert not ALLOWED.search(name)
    assert process_time() - start < 1.0
