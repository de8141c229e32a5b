"""From a delivery to a request, or to the reason why it is none. The requester is not trusted here."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pydantic
import pydantic_core

from session_contracts import CreateSessionRequest, ErrorCode, fingerprint
from session_contracts.amqp import REDRIVE_COUNT, REFUSED, REQUEST_ID
from session_contracts.errors import ERRORS, problems
from session_worker.messages.headers import MAX_FIELDS
from session_worker.messages.values import value
from session_worker.requests.reply import sentence

if TYPE_CHECKING:
    from session_contracts.amqp import Names
    from session_worker.messages.delivery import Delivery

NIL_ID = UUID(int=0)
MAX_PATIENCE = 10 * 365 * 86_400.0
"""Seconds; a longer expiration is as good as this one, and fits into every database's timestamps."""
_UUID = re.compile(r"[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}")
"""Python would take digits of every script, underscores and hyphens anywhere."""
_REQUEST_ID = re.compile(rb'"request_id"\s*:\s*"([0-9A-Fa-f-]{36})"')
MAX_AGE = 30 * 86_400.0
"""Seconds; a request that says it is older is counted with these, and spoils no sum."""


@value
class Request:
    """A request that was understood. ``patience`` is in seconds, None for ever, 0 when it is over;
    ``published`` in seconds since 1970, None when the requester did not say. Once the handler has had
    ``model``, its answer is made without it: a handler may do anything to it."""

    request_id: UUID
    casefile_id: str | None
    model: CreateSessionRequest
    fingerprint: bytes
    reply_to: str
    correlation_id: str
    patience: float | None
    published: float | None
    requeues: int

    def refused(self, code: ErrorCode) -> Refusal:
        """It was understood, and is refused all the same."""
        return Refusal(
            code,
            sentence(code),
            self.request_id,
            self.reply_to,
            self.correlation_id,
            self.casefile_id,
        )


@value
class Refusal:
    """Why a delivery is no request. ``request_id`` is what could be found out, the nil UUID otherwise."""

    code: ErrorCode
    error: str
    request_id: UUID
    reply_to: str
    correlation_id: str | None
    casefile_id: str | None = None

    @property
    def answerable(self) -> bool:
        """Whether anybody could match an answer."""
        return self.correlation_id is not None or self.request_id != NIL_ID


class _Refused(Exception):  # noqa: N818 - control flow within this file
    def __init__(self, code: ErrorCode, error: str) -> None:
        self.code = code
        self.error = error


_DEADLY = _Refused(
    ErrorCode.CRASHED_WORKER,
    "workers ended, again and again, when this message reached them; it was not read any more",
)


class RequestParser:
    """Reads deliveries under the limits of the settings."""

    def __init__(self, names: Names, *, max_body_bytes: int, reply_to_allow: str) -> None:
        self._names = names
        self._own_queues = f"{names.work}."
        self._max_body_bytes = max_body_bytes
        self._reply_to_allow = re.compile(reply_to_allow)

    def parse(self, delivery: Delivery, *, trusted: bool = False) -> Request | Refusal:
        """Never raises for what a requester sent. ``trusted``: read it although it is ``deadly``."""
        if delivery.deadly and not trusted:
            return self._refusal(delivery, _DEADLY)
        try:
            self._check_envelope(delivery)
            model = self._read_body(delivery.document)
            request_id = self._identify(model, delivery)
        except _Refused as refused:
            return self._refusal(delivery, refused)
        if not self._may_reply_to(delivery.reply_to):
            return Refusal(
                ErrorCode.REPLY_TO_FORBIDDEN,
                "reply_to: this worker sends no replies there; name a queue that the worker's setting "
                "SESSION_WORKER_REPLY_TO_ALLOW permits, for example session.replies.<your name>",
                request_id,
                self._names.replies,
                delivery.correlation_id or str(request_id),
                model.payload.casefile_id,
            )
        return Request(
            request_id=request_id,
            casefile_id=model.payload.casefile_id,
            model=model,
            fingerprint=fingerprint(model),
            reply_to=delivery.reply_to or self._names.replies,
            correlation_id=delivery.correlation_id or str(request_id),
            patience=_patience(delivery),
            published=_published(model, delivery),
            requeues=delivery.requeues,
        )

    def _check_envelope(self, delivery: Delivery) -> None:
        if delivery.illegible:
            raise _Refused(
                ErrorCode.UNREADABLE,
                f"{delivery.illegible}: this property cannot be read; send text in UTF-8, and at most "
                f"{MAX_FIELDS} headers",
            )
        before = delivery.headers.get(REFUSED)
        if isinstance(before, str) and before in ERRORS:
            code = ErrorCode(before)
            raise _Refused(code, f"it was refused when it first came: {ERRORS[code].meaning}")
        size = len(delivery.body) if delivery.cut is None else delivery.cut.size
        if size > self._max_body_bytes:
            raise _Refused(
                ErrorCode.TOO_LARGE, f"the body takes {size} bytes; at most {self._max_body_bytes} are read"
            )
        content_type = (delivery.content_type or "application/json").partition(";")[0].strip().lower()
        if content_type != "application/json" and not content_type.endswith("+json"):
            raise _Refused(ErrorCode.UNREADABLE, "content_type: must be application/json")
        if (delivery.content_encoding or "").lower() not in ("", "utf-8", "utf8", "identity"):
            raise _Refused(ErrorCode.UNREADABLE, "content_encoding: must not be set; send plain UTF-8 JSON")

    @staticmethod
    def _read_body(body: bytes) -> CreateSessionRequest:
        try:
            return CreateSessionRequest.model_validate_json(body)
        except pydantic.ValidationError as error:
            raise _Refused(_code_of(error), problems(error)) from None

    @staticmethod
    def _identify(model: CreateSessionRequest, delivery: Delivery) -> UUID:
        """The request's id; the model's own default would make every redelivery a new request."""
        if "request_id" in model.model_fields_set:
            if model.request_id == NIL_ID:
                raise _Refused(
                    ErrorCode.INVALID_REQUEST, "request_id: must not be the nil UUID; use a random one"
                )
            return model.request_id
        request_id = id_from_properties(delivery)
        if request_id is None:
            raise _Refused(
                ErrorCode.MISSING_REQUEST_ID,
                "request_id: is required; put a random UUID in the body",
            )
        return request_id

    def _may_reply_to(self, reply_to: str | None) -> bool:
        if not reply_to:
            return True
        if reply_to == self._names.work or reply_to.startswith(self._own_queues):
            return False
        return self._reply_to_allow.fullmatch(reply_to) is not None

    def _refusal(self, delivery: Delivery, refused: _Refused) -> Refusal:
        named = id_from_properties(delivery)
        if refused.code in (ErrorCode.CRASHED_WORKER, ErrorCode.TOO_LARGE):
            # The body was not read, and may name another id than its sender's library gave the message.
            request_id = _uuid(delivery.headers.get(REQUEST_ID))
        else:
            named = request_id = _id_from_body(delivery.document) or named
        allowed = self._may_reply_to(delivery.reply_to)
        correlation_id = delivery.correlation_id or (None if named is None else str(named))
        return Refusal(
            refused.code,
            refused.error,
            request_id or NIL_ID,
            (delivery.reply_to if allowed else None) or self._names.replies,
            correlation_id,
        )


def _code_of(error: pydantic.ValidationError) -> ErrorCode:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["loc"] == ():  # no JSON, or no object
        return ErrorCode.UNREADABLE
    if any(one["loc"] == ("operation",) for one in found):
        return ErrorCode.UNSUPPORTED_OPERATION
    return ErrorCode.INVALID_REQUEST


def _id_from_body(body: bytes) -> UUID | None:
    try:
        document: Any = pydantic_core.from_json(body)
    except ValueError:
        return None
    return _uuid(document.get("request_id")) if isinstance(document, dict) else None


def probable_id(delivery: Delivery) -> UUID | None:
    """The id of a request whose body no parser is to read again: by our own header, or as it looks."""
    found = _REQUEST_ID.search(delivery.body)
    return _uuid(delivery.headers.get(REQUEST_ID)) or (None if found is None else _uuid(found[1].decode()))


def id_from_properties(delivery: Delivery) -> UUID | None:
    """Our own copies carry the header; requesters may use one of the other two. The nil UUID in the header
    marks a copy of what had no id: its ``message_id`` is the copy's."""
    named = delivery.headers.get(REQUEST_ID)
    message_id = None if named == str(NIL_ID) else delivery.message_id
    for candidate in (named, message_id, delivery.correlation_id):
        if (request_id := _uuid(candidate)) is not None:
            return request_id
    return None


def _uuid(value: object) -> UUID | None:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        return None
    found = UUID(value)
    return None if found == NIL_ID else found


def _patience(delivery: Delivery) -> float | None:
    if delivery.expired:
        return 0.0
    text = delivery.expiration
    if isinstance(text, str) and text.isascii() and text.isdigit():
        return min(int(text[:20]) / 1000, MAX_PATIENCE)
    return None


def age(published: float) -> float:
    """Seconds since then. Clocks differ, and a requester's may say anything."""
    return min(max(time.time() - published, 0.0), MAX_AGE)


def _published(model: CreateSessionRequest, delivery: Delivery) -> float | None:
    """The body's time, if it has an offset; else the property, which knows whole seconds only. What an
    operator redrives is published by the operator: now."""
    if REDRIVE_COUNT in delivery.headers:
        return time.time()
    if "timestamp" in model.model_fields_set:
        moment = datetime.fromisoformat(model.timestamp)
        if moment.tzinfo is not None:
            return moment.timestamp()
    return delivery.timestamp
