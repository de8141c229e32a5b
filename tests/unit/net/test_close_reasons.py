# ruff: noqa: E501 - the broker's words as they came
"""What the broker's words mean; all of them were said by RabbitMQ 3.10.8 or 4.0.5, or stand in their code."""

from __future__ import annotations

import pytest

from session_client.net.close_reasons import CloseReason, Kind, close_reason

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'ex' in vhost 't'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the original "
    "declaration."
)
SAID = {
    "PRECONDITION_FAILED - cannot declare queue 'd': queue limit in vhost 't' (2) is reached": Kind.LIMIT,
    "PRECONDITION_FAILED - cannot declare queue 'd': queue limit in cluster (2) is reached": Kind.LIMIT,
    "NOT_ALLOWED - number of channels opened for user 'ada' has reached the maximum allowed user limit of (2)": (
        Kind.LIMIT
    ),
    "NOT_ALLOWED - number of channels opened on node 'a@b' has reached the maximum allowed limit of (2)": (
        Kind.LIMIT
    ),
    "NOT_ALLOWED - number of channels opened (8) has reached the negotiated channel_max (8)": Kind.LIMIT,
    "NOT_ALLOWED - reached maximum (1) of consumers per channel": Kind.LIMIT,
    "NOT_ALLOWED - connection refused for user 'ada': user connection limit (1) is reached": Kind.LIMIT,
    "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'a' in vhost 't': received '3' but "
    "current is '20'": Kind.DIFFERENT,
    "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost 't': received 'topic' but current is "
    "'direct'": Kind.DIFFERENT,
    "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'limit' in vhost 'limit (2) is reached': received "
    "'true' but current is 'false'": Kind.DIFFERENT,
    "PRECONDITION_FAILED - invalid arg 'x-dead-letter-strategy' for queue 'n' in vhost 't' of queue type "
    "rabbit_classic_queue": Kind.UNSUPPORTED,
    "INTERNAL_ERROR - Cannot declare a queue 'q' of type 'rabbit_quorum_queue' on node 'a@b': the corresponding "
    "feature flag is disabled": Kind.UNSUPPORTED,
    "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nBy default, this feature is not permitted "
    "anymore.": Kind.UNSUPPORTED,
    "NOT_IMPLEMENTED - queue 'a' in vhost 't' does not support global qos": Kind.UNSUPPORTED,
    LOCKED: Kind.LOCKED,
    "ACCESS_REFUSED - queue 'c' in vhost 't' in exclusive use": Kind.LOCKED,
    "ACCESS_REFUSED - queue name 'amq.foo' contains reserved prefix 'amq.*'": Kind.OTHER,
    "NOT_FOUND - no queue 'session.create' in vhost 't'": Kind.MISSING,
    "NOT_FOUND - no exchange 'session' in vhost 't'": Kind.MISSING,
    "NOT_FOUND - home node 'a@b' of durable queue 'q' in vhost 't' is down or inaccessible": Kind.UNAVAILABLE,
    "INTERNAL_ERROR - Cannot declare quorum queue 'q' in vhost 't' on node 'a@b' with leader on node 'a@b': timeout": (
        Kind.UNAVAILABLE
    ),
    "INTERNAL_ERROR": Kind.UNAVAILABLE,
    "PRECONDITION_FAILED - message size 17825792 is larger than configured max size 16777216": Kind.TOO_LARGE,
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms. This "
    "timeout value can be configured, see consumers doc guide to learn more": Kind.TOO_SLOW,
    "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'": Kind.OTHER,
    "PRECONDITION_FAILED - unknown delivery tag 77": Kind.OTHER,
    "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.": (
        Kind.LOGIN
    ),
    "NOT_ALLOWED - vhost limit not found": Kind.VHOST,
    "NOT_ALLOWED - access to vhost 'limit' refused for user 'ada'": Kind.VHOST,
    "NOT_ALLOWED - access to vhost 'v' refused for user 'ada': connection limit (0) is reached": Kind.LIMIT,
    "NOT_ALLOWED - attempt to reuse consumer tag 'replies'": Kind.OTHER,
    "CHANNEL_ERROR - expected 'channel.open'": Kind.OTHER,
    "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'": Kind.OTHER,
}
REFUSED = "ACCESS_REFUSED - {}access to {} in vhost '{}' refused for user 'ada'"


def told(text: str, **taken: str) -> CloseReason:
    found = close_reason(text, **taken)
    assert found is not None
    return found


@pytest.mark.parametrize(("text", "kind"), SAID.items())
def test_the_kind_is_told_by_the_words_and_not_by_the_code(text: str, kind: Kind) -> None:
    """Only what exists with other arguments is to be deleted; whatever a library puts before the words."""
    for before in ("", "406 ", "ChannelPreconditionFailed: ", "(320, '"):
        found = told(before + text)
        assert found.kind is kind
        assert ("delete it" in found.diagnosis.fix) is (kind is Kind.DIFFERENT)
        assert found.diagnosis.what
        assert found.diagnosis.fix


def test_a_limit_is_told_with_the_commands_that_raise_it() -> None:
    text = "PRECONDITION_FAILED - cannot declare queue 'd': queue limit in vhost 't' (2) is reached"
    assert text in told(text).diagnosis.what
    assert "rabbitmqctl set_vhost_limits" in told(text).diagnosis.fix


@pytest.mark.parametrize(
    ("text", "permission"),
    [
        (
            REFUSED.format("", "queue 'session.create'", "/"),
            "read permission on queue session.create in vhost /",
        ),
        (
            REFUSED.format("", "exchange 'session'", "/"),
            "configure permission on exchange session in vhost /",
        ),
        (
            REFUSED.format("", "exchange 'amq.default'", "/"),
            "write permission on exchange amq.default in vhost /",
        ),
        (REFUSED.format("write ", "queue 'q'", "o'neill"), "write permission on queue q in vhost o'neill"),
        (
            REFUSED.format("", "topic 'create' in exchange 'session'", "/"),
            (
                "topic permission on topic create of exchange session in vhost /; grant it with `rabbitmqctl "
                "set_topic_permissions`"
            ),
        ),
        (
            REFUSED.format("write ", "topic 'create' in exchange 'session'", "/"),
            "write permission on topic create of exchange session",
        ),
    ],
)
def test_a_missing_permission_is_named(text: str, permission: str) -> None:
    """The one that was asked for, unless the broker names it; the default exchange is only written to."""
    found = told(text, queue="read", exchange="configure")
    assert found.kind is Kind.PERMISSION
    assert str(found.diagnosis).startswith(f"user ada has no {permission}")


def test_what_the_broker_cut_off_is_still_told_by_its_beginning() -> None:
    """Its words have room for 255 bytes."""
    cut = REFUSED.format("", "queue 'session.create'", "v" * 250)[:252] + "..."
    assert told(cut).kind is Kind.PERMISSION
    assert "set_permissions" in told(cut).diagnosis.fix
    limit = f"PRECONDITION_FAILED - cannot declare queue '{'q' * 255}"[:252] + "..."
    assert told(limit).kind is Kind.LIMIT


def test_a_name_is_not_taken_for_the_brokers_words() -> None:
    found = told("NOT_FOUND - no queue 'access to queue' in vhost '/'", queue="read")
    assert found.kind is Kind.MISSING
    assert str(found.diagnosis).startswith(
        "queue access to queue: missing; run `session-worker topology apply`"
    )


@pytest.mark.parametrize("text", ["", "None", "Connection reset by peer", "the connection was lost - why?"])
def test_other_words_are_not_the_brokers(text: str) -> None:
    assert close_reason(text) is None


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("PRECONDITION_FAILED - message size 3014 is larger than configured max size 2000", 2000),
        ("PRECONDITION_FAILED - message size 3014 is larger than max size 2000", 2000),
        ("PRECONDITION_FAILED - unknown delivery tag 77", 0),
    ],
)
def test_the_limit_is_told_of_a_message_that_is_too_large(text: str, limit: int) -> None:
    assert told(text).max_bytes == limit
