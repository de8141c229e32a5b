"""An operation: what is asked and what comes back, as one value that requesters and workers share.

    EXTEND = Operation("extend_session", ExtendSession, SessionExtended)

The routing key of a request, its queue and its models follow from it. Nothing here says what a worker does.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, cast

from pydantic import BaseModel, Field, RootModel, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError, from_json, to_json

from session_contracts.envelopes import BaseRequest, Response
from session_contracts.types import RULE, Rule, flaw

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

RESERVED_NAMES = frozenset(
    {"create", "get", "list", "close", "retry", "undelivered", "dead", "ledger"}
    | {"create_session", "get_session", "list_sessions", "close_session"}
)
"""Names that are not for operations of users: keys and names of the built-in ones, and parts of names of
queues."""
_NAME = re.compile("(?=.{1,64}$)[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


class Question(NamedTuple):
    """What a body asks: the request, and the fingerprint by which two requests ask the same."""

    request: BaseRequest[Any]
    fingerprint: bytes


class Operation(Generic[P, R]):
    """A request/reply operation.

    Args:
        name: words of lower-case letters and digits, joined by single underscores, at most 64 characters;
            the first is a letter. It is the ``operation`` of the requests and their routing key.
        payload: the model of a request's payload, a JSON object.
        result: the model of a completed response's payload, a JSON object.

    Raises:
        ValueError: the name or a model cannot be used; a sentence for people.
    """

    def __init__(self, name: str, payload: type[P], result: type[R]) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"operation {name!r}: a name is words of lower-case letters and digits, joined by single "
                "underscores, 64 characters at most, a letter first"
            )
        if name in RESERVED_NAMES or name.startswith("replies"):  # as requesters' queues do
            raise ValueError(f"operation {name!r}: this name is reserved; choose another one")
        for role, model in (("payload", payload), ("result", result)):
            if not (isinstance(model, type) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
                raise ValueError(  # noqa: TRY004 - one kind of error for all that is wrong with it
                    f"operation {name!r}: its {role} must be a pydantic model with fields, so that it is a "
                    f"JSON object, not {getattr(model, '__name__', model)!r}"
                )
        self.name = name
        self.key = name
        self.payload = payload
        self.result = result
        title = title_of(name)
        self.request_model: type[BaseRequest[P]] = cast(
            "type[BaseRequest[P]]",
            create_model(
                f"{title}Request",
                __base__=BaseRequest[payload],  # type: ignore[valid-type]
                operation=cast(
                    "Any",
                    (
                        Annotated[Literal.__getitem__(name), Rule(f"must be {name}")],
                        Field(default=name, description="Operation to carry out"),
                    ),
                ),
            ),
        )
        self.response_model: type[Response[R]] = cast(
            "type[Response[R]]",
            create_model(f"{title}Response", __base__=Response[result]),  # type: ignore[valid-type]
        )

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    @property
    def request_type(self) -> str:
        """The AMQP property ``type`` of a request."""
        return self.request_model.__name__

    @property
    def response_type(self) -> str:
        """The AMQP property ``type`` of a response."""
        return self.response_model.__name__

    def read(self, body: bytes) -> Question:
        """Read the body of a request.

        A payload is accepted under the same rules as all free-form objects, but for the number of its values,
        before its model sees it. The fingerprint is that of the payload as it was sent: a model may fill in
        the time, or hold a set, and another release of it may have other defaults.

        Raises:
            pydantic.ValidationError: it is no request for this operation; ``problems`` says why.
        """
        try:
            document = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise _invalid((), f"must be JSON: {error}") from None
        payload = document.get("payload") if isinstance(document, dict) else None
        if not isinstance(payload, dict):
            request = self._validate(body)  # finds fault with it
            return Question(request, self.fingerprint(request, {}))
        found = flaw(payload, max_values=None)
        if found is not None:
            path, rule = found
            raise _invalid(("payload", *path), rule)
        # Not the body: of two values under one key, the one that was checked must be the one that is taken.
        request = self._validate(to_json(document))
        return Question(request, self.fingerprint(request, payload))

    def _validate(self, body: bytes) -> BaseRequest[P]:
        try:
            return self.request_model.model_validate_json(body)
        except ValidationError:
            raise
        except Exception as error:
            # A validator that did not foresee this value: whoever sent it is told, and nobody else is kept
            # waiting.
            raise _invalid(("payload",), f"its model cannot check it ({type(error).__name__})") from error

    def fingerprint(self, request: BaseRequest[P], sent: dict[str, Any]) -> bytes:
        """Return what is asked, for which session and by whom: SHA-256 (32 bytes) of operation, payload,
        session and user as canonical JSON. ``sent`` is the payload as JSON values; a field of it that is null
        counts as absent, and so does a session that is."""
        asked = {
            "operation": self.name,
            "payload": {name: value for name, value in sent.items() if value is not None},
            "user_id": request.user_id,
        }
        if request.session_id is not None:
            asked["session_id"] = request.session_id
        return sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()).digest()


class PublishedOperation(Operation[P, R]):
    """A built-in operation: its models and their schemas are published, and its routing key is shorter than
    its name."""

    def __init__(
        self,
        name: str,
        key: str,
        request: type[BaseRequest[P]],
        response: type[Response[R]],
        *,
        payload: type[P],
        result: type[R],
    ) -> None:
        self.name = name
        self.key = key
        self.payload = payload
        self.result = result
        self.request_model = request
        self.response_model = response

    def read(self, body: bytes) -> Question:
        """Read the body of a request.

        Raises:
            pydantic.ValidationError: it is no request for this operation; ``problems`` says why.
        """
        request = self.request_model.model_validate_json(body)
        return Question(request, fingerprint(request))


def title_of(name: str) -> str:
    """Return the name of an operation as a class would have it, which no other operation has."""
    return "".join(word.capitalize() if word[0].isalpha() else f"_{word}" for word in name.split("_"))


def fingerprint(request: BaseRequest[Any]) -> bytes:
    """Return what is asked and by whom, for a built-in operation: SHA-256 (32 bytes) of operation, user and
    payload as canonical JSON.

    A payload field that is null counts as absent, so that fields may be added later without changing the
    fingerprints of older requests. Text counts as it was sent: composed and decomposed letters differ.
    """
    given = sorted(vars(request.payload).items())
    asked = {
        "operation": request.operation,
        "payload": {name: value for name, value in given if value is not None},
        "user_id": request.user_id,
    }
    return sha256(to_json(asked)).digest()


def _invalid(path: tuple[str | int, ...], rule: str) -> ValidationError:
    details = InitErrorDetails(type=PydanticCustomError(RULE, cast("Any", rule)), loc=path, input=None)
    return ValidationError.from_exception_data("request", [details])
