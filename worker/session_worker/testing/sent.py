"""What came of a message that a test has sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from session_contracts.amqp import IDEMPOTENT_REPLAYED
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from session_contracts import Operation, Response
    from session_worker.messages.message import Message

R = TypeVar("R", bound=BaseModel)


@immutable
class Reply:
    """One reply. ``replayed``: it is the stored response once more, because the request came again."""

    body: bytes
    correlation_id: str | None
    replayed: bool

    @property
    def document(self) -> Any:
        """The body as JSON values."""
        return json.loads(self.body)


class Sent(Generic[R]):
    """A message that was sent to ``operation``, and the replies to it so far."""

    def __init__(self, operation: Operation[Any, R], messages: list[Message], before: int) -> None:
        self._operation = operation
        self._messages = messages
        self._before = before

    @property
    def replies(self) -> list[Reply]:
        """The oldest first: one, unless the message is delivered several times."""
        return [
            Reply(
                message.body,
                message.properties.correlation_id,
                bool((message.properties.headers or {}).get(IDEMPOTENT_REPLAYED)),
            )
            for message in self._messages[self._before :]
        ]

    @property
    def response(self) -> Response[R]:
        """The response that came last.

        Raises:
            LookupError: there is none yet.
        """
        replies = self.replies
        if not replies:
            raise LookupError(
                f"there is no response from {self._operation.name} yet; if the request waits for another "
                "attempt, let time pass: await worker.advance(seconds)"
            )
        return self._operation.response_model.model_validate_json(replies[-1].body)
