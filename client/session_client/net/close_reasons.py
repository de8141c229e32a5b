"""The reasons for which RabbitMQ closes a channel or a connection, read from its words.

They are read here alone: for the client, the worker, its topology and its doctor.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple

from session_client.net.diagnosis import Diagnosis


class Kind(Enum):
    """What RabbitMQ objects to. Each of its reply codes stands for several of them: only its words tell."""

    LOGIN = auto()
    VHOST = auto()
    PERMISSION = auto()
    LIMIT = auto()
    DIFFERENT = auto()
    UNSUPPORTED = auto()
    LOCKED = auto()
    MISSING = auto()
    TOO_LARGE = auto()
    TOO_SLOW = auto()
    UNAVAILABLE = auto()
    OTHER = auto()


class CloseReason(NamedTuple):
    """``max_bytes``: the limit that the broker names when a message is too large, else 0."""

    kind: Kind
    diagnosis: Diagnosis
    max_bytes: int = 0


_WORDS = re.compile(
    r"(ACCESS_REFUSED|CHANNEL_ERROR|COMMAND_INVALID|CONNECTION_FORCED|CONTENT_TOO_LARGE|FRAME_ERROR|"
    r"INTERNAL_ERROR|INVALID_PATH|NOT_ALLOWED|NOT_FOUND|NOT_IMPLEMENTED|PRECONDITION_FAILED|RESOURCE_ERROR|"
    r"RESOURCE_LOCKED|SYNTAX_ERROR|UNEXPECTED_FRAME)\b.*",
    re.DOTALL,
)
"""A broker's words, behind whatever a library put before them. What is longer than 255 bytes, the broker cuts
off: patterns look at the beginning where they can."""
_NO_ACCESS = re.compile(
    r"ACCESS_REFUSED - (?:(?P<permission>configure|write|read) )?access to (?P<kind>queue|exchange|topic) "
    r"'(?P<name>.*?)'(?: in exchange '(?P<exchange>.*?)')? in vhost '(?P<vhost>.*)' "
    r"refused for user '(?P<user>.*)'",
    re.DOTALL,
)
_NOT_THERE = re.compile(r"NOT_FOUND - no (queue|exchange) '(.*?)' in vhost ", re.DOTALL)
_SIZE = re.compile(r"PRECONDITION_FAILED - message size \d+ is larger than .*max size (\d+)", re.DOTALL)
_REASONS = (
    (
        Kind.PERMISSION,
        r"ACCESS_REFUSED - (\w+ )?access to ",
        "this user lacks a permission ({words})",
        (
            "grant it with `rabbitmqctl set_permissions` or `set_topic_permissions` "
            "(docs/security.md has the patterns)"
        ),
    ),
    (
        Kind.DIFFERENT,
        "PRECONDITION_FAILED - inequivalent arg ",
        "exists with other arguments ({words})",
        "move its messages away, delete it and run `session-worker topology apply`",
    ),
    (
        Kind.UNSUPPORTED,
        (
            "NOT_IMPLEMENTED - |[A-Z_]+ - (invalid (arg|property) |Cannot declare a queue .* feature flag |"
            "Feature `|use of deprecated |.* does not support )"
        ),
        "the broker does not support it ({words})",
        "use RabbitMQ 3.10 or later, and enable its feature flags (`rabbitmqctl enable_feature_flag all`)",
    ),
    (
        Kind.LIMIT,
        (
            r"[A-Z_]+ - (cannot declare queue '|number of channels opened |reached maximum |"
            r".*limit \(\d+\) is reached|.*limit in cluster \(|.*limit cannot be queried)"
        ),
        "a limit of the broker is reached ({words})",
        "raise it (`rabbitmqctl set_vhost_limits` or `set_user_limits`), or make room within it",
    ),
    (
        Kind.LOCKED,
        "RESOURCE_LOCKED - |ACCESS_REFUSED - .* in exclusive use",
        "another connection has it for itself ({words})",
        "close that connection, or use another prefix",
    ),
    (
        Kind.LOGIN,
        "ACCESS_REFUSED - Login was refused",
        "the broker refused the login ({words})",
        "check user and password",
    ),
    (
        Kind.VHOST,
        "NOT_ALLOWED - (access to vhost|vhost .* not found)",
        "the vhost cannot be entered ({words})",
        "create it, or let the user in",
    ),
    (
        Kind.MISSING,
        "NOT_FOUND - no (queue|exchange) ",
        "something is missing ({words})",
        "run `session-worker topology apply`",
    ),
    (
        Kind.TOO_LARGE,
        r"PRECONDITION_FAILED - message size \d+ is larger than ",
        "a message is larger than the broker takes ({words})",
        "raise its max_message_size, or send less",
    ),
    (
        Kind.TOO_SLOW,
        "PRECONDITION_FAILED - (delivery acknowledgement|consumer ack) .*timed out",
        "the broker took back what was held for longer than its consumer_timeout ({words})",
        "raise that, or set a shorter SESSION_WORKER_HANDLER_TIMEOUT",
    ),
    (
        Kind.UNAVAILABLE,
        "INTERNAL_ERROR|NOT_FOUND - (home node|.* is down|.* stopped|failed to )",
        "the broker failed inside ({words}), as it may while it, or another node, starts",
        "its log says why",
    ),
    (Kind.OTHER, "", "the broker ended it ({words})", "its log may say more"),
)
"""Kind, pattern, what is wrong, and what to do."""


def close_reason(text: str, *, queue: str = "", exchange: str = "") -> CloseReason | None:
    """The reason that ``text`` gives for closing a channel or connection; None: it is not the broker's.

    Not every version of the broker names the permission that is missing: ``queue`` and ``exchange`` name the
    one that was needed on either. To the default exchange, one can only write.
    """
    found = _WORDS.search(text)
    if found is None:
        return None
    said = found[0]
    kind, what, fix = next(
        (kind, what, fix) for kind, pattern, what, fix in _REASONS if re.match(pattern, said, re.DOTALL)
    )
    if kind is Kind.PERMISSION and (lacking := _NO_ACCESS.match(said)):
        return CloseReason(kind, _lacking(lacking, queue, exchange))
    if kind is Kind.MISSING and (missing := _NOT_THERE.match(said)):
        declare = "or let the worker declare what is missing (SESSION_WORKER_DECLARE=true)"
        return CloseReason(kind, Diagnosis(f"{missing[1]} {missing[2]}: missing", f"{fix}, {declare}"))
    size = _SIZE.match(said)
    return CloseReason(kind, Diagnosis(what.format(words=said), fix), int(size[1]) if size else 0)


def _lacking(told: re.Match[str], queue: str, exchange: str) -> Diagnosis:
    topic = told["exchange"]
    needed = "write" if told["name"] == "amq.default" else queue if told["kind"] == "queue" else exchange
    permission = told["permission"] or ("topic" if topic else needed)
    where = f"topic {told['name']} of exchange {topic}" if topic else f"{told['kind']} {told['name']}"
    command = "set_topic_permissions" if topic else "set_permissions"
    return Diagnosis(
        f"user {told['user']} has no {permission} permission on {where} in vhost {told['vhost']}",
        f"grant it with `rabbitmqctl {command}` (docs/security.md has the patterns)",
    )
