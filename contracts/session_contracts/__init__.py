"""What goes over the wire: the models, names and codes on which requesters and workers agree.

A requester makes ``CreateSessionRequest(user_id="ada@example.com", payload=CreateSessionPayload())``
and publishes its ``model_dump_json()`` to the exchange ``Names().exchange`` with the routing key
``Names().routing_key``. It reads the answer with ``CreateSessionResponse.model_validate_json(body)``:
``status`` first, then ``payload``, or ``error`` and ``metadata["error_code"]`` (an ``ErrorCode``, which
``ERRORS`` explains). Everything is checked on construction; ``problems`` puts pydantic's ValidationError into
words that never quote a value. No I/O, nothing but pydantic and the standard library.
"""

from session_contracts.amqp import DEFAULT_REPLY_TO_ALLOW, DIRECT_REPLY_TO, Names, is_direct_reply_to
from session_contracts.envelopes import BaseRequest, BaseResponse, Response
from session_contracts.errors import ERRORS, ErrorCode, ErrorInfo, problems
from session_contracts.operation import Operation, fingerprint
from session_contracts.sessions import (
    CLOSE_SESSION,
    CREATE_SESSION,
    GET_SESSION,
    LIST_SESSIONS,
    NIL_SESSION_ID,
    CloseSessionPayload,
    CloseSessionRequest,
    CloseSessionResponse,
    CreateSessionPayload,
    CreateSessionRequest,
    CreateSessionResponse,
    GetSessionPayload,
    GetSessionRequest,
    GetSessionResponse,
    ListSessionsPayload,
    ListSessionsRequest,
    ListSessionsResponse,
    SessionClosedPayload,
    SessionCreatedPayload,
    SessionListPayload,
    SessionPayload,
    SessionSummary,
)
from session_contracts.status import MOVES, Move, RequestStatus
from session_contracts.types import new_request_id

__all__ = [
    "CLOSE_SESSION",
    "CREATE_SESSION",
    "DEFAULT_REPLY_TO_ALLOW",
    "DIRECT_REPLY_TO",
    "ERRORS",
    "GET_SESSION",
    "LIST_SESSIONS",
    "MOVES",
    "NIL_SESSION_ID",
    "BaseRequest",
    "BaseResponse",
    "CloseSessionPayload",
    "CloseSessionRequest",
    "CloseSessionResponse",
    "CreateSessionPayload",
    "CreateSessionRequest",
    "CreateSessionResponse",
    "ErrorCode",
    "ErrorInfo",
    "GetSessionPayload",
    "GetSessionRequest",
    "GetSessionResponse",
    "ListSessionsPayload",
    "ListSessionsRequest",
    "ListSessionsResponse",
    "Move",
    "Names",
    "Operation",
    "RequestStatus",
    "Response",
    "SessionClosedPayload",
    "SessionCreatedPayload",
    "SessionListPayload",
    "SessionPayload",
    "SessionSummary",
    "fingerprint",
    "is_direct_reply_to",
    "new_request_id",
    "problems",
]
