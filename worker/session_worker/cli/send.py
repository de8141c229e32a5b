"""``send``: send requests and show the answers."""

from __future__ import annotations

import asyncio
import shlex
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import typer
from pydantic import ValidationError
from rich.text import Text

from session_client import ReplyInvalid, RequestFailed, RequestNotRouted, RequestTimedOut, SessionClientError
from session_contracts import (
    ERRORS,
    CreateSessionPayload,
    CreateSessionRequest,
    ErrorCode,
    new_request_id,
    problems,
)
from session_worker.cli import command_settings, interrupts, options, streams, terminal
from session_worker.cli.client import client_for
from session_worker.cli.progress import Progress
from session_worker.settings import durations
from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from session_client import SessionClient
    from session_contracts import CreateSessionResponse


COMPLETED = "completed"
WITHOUT_CODE: dict[type[SessionClientError], str] = {
    RequestTimedOut: "no answer in time",
    RequestNotRouted: "no queue takes it",
    ReplyInvalid: "invalid reply",
}
"""What is said of a request that has no answer with a code."""


def new_request(
    user: str, casefile: str | None, title: str | None, request_id: str | None
) -> CreateSessionRequest:
    """Make a request, with an id of its own unless ``request_id`` is given.

    Raises:
        typer.BadParameter: something breaks its rule.
    """
    id_ = options.uuid(request_id, "--request-id", "it must be a UUID.") if request_id else new_request_id()
    try:
        payload = CreateSessionPayload(casefile_id=casefile, title=title)
        return CreateSessionRequest(request_id=id_, user_id=user, payload=payload)
    except ValidationError as error:
        raise typer.BadParameter(f"{problems(error)}.") from None


@dataclass(frozen=True, slots=True)
class Result:
    """How one request ended: with a response, or without one and then with an error."""

    request: CreateSessionRequest
    seconds: float
    response: CreateSessionResponse | None
    error: SessionClientError | None

    @property
    def code(self) -> str:
        """``completed``, or what went wrong in a few words."""
        if self.error is None:
            return COMPLETED
        code = self.error.code if isinstance(self.error, RequestFailed) else None
        return code or WITHOUT_CODE.get(type(self.error), "failed")


@dataclass(slots=True)
class Tally:
    """What was sent and how it ended so far."""

    sent: int = 0
    results: list[Result] = field(default_factory=list)


def send(
    new: Callable[[], CreateSessionRequest],
    count: int,
    in_flight: int,
    timeout: float,
    *,
    name: str,
    amqp_url: str | None,
    prefix: str | None,
    json: bool,
) -> int:
    """Send ``count`` requests and report the answers; 0 only if all were completed."""
    requests = [new() for _ in range(count)]
    if count > 1 and requests[0].request_id == requests[1].request_id:
        raise typer.BadParameter("it names one request: leave --count away.", param_hint="--request-id")
    loaded = command_settings.load_only(amqp_url=amqp_url, prefix=prefix)
    client = client_for(loaded.amqp_url.get_secret_value(), loaded.prefix, name)
    tally = Tally()
    started = time.perf_counter()
    with asyncio.Runner() as runner:
        try:
            interrupts.run(runner, _send_all(client, requests, in_flight, timeout, tally, json=json))
            if count > 1:
                _summary(tally.results, time.perf_counter() - started, json=json)
        except KeyboardInterrupt:
            _interrupted(tally, requests)
            if count > 1:
                _summary(tally.results, time.perf_counter() - started, json=json)
            raise
        except streams.UnwritableError:
            _unwritten(tally, requests)
            raise
    return 0 if all(result.code == COMPLETED for result in tally.results) else 1


async def _send_all(
    client: SessionClient,
    requests: list[CreateSessionRequest],
    in_flight: int,
    timeout: float,
    tally: Tally,
    *,
    json: bool,
) -> None:
    waiting = iter(requests)
    many = len(requests) > 1

    async def work(progress: Progress) -> None:
        for request in waiting:
            tally.sent += 1
            result = await _ask(client, request, timeout)
            tally.results.append(result)
            seconds = None if result.response is None else result.seconds
            progress.answered(seconds, failed=result.code != COMPLETED)
            _show(result, json=json, many=many)

    async with client:
        with Progress(len(requests), shown=many) as progress:
            await asyncio.gather(*(work(progress) for _ in range(min(in_flight, len(requests)))))


async def _ask(client: SessionClient, request: CreateSessionRequest, timeout: float) -> Result:
    started = time.perf_counter()
    response: CreateSessionResponse | None = None
    failure: SessionClientError | None = None
    try:
        response = await client.request(request, timeout=timeout)
    except RequestFailed as failed:
        response, failure = cast("CreateSessionResponse", failed.response), failed
    except SessionClientError as error:
        failure = error
    return Result(request, time.perf_counter() - started, response, failure)


def _show(result: Result, *, json: bool, many: bool) -> None:
    if json:
        streams.write_document(_document(result))
    elif not many and result.error is None and result.response is not None:
        out = terminal.results()
        out.print(Text.assemble((COMPLETED, "green"), f"  {result.response.payload.session_id}"))
        out.print(
            f"request {result.request.request_id}, answered in {durations.text(result.seconds)}", style="dim"
        )
    if not many and result.error is not None:
        _explain(result)


def _document(result: Result) -> dict[str, object]:
    if result.response is not None:
        return result.response.model_dump(mode="json")
    return {"request_id": str(result.request.request_id), "status": None, "error": str(result.error)}


def _explain(result: Result) -> None:
    """Code, sentence, and what to do."""
    for line in _explanation(result):
        terminal.notices().print(line, soft_wrap=True)


def _explanation(result: Result) -> Iterator[Text]:
    error = result.error
    if not isinstance(error, RequestFailed):
        yield Text(f"session-worker: {error}", style="red")
        if isinstance(error, RequestTimedOut):
            yield Text(_again(result.request))
        return
    yield Text.assemble(("failed", "red"), printable(f"  {error.code}: {error.response.error}"))
    if error.code in set(ErrorCode):
        info = ERRORS[ErrorCode(error.code)]
        again = "sending it as a new request may help" if info.retryable else "sending it again does not help"
        yield Text(f"{info.meaning} To be fixed by the {info.who_fixes}; {again}.")
    yield Text(f"request {error.response.request_id}", style="dim")


def _again(request: CreateSessionRequest) -> str:
    """The command that asks again. It does not name the broker, whose URL may hold a password."""
    payload = request.payload
    given = {"--user": request.user_id, "--casefile": payload.casefile_id, "--title": payload.title}
    options = [f"{name} {shlex.quote(value)}" for name, value in given.items() if value is not None]
    command = " ".join([f"session-worker send --request-id {request.request_id}", *options])
    return f"Ask again, no second session is created: {printable(command)}"


def _interrupted(tally: Tally, requests: list[CreateSessionRequest]) -> None:
    """Say what is known of each request; those under way may still be handled."""
    unanswered = tally.sent - len(tally.results)
    notices = terminal.notices()
    if len(requests) == 1:
        notices.print("Interrupted before the answer came; the request may still be handled.")
        notices.print(_again(requests[0]), soft_wrap=True)
        return
    notices.print(
        f"Interrupted: {len(tally.results):,} requests ended, {unanswered:,} are unanswered and may still be "
        f"handled, {len(requests) - tally.sent:,} were not sent.",
        soft_wrap=True,
    )


def _unwritten(tally: Tally, requests: list[CreateSessionRequest]) -> None:
    """Say on standard error what was done if standard output is gone: a new request would do it once more."""
    notices = terminal.notices()
    if len(requests) > 1:
        ended, sent = len(tally.results), tally.sent
        notices.print(
            f"{ended:,} requests ended, {sent - ended:,} more were sent: do not send them as new ones."
        )
        return
    notices.print(f"Request {requests[0].request_id} was answered: {tally.results[0].code}.")
    notices.print(_again(requests[0]), soft_wrap=True)


def _summary(results: list[Result], seconds: float, *, json: bool) -> None:
    if not results:
        return
    out = terminal.notices() if json else terminal.results()
    answered = [result.seconds for result in results if result.response is not None]
    rate = f", {len(answered) / seconds:.0f} answers/s; {durations.spread(answered)}" if answered else ""
    out.print(f"{len(results)} requests in {durations.text(seconds)}{rate}")
    for code in sorted({result.code for result in results}):
        of_it = [result for result in results if result.code == code]
        out.print(Text.assemble(f"{len(of_it):>8}  ", (code, "green" if code == COMPLETED else "red")))
        if of_it[0].error is not None:
            _explain(of_it[0])
