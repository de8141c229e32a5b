"""Names on the broker: exchange, queues, headers, and the reply addresses a worker may send to."""

from __future__ import annotations

from dataclasses import dataclass

CONTENT_TYPE = "application/json"

REQUEST_ID = "x-request-id"
IDEMPOTENT_REPLAYED = "x-idempotent-replayed"
ERROR_CODE = "x-error-code"
EXCEPTION_TYPE = "x-exception-type"
EXCEPTION_MESSAGE = "x-exception-message"
EXCEPTION_STACKTRACE = "x-exception-stacktrace"
ORIGINAL_QUEUE = "x-original-queue"
FAILED_AT = "x-failed-at"
ATTEMPTS = "x-attempts"
FIRST_SEEN_AT = "x-first-seen-at"
WORKER_ID = "x-worker-id"
REQUEUE_COUNT = "x-requeue-count"
BODY_SHA256 = "x-body-sha256"
BODY_BYTES = "x-body-bytes"
REFUSED = "x-refused"
REDRIVE_COUNT = "x-redrive-count"


@dataclass(frozen=True, slots=True)
class Names:
    """The exchange of one installation, and the queues of one of its operations.

    ``prefix``: the workers' setting of that name. ``key``: ``Operation.key``.
    """

    prefix: str = "session"
    key: str = "create"

    def of(self, key: str) -> Names:
        """The names of another operation of the installation."""
        return Names(self.prefix, key)

    @property
    def exchange(self) -> str:
        """The topic exchange to which requesters publish, with ``routing_key``."""
        return self.prefix

    @property
    def routing_key(self) -> str:
        return self.key

    @property
    def work(self) -> str:
        """The queue of requests that wait for a worker."""
        return f"{self.prefix}.{self.key}"

    def retry(self, seconds: int) -> str:
        """The queue in which a request waits ``seconds`` for its next attempt."""
        return f"{self.work}.retry.{seconds}s"

    @property
    def undelivered(self) -> str:
        """The queue of requests that the broker gave up on: the slow lane."""
        return f"{self.work}.undelivered"

    @property
    def dead(self) -> str:
        """The queue of dead letters, for people: the parking lot."""
        return f"{self.work}.dead"

    @property
    def ledger(self) -> str:
        """The stream that says which ledger the requests of all operations belong to."""
        return f"{self.prefix}.create.ledger"

    @property
    def replies(self) -> str:
        """The queue of replies to requests, of all operations, that name no ``reply_to``."""
        return f"{self.prefix}.replies"

    def is_ours(self, queue: str) -> bool:
        """Whether ``queue`` is one of the installation's own, of whatever operation: all of ``<prefix>.*``
        but what begins with ``<prefix>.replies`` and is a requester's."""
        if queue.startswith(self.replies):
            return queue == self.replies
        return queue.startswith(f"{self.prefix}.")


DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


def is_direct_reply_to(name: str) -> bool:
    """Return whether the broker takes ``name`` for a direct reply-to address, well-formed or not."""
    return name.startswith(DIRECT_REPLY_TO)


_BASE64 = "[A-Za-z0-9+/]"
_BASE64_END = f"(?:{_BASE64}{{4}}|{_BASE64}{{3}}=|{_BASE64}{{2}}==)"
_NAME = "[A-Za-z0-9_.:@#,/+ -]"
_SEPARATOR = "[._:/-]"

DEFAULT_REPLY_TO_ALLOW = (
    r"\A(?!.{256})(?:"
    # A pid that does not decode makes the broker close the publishing connection. The pid holds a hash of the
    # node's name, mostly of 8 or 9 digits (44 characters), now and then of fewer (40).
    rf"amq\.rabbitmq\.reply-to\.(?:{_BASE64}{{4}}){{9,10}}{_BASE64_END}\.(?:{_BASE64}{{4}}){{5}}{_BASE64_END}"
    # Queues named by the broker, by aio-pika, by Spring.
    rf"|(?:amq\.gen-|amq_|spring\.gen-){_NAME}+"
    # A segment that says it is for replies, which covers <prefix>.replies and below. Not under "amq.", where
    # a malformed direct reply-to address would slip through.
    rf"|(?!amq\.)(?:{_NAME}*{_SEPARATOR})?(?:reply|replies|responses?|callback)(?:{_SEPARATOR}{_NAME}*)?"
    r")\Z"
)
"""The reply addresses allowed unless ``REPLY_TO_ALLOW`` says otherwise, as a regular expression.

Segments are separated by ``.``, ``_``, ``-``, ``:`` or ``/``: ``my-app.replies.7`` and ``orders-reply`` are
allowed, ``replying`` and ``orders.work`` are not. Upper and lower case differ.
"""
