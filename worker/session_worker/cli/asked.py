"""The request that the options of ``send`` ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from session_contracts import CREATE_SESSION, new_request_id, problems
from session_worker.cli import options

if TYPE_CHECKING:
    from session_contracts import BaseRequest, Operation


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options ask for. ``payload`` is JSON; ``casefile`` and ``title`` are those of a session that
    is to be created."""

    user: str
    operation: str | None = None
    payload: str | None = None
    session: str | None = None
    casefile: str | None = None
    title: str | None = None
    request_id: str | None = None

    def check(self) -> None:
        """Raises typer.BadParameter: options do not fit together."""
        of_create = {"--casefile": self.casefile, "--title": self.title}
        for option, value in of_create.items():
            if value is not None and self.operation not in {None, CREATE_SESSION.name}:
                raise typer.BadParameter("only create_session has one; use --payload.", param_hint=option)
            if value is not None and self.payload is not None:
                raise typer.BadParameter("put it into --payload.", param_hint=option)

    def request(self, operation: Operation[Any, Any]) -> BaseRequest[Any]:
        """Make a request, with an id of its own unless one is given.

        Raises:
            typer.BadParameter: something breaks its rule.
        """
        id_ = self.request_id
        document = {
            "request_id": options.uuid(id_, "--request-id", "it must be a UUID.")
            if id_
            else new_request_id(),
            "user_id": self.user,
            "session_id": self.session,
            "payload": self._payload(),
        }
        try:
            request = operation.request_model.model_validate_json(to_json(document))
            operation.read(request.model_dump_json(by_alias=True).encode())
        except ValidationError as error:
            raise typer.BadParameter(f"{problems(error)}.") from None
        return request

    def _payload(self) -> dict[str, Any]:
        if self.payload is None:
            given = {"casefile_id": self.casefile, "title": self.title}
            return {name: value for name, value in given.items() if value is not None}
        try:
            payload = from_json(self.payload, allow_inf_nan=False)
        except ValueError as error:
            raise typer.BadParameter(f"it is no JSON: {error}.", param_hint="--payload") from None
        if not isinstance(payload, dict):
            raise typer.BadParameter("it must be a JSON object.", param_hint="--payload")
        return payload
