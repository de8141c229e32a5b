"""What goes over the wire: the models, names and codes on which requesters and workers agree.

A requester makes ``CreateSessionRequest(user_id="ada@example.com", payload=CreateSessionPayload())``
and publishes its ``model_dump_json()`` to the exchange ``Names().exchange`` with the routing key
``Names().routing_key``. It reads the answer with ``CreateSessionResponse.model_validate_json(body)``:
``status`` first, then ``payload``, or ``error`` and ``metadata["error_code"]`` (an ``ErrorCode``, which
``ERRORS`` explains). Everything is checked on construction; ``problems`` puts pydantic's ValidationError into
words that never quote a value. No I/O, nothing but pydantic and the standard library.
"""

from session_contracts.amqp import DEFAULT_REPLY_TO_ALLOW, DIRECT_REPLY_TO, Names, is_direct_reply_to
from session_contracts.envelopes import BaseRequest, BaseResponse
from session_contracts.errors import ERRORS, ErrorCode, ErrorInfo, problems
from session_contracts.sessions import (
    NIL_SESSION_ID,
    CreateSessionPayload,
    CreateSessionRequest,
    CreateSessionResponse,
    SessionCreatedPayload,
    fingerprint,
)
from session_contracts.status import MOVES, Move, RequestStatus
from session_contracts.types import new_request_id

__all__ = [
    "DEFAULT_REPLY_TO_ALLOW",
    "DIRECT_REPLY_TO",
    "ERRORS",
    "MOVES",
    "NIL_SESSION_ID",
    "BaseRequest",
    "BaseResponse",
    "CreateSessionPayload",
    "CreateSessionRequest",
    "CreateSessionResponse",
    "ErrorCode",
    "ErrorInfo",
    "Move",
    "Names",
    "RequestStatus",
    "SessionCreatedPayload",
    "fingerprint",
    "is_direct_reply_to",
    "new_request_id",
    "problems",
]
