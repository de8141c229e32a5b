"""The meaning of the words with which RabbitMQ closes a channel, or a connection that was open.

They are read here alone: for the client, the worker, its topology and its doctor.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple


class Kind(Enum):
    """What RabbitMQ objects to. Each of its reply codes stands for several of them: only its words tell."""

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


class Objection(NamedTuple):
    """Why the broker closed a channel or an open connection. ``sentence``: what is wrong; what to do."""

    kind: Kind
    sentence: str


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
_OBJECTIONS = (
    (
        Kind.PERMISSION,
        r"ACCESS_REFUSED - (\w+ )?access to ",
        (
            "this user lacks a permission ({words}); grant it with `rabbitmqctl set_permissions` or "
            "`set_topic_permissions` (docs/security.md has the patterns)"
        ),
    ),
    (
        Kind.DIFFERENT,
        "PRECONDITION_FAILED - inequivalent arg ",
        (
            "exists with other arguments ({words}); move its messages away, delete it and run "
            "`session-worker topology apply`"
        ),
    ),
    (
        Kind.UNSUPPORTED,
        (
            "NOT_IMPLEMENTED - |[A-Z_]+ - (invalid (arg|property) |Cannot declare a queue .* feature flag |"
            "Feature `|use of deprecated |.* does not support )"
        ),
        (
            "the broker does not support it ({words}); use RabbitMQ 3.10 or later, and enable its feature "
            "flags (`rabbitmqctl enable_feature_flag all`)"
        ),
    ),
    (
        Kind.LIMIT,
        (
            r"[A-Z_]+ - (cannot declare queue '|number of channels opened |reached maximum |"
            r".*limit \(\d+\) is reached|.*limit in cluster \(|.*limit cannot be queried)"
        ),
        (
            "a limit of the broker is reached ({words}); raise it (`rabbitmqctl set_vhost_limits` or "
            "`set_user_limits`), or make room within it"
        ),
    ),
    (
        Kind.LOCKED,
        "RESOURCE_LOCKED - |ACCESS_REFUSED - .* in exclusive use",
        "another connection has it for itself ({words}); close that connection, or use another prefix",
    ),
    (
        Kind.MISSING,
        "NOT_FOUND - no (queue|exchange) ",
        "something is missing ({words}); run `session-worker topology apply`",
    ),
    (
        Kind.TOO_LARGE,
        r"PRECONDITION_FAILED - message size \d+ is larger than ",
        "a message is larger than the broker takes ({words}); raise its max_message_size, or send less",
    ),
    (
        Kind.TOO_SLOW,
        "PRECONDITION_FAILED - (delivery acknowledgement|consumer ack) .*timed out",
        (
            "the broker took back what was held for longer than its consumer_timeout ({words}); raise that, "
            "or set a shorter SESSION_WORKER_HANDLER_TIMEOUT"
        ),
    ),
    (
        Kind.UNAVAILABLE,
        "INTERNAL_ERROR|NOT_FOUND - (home node|.* is down|.* stopped|failed to )",
        "the broker failed inside ({words}), as it may while it, or another node, starts; its log says why",
    ),
    (Kind.OTHER, "", "the broker ended it ({words}); its log may say more"),
)


def objection(text: str, *, queue: str = "", exchange: str = "") -> Objection | None:
    """The meaning of ``text``, with which RabbitMQ closed a channel or connection; None: it is none of its.

    Not every version of the broker names the permission that is missing: ``queue`` and ``exchange`` name the
    one that was needed on either. To the default exchange, one can only write.
    """
    found = _WORDS.search(text)
    if found is None:
        return None
    said = found[0]
    kind, sentence = next(
        (kind, sentence) for kind, pattern, sentence in _OBJECTIONS if re.match(pattern, said, re.DOTALL)
    )
    if kind is Kind.PERMISSION and (lacking := _NO_ACCESS.match(said)):
        return Objection(kind, _lacking(lacking, queue, exchange))
    if kind is Kind.MISSING and (missing := _NOT_THERE.match(said)):
        return Objection(
            kind,
            f"{missing[1]} {missing[2]}: missing; run `session-worker topology apply`, or let the worker "
            "declare what is missing (SESSION_WORKER_DECLARE=true)",
        )
    return Objection(kind, sentence.format(words=said))


def _lacking(told: re.Match[str], queue: str, exchange: str) -> str:
    topic = told["exchange"]
    needed = "write" if told["name"] == "amq.default" else queue if told["kind"] == "queue" else exchange
    permission = told["permission"] or ("topic" if topic else needed)
    where = f"topic {told['name']} of exchange {topic}" if topic else f"{told['kind']} {told['name']}"
    command = "set_topic_permissions" if topic else "set_permissions"
    return (
        f"user {told['user']} has no {permission} permission on {where} in vhost {told['vhost']}; grant it "
        f"with `rabbitmqctl {command}` (docs/security.md has the patterns)"
    )
