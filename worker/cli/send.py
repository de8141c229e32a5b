"""``send``: be a requester."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.text import Text

from client import RequestFailed, SessionClientError
from contracts import ERRORS, CreateSessionPayload, CreateSessionRequest, ErrorCode, new_request_id, problems
from worker import durations, settings
from worker.cli import console, interrupts
from worker.cli.clients import client_for
from worker.cli.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from client import SessionClient
    from contracts import CreateSessionResponse
    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Wish:
    """What to ask for."""

    user: str
    casefile: str | None
    title: str | None
    request_id: str | None

    def request(self) -> CreateSessionRequest:
        """A request for it, a new one unless the wish names its id.

        Raises:
            typer.BadParameter: something breaks its rule.
        """
        try:
            return CreateSessionRequest(
                request_id=UUID(self.request_id) if self.request_id else new_request_id(),
                user_id=self.user,
                payload=CreateSessionPayload(casefile_id=self.casefile, title=self.title),
            )
        except ValidationError as error:
            raise typer.BadParameter(f"{problems(error)}.") from None
        except ValueError:
            raise typer.BadParameter("it must be a UUID.", param_hint="--request-id") from None


@dataclass(frozen=True, slots=True)
class Result:
    """How one request ended: with a response, or without one and then with an error."""

    request_id: UUID
    seconds: float
    response: CreateSessionResponse | None
    error: SessionClientError | None

    @property
    def code(self) -> str:
        """``completed``, or what went wrong in one word."""
        if self.error is None:
            return "completed"
        return (self.error.code if isinstance(self.error, RequestFailed) else None) or type(
            self.error
        ).__name__


def send(
    wish: Wish,
    count: int,
    in_flight: int,
    timeout: float,
    *,
    amqp_url: str | None,
    prefix: str | None,
    json: bool,
) -> int:
    """Send ``count`` requests and report the answers; 0 only if all were completed."""
    if wish.request_id and count > 1:
        raise typer.BadParameter("it names one request: leave --count away.", param_hint="--request-id")
    requests = [wish.request() for _ in range(count)]
    loaded = settings.load_only(amqp_url=amqp_url, prefix=prefix)
    started = time.perf_counter()
    with asyncio.Runner() as runner:
        results = interrupts.run(runner, _send_all(loaded, requests, in_flight, timeout, json=json))
    if count > 1:
        _summary(results, time.perf_counter() - started, json=json)
    return 0 if all(result.code == "completed" for result in results) else 1


async def _send_all(
    loaded: Settings, requests: list[CreateSessionRequest], in_flight: int, timeout: float, *, json: bool
) -> list[Result]:
    client = client_for(loaded.amqp_url.get_secret_value(), loaded.prefix)
    results: list[Result] = []
    waiting = iter(requests)
    many = len(requests) > 1

    async def work(progress: Progress) -> None:
        for request in waiting:
            result = await _ask(client, request, timeout)
            results.append(result)
            progress.answered(result.seconds, failed=result.code != "completed")
            _show(result, json=json, many=many)

    async with client:
        with Progress(len(requests), shown=many) as progress:
            await asyncio.gather(*(work(progress) for _ in range(min(in_flight, len(requests)))))
    return results


async def _ask(client: SessionClient, request: CreateSessionRequest, timeout: float) -> Result:
    started = time.perf_counter()
    response: CreateSessionResponse | None = None
    failure: SessionClientError | None = None
    try:
        response = await client.request(request, timeout=timeout)
    except RequestFailed as failed:
        response, failure = failed.response, failed
    except SessionClientError as error:
        failure = error
    return Result(request.request_id, time.perf_counter() - started, response, failure)


def _show(result: Result, *, json: bool, many: bool) -> None:
    if json:
        console.document(_document(result))
    elif not many and result.error is None and result.response is not None:
        out = console.results()
        out.print(Text.assemble(("completed", "green"), f"  {result.response.payload.session_id}"))
        out.print(f"request {result.request_id}, answered in {durations.text(result.seconds)}", style="dim")
    if not many and result.error is not None:
        for line in _explain(result.error):
            console.notices().print(line)


def _document(result: Result) -> dict[str, object]:
    if result.response is not None:
        return result.response.model_dump(mode="json")
    return {"request_id": str(result.request_id), "status": None, "error": str(result.error)}


def _explain(error: SessionClientError) -> Iterator[Text]:
    """Code, sentence, and what to do."""
    if not isinstance(error, RequestFailed):
        yield Text(str(error), style="red")
        return
    yield Text.assemble(("failed", "red"), console.printable(f"  {error.code}: {error.response.error}"))
    if error.code in set(ErrorCode):
        info = ERRORS[ErrorCode(error.code)]
        again = "sending it as a new request may help" if info.retryable else "sending it again does not help"
        yield Text(f"{info.meaning} To be put right by the {info.who_fixes}; {again}.")
    yield Text(f"request {error.response.request_id}", style="dim")


def _summary(results: list[Result], seconds: float, *, json: bool) -> None:
    out = console.notices() if json else console.results()
    spread = durations.spread([result.seconds for result in results])
    out.print(
        f"{len(results)} requests in {durations.text(seconds)}, {len(results) / seconds:.0f}/s; {spread}"
    )
    for code in sorted({result.code for result in results}):
        of_it = [result for result in results if result.code == code]
        out.print(Text.assemble(f"{len(of_it):>8}  ", (code, "green" if code == "completed" else "red")))
        if (error := of_it[0].error) is not None:
            for line in _explain(error):
                console.notices().print(line)
