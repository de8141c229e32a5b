"""From a delivery to a request, or to the reason why it is none. The requester is not trusted here."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pydantic
import pydantic_core

from session_contracts import ErrorCode
from session_contracts.amqp import REDRIVE_COUNT, REFUSED, REQUEST_ID
from session_contracts.errors import ERRORS, problems
from session_worker.messages.headers import MAX_FIELDS
from session_worker.requests.request import NIL_ID, Refusal, Request

if TYPE_CHECKING:
    from session_contracts import BaseRequest
    from session_contracts.amqp import Names
    from session_contracts.operation import Question
    from session_worker.messages.delivery import Delivery
    from session_worker.operations.binding import Binding

MAX_TIME_TO_LIVE = 10 * 365 * 86_400.0
"""Seconds. A longer expiration is as good as this one, which fits into every database's timestamps."""
_UUID = re.compile(r"[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}")
"""Python's own parser accepts digits of every script, underscores, and hyphens anywhere."""
_REQUEST_ID = re.compile(rb'"request_id"\s*:\s*"([0-9A-Fa-f-]{36})"')


class RefusedError(Exception):
    """Ends the reading of a delivery; ``error`` tells its requester why."""

    def __init__(self, code: ErrorCode, error: str) -> None:
        super().__init__(code, error)
        self.code = code
        self.error = error


class RequestParser:
    """Reads deliveries of one operation under the limits of the settings."""

    def __init__(self, binding: Binding, names: Names, *, max_body_bytes: int, reply_to_allow: str) -> None:
        self._binding = binding
        self._names = names
        self._max_body_bytes = max_body_bytes
        self._reply_to_allow = re.compile(reply_to_allow)

    def parse(self, delivery: Delivery) -> Request | Refusal:
        """Read a delivery. Never raises for what a requester sent."""
        try:
            self._check_properties(delivery)
            model, fingerprint = self._read_body(delivery.document)
            request_id = _id_of(model, delivery)
        except RefusedError as refused:
            return self._refusal(delivery, refused)
        correlation_id = delivery.correlation_id or str(request_id)
        casefile_id = model.payload.casefile_id if self._binding.creates_session else None
        if not self._may_reply_to(delivery.reply_to):
            return Refusal(
                ErrorCode.REPLY_TO_FORBIDDEN,
                "reply_to: this worker sends no replies there; name a queue that the worker's setting "
                f"SESSION_WORKER_REPLY_TO_ALLOW permits, for example {self._names.replies}.<your name>",
                request_id,
                self._names.replies,
                correlation_id,
                casefile_id,
            )
        return Request(
            request_id=request_id,
            session_id=model.session_id,
            casefile_id=casefile_id,
            model=model,
            fingerprint=fingerprint,
            reply_to=delivery.reply_to or self._names.replies,
            correlation_id=correlation_id,
            time_to_live=_time_to_live(delivery),
            published=_published(model, delivery),
            requeues=delivery.requeues,
            lost_before=delivery.lost_before,
        )

    def refuse_unread(self, delivery: Delivery) -> Refusal:
        """Refuse a delivery that seems to kill whoever reads it."""
        return self._refusal(
            delivery,
            RefusedError(
                ErrorCode.CRASHED_WORKER,
                "workers ended, again and again, when this message reached them; it was not read any more",
            ),
        )

    def _read_body(self, body: bytes) -> Question:
        try:
            question = self._binding.operation.read(body)
        except pydantic.ValidationError as error:
            raise RefusedError(_code_of(error), problems(error)) from None
        if self._binding.needs_session and question.request.session_id is None:
            raise RefusedError(
                ErrorCode.INVALID_REQUEST, "session_id: is required; name an open session of this user"
            )
        return question

    def _check_properties(self, delivery: Delivery) -> None:
        if delivery.illegible:
            raise RefusedError(
                ErrorCode.UNREADABLE,
                f"{delivery.illegible}: this property cannot be read; send text in UTF-8, and at most "
                f"{MAX_FIELDS} headers",
            )
        before = delivery.headers.get(REFUSED)
        if isinstance(before, str) and before in ERRORS:
            code = ErrorCode(before)
            raise RefusedError(code, f"it was refused when it first came: {ERRORS[code].meaning}")
        size = len(delivery.body) if delivery.cut is None else delivery.cut.size
        if size > self._max_body_bytes:
            raise RefusedError(
                ErrorCode.TOO_LARGE, f"the body takes {size} bytes; at most {self._max_body_bytes} are read"
            )
        content_type = (delivery.content_type or "application/json").partition(";")[0].strip().lower()
        if content_type != "application/json" and not content_type.endswith("+json"):
            raise RefusedError(ErrorCode.UNREADABLE, "content_type: must be application/json")
        if (delivery.content_encoding or "").lower() not in ("", "utf-8", "utf8", "identity"):
            raise RefusedError(
                ErrorCode.UNREADABLE, "content_encoding: must not be set; send plain UTF-8 JSON"
            )

    def _may_reply_to(self, reply_to: str | None) -> bool:
        if not reply_to:
            return True
        if self._names.is_ours(reply_to) and reply_to != self._names.replies:
            return False
        return self._reply_to_allow.fullmatch(reply_to) is not None

    def _refusal(self, delivery: Delivery, refused: RefusedError) -> Refusal:
        if refused.code in (ErrorCode.CRASHED_WORKER, ErrorCode.TOO_LARGE):
            request_id, answers = identify(delivery, body_read=False), identify(delivery)
        else:
            request_id = answers = identify(delivery, _id_in(delivery.document))
        allowed = self._may_reply_to(delivery.reply_to)
        return Refusal(
            refused.code,
            refused.error,
            request_id,
            (delivery.reply_to if allowed else None) or self._names.replies,
            delivery.correlation_id or (None if answers is None else str(answers)),
        )


def identify(delivery: Delivery, in_body: UUID | None = None, *, body_read: bool = True) -> UUID | None:
    """Return the id of the request that a delivery is about, or None if it has none.

    It is the id in the body, else that in the header ``x-request-id`` (all our copies have it), else a UUID
    in ``message_id``, else one in ``correlation_id``. While the body is not read (``body_read=False``), its
    id may be another than the one that the sender's library gave the message: only the header counts then.
    """
    if in_body is not None:
        return in_body
    in_header = delivery.headers.get(REQUEST_ID)
    if found := as_id(in_header):
        return found
    if not body_read:
        return None
    # With the nil UUID, our header says that the original had no id: this message_id is the copy's own.
    message_id = None if in_header == str(NIL_ID) else delivery.message_id
    return as_id(message_id) or as_id(delivery.correlation_id)


def as_id(value: object) -> UUID | None:
    """Return the UUID that ``value`` spells; None for anything else and for the nil UUID."""
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        return None
    found = UUID(value)
    return None if found == NIL_ID else found


def identify_unread(delivery: Delivery) -> UUID | None:
    """Identify a request whose body must not be parsed, by how its id looks there."""
    found = _REQUEST_ID.search(delivery.body)
    return identify(delivery, as_id(found[1].decode()) if found else None, body_read=False)


def _code_of(error: pydantic.ValidationError) -> ErrorCode:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["loc"] == ():  # no JSON, or no object
        return ErrorCode.UNREADABLE
    if any(one["loc"] == ("operation",) for one in found):
        return ErrorCode.UNSUPPORTED_OPERATION
    return ErrorCode.INVALID_REQUEST


def _id_of(model: BaseRequest[Any], delivery: Delivery) -> UUID:
    # The model's default for a missing id is a new one: every redelivery would be a new request.
    in_body = model.request_id if "request_id" in model.model_fields_set else None
    if in_body == NIL_ID:
        raise RefusedError(
            ErrorCode.INVALID_REQUEST, "request_id: must not be the nil UUID; use a random one"
        )
    request_id = identify(delivery, in_body)
    if request_id is None:
        raise RefusedError(
            ErrorCode.MISSING_REQUEST_ID, "request_id: is required; put a random UUID in the body"
        )
    return request_id


def _id_in(body: bytes) -> UUID | None:
    """Return the id in a body that is no request."""
    try:
        document: Any = pydantic_core.from_json(body)
    except ValueError:
        return None
    return as_id(document.get("request_id")) if isinstance(document, dict) else None


def _time_to_live(delivery: Delivery) -> float | None:
    """Return the seconds that its ``expiration``, in milliseconds, leaves; None without one."""
    if delivery.expired:
        return 0.0
    text = delivery.expiration
    if isinstance(text, str) and text.isascii() and text.isdigit():
        return min(int(text[:20]) / 1000, MAX_TIME_TO_LIVE)
    return None


def _published(model: BaseRequest[Any], delivery: Delivery) -> float | None:
    """Return when the request was published, in seconds since 1970, as far as it says so.

    The body's time counts if it has an offset, else the property's, which is in whole seconds. An operator
    who redrives a request publishes it anew: now.
    """
    if REDRIVE_COUNT in delivery.headers:
        return time.time()
    if "timestamp" in model.model_fields_set:
        moment = datetime.fromisoformat(model.timestamp)
        if moment.tzinfo is not None:
            return moment.timestamp()
    return delivery.timestamp
