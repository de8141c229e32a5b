"""From a delivery to a request, or to the reason why it is none. The requester is not trusted."""

import json
from time import process_time
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from session_contracts import ErrorCode
from session_contracts.amqp import REQUEST_ID
from session_worker.requests.parse import MAX_TIME_TO_LIVE
from session_worker.requests.request import NIL_ID, Refusal, Request
from tests.support import parts
from tests.support.parts import body, delivery, parser

IDS = [UUID(int=number) for number in range(1, 5)]
DIRECT = "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA2ODc4MTMzNAAAcEoAAAAAaS8eQg==.Zx3eOMdXy4lbhrIQ8fO9iA=="
SECRET = "hunter2-secret-value"


def _request(**fields: Any) -> Request:
    parsed = parser().parse(delivery(fields.pop("content", None), **fields))
    assert isinstance(parsed, Request), parsed
    return parsed


def _refusal(content: bytes | None = None, **fields: Any) -> Refusal:
    parsed = parser().parse(delivery(content, **fields))
    assert isinstance(parsed, Refusal), parsed
    return parsed


# ------------------------------------------------------------------------------------------ identity


@pytest.mark.parametrize("first", range(4), ids=["body", "x-request-id", "message_id", "correlation_id"])
def test_id_is_the_bodys_then_the_headers_then_the_message_ids_then_the_correlation_ids(first: int) -> None:
    """Each place counts only when those before it hold no id."""
    content = body(IDS[0]) if first == 0 else body()
    headers = {REQUEST_ID: str(IDS[1])} if first <= 1 else {}
    message_id = str(IDS[2]) if first <= 2 else "message-7"
    found = _request(content=content, headers=headers, message_id=message_id, correlation_id=str(IDS[3]))
    assert found.request_id == IDS[first]


NEARLY = ["1_1_1" + "0" * 27, "\uff11" * 32, "----" + "1" * 32, "1" * 31 + "g"]
"""What Python reads as UUIDs, or nearly: an answer under such an id would be nobody's."""


@pytest.mark.parametrize(
    "no_id", ["", "7", "x" * 5000, "{}", b"bytes", 7, None, {"a": [1]}, uuid4(), *NEARLY]
)
def test_header_that_holds_no_id_is_passed_over(no_id: object) -> None:
    found = _request(content=body(), headers={REQUEST_ID: no_id}, message_id=str(IDS[2]))
    assert found.request_id == IDS[2]


def test_header_of_a_copy_that_holds_the_nil_uuid_says_that_the_message_id_is_the_copys() -> None:
    """The copy's ``message_id`` was made when it was published, the ``correlation_id`` is its requester's."""
    copy: dict[str, Any] = {"headers": {REQUEST_ID: str(NIL_ID)}, "message_id": str(IDS[2])}
    assert _refusal(body(), correlation_id="call-7", **copy).code is ErrorCode.MISSING_REQUEST_ID
    assert _request(content=body(), correlation_id=str(IDS[3]), **copy).request_id == IDS[3]


def test_request_without_any_id_is_refused_instead_of_getting_a_new_one() -> None:
    """The model's default would make a new request of every redelivery."""
    refusal = _refusal(body(), correlation_id="call-7", message_id="message-7")
    assert refusal.code is ErrorCode.MISSING_REQUEST_ID
    assert (refusal.request_id, refusal.correlation_id) == (None, "call-7")


def test_nil_uuid_is_no_request_id() -> None:
    refusal = _refusal(body(NIL_ID), correlation_id="call-7")
    assert refusal.code is ErrorCode.INVALID_REQUEST
    assert "nil UUID" in refusal.error


def test_null_is_no_request_id_even_when_a_property_holds_one() -> None:
    refusal = _refusal(body(request_id=None), message_id=str(IDS[2]))
    assert (refusal.code, refusal.request_id) == (ErrorCode.INVALID_REQUEST, IDS[2])


def test_redelivery_is_the_same_request() -> None:
    """Nothing in a parsed request is drawn anew: id and fingerprint depend on the delivery alone."""
    content = body()
    one, other = (_request(content=content, message_id=str(IDS[2])) for _ in range(2))
    assert (one.request_id, one.fingerprint) == (other.request_id, other.fingerprint)
    assert not {"request_id", "timestamp"} & one.model.model_fields_set


# --------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"{",
        b"\xff\xfe{}",
        b'{"user_id": "\xff"}',
        b"[" * 4000,
        b"{} {}",
        b"nul",
        b"[]",
        b"7",
        b'"text"',
        b"null",
    ],
)
def test_body_that_is_no_json_object_is_unreadable(content: bytes) -> None:
    refusal = _refusal(content, correlation_id="call-7")
    assert refusal.code is ErrorCode.UNREADABLE
    assert (refusal.request_id, refusal.correlation_id) == (None, "call-7")


def test_body_that_breaks_rules_is_refused_by_naming_fields_and_never_values() -> None:
    content = body(
        IDS[0],
        user_id=SECRET + "@",
        payload={"title": SECRET * 11, "casefile_id": SECRET},
        hooks=[SECRET * 20],
    )
    refusal = _refusal(content)
    assert refusal.code is ErrorCode.INVALID_REQUEST
    assert all(
        field in refusal.error for field in ("user_id", "payload.title", "payload.casefile_id", "hooks")
    )
    assert SECRET not in refusal.error
    assert (refusal.request_id, refusal.correlation_id) == (IDS[0], str(IDS[0]))


@pytest.mark.parametrize("operation", ["delete_session", SECRET, "", 7, None, ["create_session"]])
def test_other_operation_is_said_to_be_unsupported(operation: object) -> None:
    """Also when more is wrong: the requester talks to the wrong worker."""
    refusal = _refusal(body(IDS[0], operation=operation, user_id=""))
    assert refusal.code is ErrorCode.UNSUPPORTED_OPERATION
    assert SECRET not in refusal.error


def test_body_of_exactly_the_limit_is_read_and_one_byte_more_is_not() -> None:
    content = body(IDS[0])
    fits = parser(limit=len(content)).parse(delivery(content))
    assert isinstance(fits, Request)
    refusal = parser(limit=len(content) - 1).parse(delivery(content, message_id=str(IDS[2])))
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.TOO_LARGE
    assert str(len(content)) in refusal.error
    assert refusal.request_id is None, "a body that is not read may name another id than the message does"
    assert refusal.correlation_id == str(IDS[2])


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/x.y+json",
    ],
)
@pytest.mark.parametrize("encoding", [None, "", "utf-8", "UTF-8", "utf8", "identity"])
def test_json_is_read_under_each_of_its_names(content_type: str | None, encoding: str | None) -> None:
    assert _request(content_type=content_type, content_encoding=encoding)


@pytest.mark.parametrize(
    "fields",
    [
        {"content_type": "application/python-pickle"},
        {"content_type": "text/plain"},
        {"content_type": "application/jsonp"},
        {"content_type": SECRET},
        {"content_encoding": "gzip"},
        {"content_encoding": "latin-1"},
        {"content_encoding": SECRET},
    ],
)
def test_what_is_declared_to_be_something_else_is_unreadable(fields: dict[str, str]) -> None:
    refusal = _refusal(body(IDS[0]), **fields)
    assert refusal.code is ErrorCode.UNREADABLE
    assert next(iter(fields)) in refusal.error
    assert SECRET not in refusal.error
    assert refusal.request_id == IDS[0]


def test_illegible_properties_are_refused_and_answered_by_the_id_in_the_body() -> None:
    refusal = _refusal(body(IDS[0]), illegible="content_type")
    assert "content_type" in refusal.error
    assert refusal.code is ErrorCode.UNREADABLE
    assert (refusal.request_id, refusal.correlation_id, refusal.reply_to) == (
        IDS[0],
        str(IDS[0]),
        parts.NAMES.replies,
    )


def test_refusal_that_nobody_could_match_has_no_correlation_id() -> None:
    assert _refusal(b"garbage").correlation_id is None
    assert _refusal(b"garbage", correlation_id="call-7").correlation_id == "call-7"
    assert _refusal(b"garbage", message_id=str(IDS[2])).correlation_id == str(IDS[2])


# ------------------------------------------------------------------------------------------ reply_to


@pytest.mark.parametrize("reply_to", [None, ""])
def test_request_that_names_no_reply_to_is_answered_on_the_default_queue(reply_to: str | None) -> None:
    assert _request(reply_to=reply_to).reply_to == "session.replies"


@pytest.mark.parametrize(
    "reply_to", [DIRECT, "amq.gen-x1", "amq_0123abcd", "session.replies.me", "app.reply"]
)
def test_reply_to_of_a_requester_is_used_as_it_is(reply_to: str) -> None:
    assert _request(reply_to=reply_to).reply_to == reply_to


@pytest.mark.parametrize(
    "reply_to", ["orders.work", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.x", f"{DIRECT}\n", SECRET]
)
def test_reply_to_outside_the_allow_list_is_refused_on_the_default_queue(reply_to: str) -> None:
    """The answer names the setting, echoes nothing, and still reaches whoever watches the default queue."""
    refusal = _refusal(body(IDS[0]), reply_to=reply_to, correlation_id="call-7")
    assert refusal.code is ErrorCode.REPLY_TO_FORBIDDEN
    assert (refusal.reply_to, refusal.request_id, refusal.correlation_id) == (
        "session.replies",
        IDS[0],
        "call-7",
    )
    assert refusal.casefile_id == parts.CASEFILE_ID
    assert "SESSION_WORKER_REPLY_TO_ALLOW" in refusal.error
    assert reply_to not in refusal.error


@pytest.mark.parametrize("prefix", ["session", "acme.session", "a.reply", "replies"])
@pytest.mark.parametrize("allow", [".*", r"[\s\S]*"])
def test_own_queues_are_never_replied_to_whatever_the_allow_list_says(prefix: str, allow: str) -> None:
    """A reply there would be a request again, or hide among the parked."""
    own = parser(allow, prefix=prefix)
    for queue in (
        "create",
        "create.retry.5s",
        "create.undelivered",
        "create.dead",
        "create.reply",
        "get",
        "extend_session",
    ):
        refusal = own.parse(delivery(reply_to=f"{prefix}.{queue}"))
        assert isinstance(refusal, Refusal), queue
        assert refusal.reply_to == f"{prefix}.replies"
    for allowed in (f"{prefix}.replies", f"x{prefix}.create", f"{prefix}-create.dead"):
        assert isinstance(own.parse(delivery(reply_to=allowed)), Request), allowed


def test_own_queue_under_a_prefix_that_reads_like_replies_is_forbidden_by_default_too() -> None:
    parsed = parser(prefix="my.replies").parse(delivery(reply_to="my.replies.create"))
    assert isinstance(parsed, Refusal)


@given(reply_to=st.text(max_size=60), garbage=st.booleans())
def test_nothing_is_ever_sent_to_a_forbidden_address(reply_to: str, garbage: bool) -> None:
    """Requests and refusals of every kind go to the default queue or to an allowed address."""
    parsed = parser(r"fine\..*").parse(delivery(b"garbage" if garbage else None, reply_to=reply_to))
    assert parsed.reply_to in {"session.replies", reply_to}
    assert parsed.reply_to == "session.replies" or reply_to.startswith("fine.")


@pytest.mark.parametrize("content", [b"garbage", body(IDS[0], user_id="")])
def test_refusal_of_a_body_goes_to_the_requesters_own_address(content: bytes) -> None:
    assert _refusal(content, reply_to="session.replies.me").reply_to == "session.replies.me"
    assert _refusal(content, reply_to="session.create").reply_to == "session.replies"


# ------------------------------------------------------------------------- correlation and expiration


@pytest.mark.parametrize("correlation_id", ["call-7", " ", "ü" * 100, str(IDS[3])])
def test_correlation_id_is_echoed_verbatim(correlation_id: str) -> None:
    assert _request(correlation_id=correlation_id).correlation_id == correlation_id


@pytest.mark.parametrize("correlation_id", [None, ""])
def test_request_id_stands_in_for_a_missing_correlation_id(correlation_id: str | None) -> None:
    assert _request(content=body(IDS[0]), correlation_id=correlation_id).correlation_id == str(IDS[0])


@pytest.mark.parametrize(
    ("expiration", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("1500", 1.5),
        ("000000001500", 1.5),
        ("9" * 255, MAX_TIME_TO_LIVE),
        ("-5", None),
        ("1e9", None),
        ("soon", None),
        ("١٢", None),
        ("²", None),
        (" 5", None),
    ],
)
def test_expiration_in_milliseconds_is_the_time_to_live_in_seconds(
    expiration: str | None, seconds: float | None
) -> None:
    assert _request(expiration=expiration).time_to_live == seconds


@pytest.mark.parametrize("expiration", [7, ["5"], "9" * 30_000])
def test_forged_expiration_does_no_harm(expiration: Any) -> None:
    assert _request(expiration=expiration).time_to_live in (None, MAX_TIME_TO_LIVE)


def test_byte_order_mark_is_skipped() -> None:
    """What is good JSON behind it is the same request as without it; what is not is still answered."""
    plain = parts.body(uuid4())
    marked = parts.parser().parse(parts.delivery(b"\xef\xbb\xbf" + plain))
    bare = parts.parser().parse(parts.delivery(plain))
    assert isinstance(marked, Request)
    assert isinstance(bare, Request)
    assert (marked.request_id, marked.fingerprint) == (bare.request_id, bare.fingerprint)
    request_id = uuid4()
    refused = parts.parser().parse(parts.delivery(b"\xef\xbb\xbf" + parts.body(request_id, user_id="a")))
    assert isinstance(refused, Refusal)
    assert refused.request_id == request_id


@pytest.mark.parametrize("expiration", [None, "60000"])
def test_time_to_live_of_what_the_broker_saw_expire_is_over(expiration: str | None) -> None:
    assert _request(expired=True, expiration=expiration).time_to_live == 0


# ---------------------------------------------------------------------------------------------- fuzz

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.uuids().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["request_id", "user_id", "operation", "payload", "metadata", "timestamp", "hooks", "session_id"]
)
BODIES = (
    st.binary(max_size=200)
    | st.dictionaries(FIELDS, JSON, max_size=8).map(lambda document: json.dumps(document).encode())
    | st.dictionaries(FIELDS, JSON, max_size=2).map(lambda document: body(IDS[0], **document))
)
TEXTS = st.none() | st.text(max_size=255)


@given(
    content=BODIES,
    headers=st.dictionaries(
        st.sampled_from([REQUEST_ID, "x-death", "x"]) | st.text(max_size=5), ANYTHING, max_size=3
    ),
    texts=st.fixed_dictionaries(
        {
            "correlation_id": TEXTS,
            "reply_to": TEXTS,
            "message_id": TEXTS | st.uuids().map(str),
            "content_type": TEXTS | st.just("application/json"),
            "content_encoding": st.none() | TEXTS,
            "expiration": TEXTS | st.integers().map(str),
        }
    ),
    illegible=st.sampled_from(["", "reply_to"]),
)
@example(content=b'{"request_id": 1e999}', headers={REQUEST_ID: b"\xff"}, texts={}, illegible="")
@example(content=b'{"a":' * 500, headers={}, texts={}, illegible="")
@example(content=body(IDS[0]), headers={}, texts={"expiration": "9" * 255}, illegible="")
def test_every_delivery_becomes_a_request_or_a_refusal(
    content: bytes, headers: dict[str, Any], texts: dict[str, Any], illegible: str
) -> None:
    """Never an exception, and whatever comes out can be answered: by an id, or by the correlation id."""
    parsed = parser().parse(delivery(content, headers=headers, illegible=illegible, **texts))
    if isinstance(parsed, Request):
        assert parsed.request_id != NIL_ID
        assert len(parsed.fingerprint) == 32
        assert parsed.correlation_id
        assert parsed.time_to_live is None or 0 <= parsed.time_to_live <= MAX_TIME_TO_LIVE
    else:
        assert parsed.code in ErrorCode
        assert 0 < len(parsed.error) <= 2000
        assert parsed.request_id is None or parsed.correlation_id is not None


HOSTILE = {
    "deep": b"[" * 262_144,
    "deep in metadata": body(IDS[0])[:-1] + b', "metadata": ' + b'{"a":' * 40_000,
    "many wrong items": body(IDS[0], hooks=[7] * 60_000),
    "many values": body(IDS[0], metadata={str(n): n for n in range(15_000)}),
    "long number": body(IDS[0])[:-1] + b', "metadata": {"a": ' + b"9" * 200_000 + b"}}",
    "long id": body("f" * 200_000),
    "long user": body(IDS[0], user_id="@." * 100_000),
    "long casefile": body(IDS[0], payload={"casefile_id": "cf_" + "2" * 200_000}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_body_is_refused_in_a_moment(content: bytes) -> None:
    """Garbage costs no more than a good request: a quarter of a megabyte takes milliseconds, not seconds."""
    patient = parser(limit=300_000)
    start = process_time()
    refusal = patient.parse(delivery(content))
    assert process_time() - start < 0.25
    assert isinstance(refusal, Refusal)
    assert len(refusal.error) <= 2000


def test_hostile_reply_to_is_refused_in_a_moment() -> None:
    start = process_time()
    for text in ("a." * 127, "reply" * 51, "x-" * 127, "amq." + "/" * 250, "." * 255):
        parser().parse(delivery(reply_to=text, message_id="-" * 255, correlation_id="{" * 255))
    assert process_time() - start < 0.25
