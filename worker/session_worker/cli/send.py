"""``send``: send requests and show the answers."""

from __future__ import annotations

import asyncio
import shlex
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from pydantic_core import to_json
from rich.text import Text

from session_client import ReplyInvalid, RequestFailed, RequestNotRouted, RequestTimedOut, SessionClientError
from session_contracts import CREATE_SESSION, ERRORS, ErrorCode
from session_worker.cli import command_settings, interrupts, options, streams, terminal
from session_worker.cli.client import client_for
from session_worker.cli.progress import Progress
from session_worker.settings import durations
from session_worker.telemetry.printable import printable, printable_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session_client import SessionClient
    from session_contracts import BaseRequest, Operation, Response
    from session_worker.cli.asked import Asked


COMPLETED = "completed"
WITHOUT_CODE: dict[type[SessionClientError], str] = {
    RequestTimedOut: "no answer in time",
    RequestNotRouted: "no queue takes it",
    ReplyInvalid: "invalid reply",
}
"""What is said of a request that has no answer with a code."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one request ended: with a response, or without one and then with an error."""

    request: BaseRequest[Any]
    seconds: float
    response: Response[Any] | None
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
    asked: Asked,
    count: int,
    in_flight: int,
    timeout: float,
    *,
    name: str,
    json: bool,
    **flags: str | None,
) -> int:
    """Send ``count`` requests and report the answers; 0 only if all were completed."""
    asked.check()
    if count > 1 and asked.request_id:
        raise typer.BadParameter("it names one request: leave --count away.", param_hint="--request-id")
    loaded = command_settings.load_only(**flags)
    (operation,) = options.operations(loaded, asked.operation) if asked.operation else (CREATE_SESSION,)
    requests = [asked.request(operation) for _ in range(count)]
    client = client_for(loaded.amqp_url.get_secret_value(), loaded.prefix, name)
    tally = Tally()
    started = time.perf_counter()
    with asyncio.Runner() as runner:
        try:
            interrupts.run(
                runner, _send_all(client, operation, requests, in_flight, timeout, tally, json=json)
            )
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
    operation: Operation[Any, Any],
    requests: list[BaseRequest[Any]],
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
            result = await _ask(client, operation, request, timeout)
            tally.results.append(result)
            seconds = None if result.response is None else result.seconds
            progress.answered(seconds, failed=result.code != COMPLETED)
            _show(result, json=json, many=many)

    async with client:
        with Progress(len(requests), shown=many) as progress:
            await asyncio.gather(*(work(progress) for _ in range(min(in_flight, len(requests)))))


async def _ask(
    client: SessionClient, operation: Operation[Any, Any], request: BaseRequest[Any], timeout: float
) -> Result:
    started = time.perf_counter()
    response: Response[Any] | None = None
    failure: SessionClientError | None = None
    try:
        response = await client.request(request, operation, timeout=timeout)
    except RequestFailed as failed:
        response, failure = failed.response, failed
    except SessionClientError as error:
        failure = error
    return Result(request, time.perf_counter() - started, response, failure)


def _show(result: Result, *, json: bool, many: bool) -> None:
    if json:
        streams.write_document(_document(result))
    elif not many and result.error is None and result.response is not None:
        out = terminal.results()
        out.print(Text.assemble((COMPLETED, "green"), f"  {_in_short(result)}"))
        out.print(
            f"request {result.request.request_id}, answered in {durations.text(result.seconds)}", style="dim"
        )
    if not many and result.error is not None:
        _explain(result)


def _in_short(result: Result) -> str:
    """The session that was created, or what the answer holds."""
    payload: Any = None if result.response is None else result.response.payload
    if result.request.operation == CREATE_SESSION.name:
        return str(payload.session_id)
    return printable_json(to_json(payload).decode())


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


def _again(request: BaseRequest[Any]) -> str:
    """The command that asks again. It does not name the broker, whose URL may hold a password."""
    given = {"--user": request.user_id, "--session": request.session_id}
    payload = request.payload.model_dump(mode="json", by_alias=True)
    if request.operation == CREATE_SESSION.name:
        given |= {"--casefile": payload["casefile_id"], "--title": payload["title"]}
    else:
        given |= {"--operation": request.operation, "--payload": to_json(payload).decode()}
    options = [f"{name} {shlex.quote(value)}" for name, value in given.items() if value is not None]
    command = " ".join([f"session-worker send --request-id {request.request_id}", *options])
    return f"Ask again, it is not done a second time: {printable(command)}"


def _interrupted(tally: Tally, requests: list[BaseRequest[Any]]) -> None:
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


def _unwritten(tally: Tally, requests: list[BaseRequest[Any]]) -> None:
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
