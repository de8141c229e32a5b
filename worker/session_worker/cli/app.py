"""The commands and their options. Work is imported inside each command, so that ``--help`` is quick."""

from __future__ import annotations

import functools
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from session_worker.cli import streams
from session_worker.cli.help_layout import Formatter
from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_UsageError: Any = typer.BadParameter.__base__
"""click's, or that of the click which newer versions of typer bring along."""

TyperCommand.context_class.formatter_class = Formatter


class Commands(TyperGroup):
    """Says in plain words which rule an option's value breaks, where typer would pass on pydantic's words.

    Arguments that it repeats are made harmless to a terminal.
    """

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        with _in_plain_words():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        with _in_plain_words():
            return super().invoke(ctx)


@contextmanager
def _in_plain_words() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if isinstance(error, typer.BadParameter) and error.__cause__ is not None:
            from pydantic import ValidationError

            from session_contracts.errors import rule

            if isinstance(error.__cause__, ValidationError):
                error.message = f"{rule(error.__cause__.errors()[0])}."
        error.message = streams.encodable(printable(error.message), sys.stderr)
        raise


app = typer.Typer(
    name="session-worker",
    cls=Commands,
    help="Answer requests over RabbitMQ. Each request takes effect once, whatever crashes.",
    epilog="Every setting can be given as an environment variable, for example SESSION_WORKER_AMQP_URL. "
    "`session-worker run --help` lists them all.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topology = typer.Typer(
    help="Declare or check the exchange and queues at the broker.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
ledger = typer.Typer(
    help="Upgrade, copy or prune the ledger, the request database.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
dead = typer.Typer(
    help="Inspect, redrive and delete dead letters. A dead letter is the parked copy of a request that "
    "failed permanently.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
app.add_typer(dead, name="dead")
app.add_typer(topology, name="topology")
app.add_typer(ledger, name="ledger")

AmqpUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Broker URL. Default: $SESSION_WORKER_AMQP_URL.", show_default=False),
]
LedgerUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Ledger URL. Default: $SESSION_WORKER_LEDGER_URL.", show_default=False),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Prefix of the exchange and queue names. Default: $SESSION_WORKER_PREFIX.",
        show_default=False,
    ),
]
RetryDelays = Annotated[
    str | None,
    typer.Option(
        metavar="S,S,…",
        help="Delays of the retry queues in seconds. Default: $SESSION_WORKER_RETRY_DELAYS.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document per line on standard output.")]


Code = Annotated[
    str | None, typer.Option(metavar="CODE", help="Only letters with this error code.", show_default=False)
]
ExceptionType = Annotated[
    str | None,
    typer.Option(
        "--exception", metavar="TYPE", help="Only letters with this exception type.", show_default=False
    ),
]
FailedSince = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only failures newer than this: 30s, 15m, 1h, 7d.", show_default=False
    ),
]
OfUser = Annotated[
    str | None, typer.Option("--user", metavar="TEXT", help="Only requests of this user.", show_default=False)
]
OfRequest = Annotated[
    str | None,
    typer.Option(metavar="UUID", help="Only the request, or the letter, with this id.", show_default=False),
]
AtMost = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Only N letters, the oldest of each operation first.", show_default=False
    ),
]
HandlerName = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:NAME", help="Handler. Default: $SESSION_WORKER_HANDLER.", show_default=False
    ),
]
AppName = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="MODULE:NAME",
        help="App whose operations count too. Default: $SESSION_WORKER_APP.",
        show_default=False,
    ),
]
OfOperation = Annotated[
    str | None,
    typer.Option(
        "--operation", metavar="NAME", help="Only this operation. Default: all.", show_default=False
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, change nothing.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="Show at most this many.")]


class WithArgument(TyperCommand):
    """A command whose argument stands in its usage line by its name alone; its help says what it is."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


class SettingsCommand(TyperCommand):
    """A command whose options are made from ``Settings`` only when they are needed."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        from session_worker.cli.run import command

        return list(command().get_params(ctx))

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        from session_worker.cli.run import command

        return command().invoke(ctx)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"session-worker {version('session-worker')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of ``session-worker`` itself."""


@app.command(
    cls=SettingsCommand,
    epilog="Each option can also be given as an environment variable, SESSION_WORKER_ and its name in "
    "capitals (--amqp-url: SESSION_WORKER_AMQP_URL), or as a file of that name in /run/secrets.",
)
def run() -> None:
    """Run a worker until SIGTERM or Ctrl-C."""


@app.command()
def send(
    user: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Who asks, at least 3 characters.", show_default=False),
    ],
    operation: Annotated[
        str | None,
        typer.Option(
            "--operation",
            metavar="NAME",
            help="What to ask for. Default: create_session.",
            show_default=False,
        ),
    ] = None,
    payload: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Payload of the request, a JSON object.", show_default=False),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Session that the request belongs to: ts_….", show_default=False),
    ] = None,
    casefile: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Casefile of the session to create: cf_YYMMDD_code.", show_default=False
        ),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Title of the session to create, 1 to 200 characters.", show_default=False
        ),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(
            metavar="UUID", help="Id of the request, to ask again. Default: a new one.", show_default=False
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Send this many requests.")] = 1,
    in_flight: Annotated[
        int,
        typer.Option(min=1, max=10_000, metavar="K", help="Wait for at most this many answers at a time."),
    ] = 100,
    timeout: Annotated[
        float,
        typer.Option(min=0.001, max=86_400, metavar="S", help="Wait this many seconds for each answer."),
    ] = 30.0,
    name: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Part of the reply queue's name, PREFIX.replies.NAME.*: what the broker's user may declare.",
        ),
    ] = "cli",
    app: AppName = None,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """Send requests and wait for the answers. Exits with 1 unless all were completed.

    With the app at hand (--app), a payload is checked before it is sent."""
    from session_worker.cli.asked import Asked
    from session_worker.cli.send import send

    asked = Asked(user, operation, payload, session, casefile, title, request_id)
    flags = {"amqp_url": amqp_url, "prefix": prefix} | ({"app": app} if operation else {})
    raise typer.Exit(send(asked, count, in_flight, timeout, name=name, json=json, **flags))


@app.command(cls=WithArgument)
def status(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", show_default=False, hidden=True)],
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """Show the history of one request. Exits with 1 if it is not in the ledger, as reads never are.

    REQUEST_ID is the request's id (a UUID), or the id of the session that it created (ts_…)."""
    from session_worker.cli.requests import status

    raise typer.Exit(status(request_id, ledger_url=ledger_url, json=json))


@app.command()
def requests(
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS", help="Only pending, processing, completed or failed ones.", show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only those received in this time: 30s, 15m, 1h, 7d.", show_default=False
        ),
    ] = None,
    user: OfUser = None,
    code: Annotated[
        str | None,
        typer.Option(
            metavar="ERROR_CODE", help="Only requests that failed with this error code.", show_default=False
        ),
    ] = None,
    operation: Annotated[
        str | None,
        typer.Option("--operation", metavar="NAME", help="Only this operation.", show_default=False),
    ] = None,
    undeliverable: Annotated[
        bool, typer.Option("--undeliverable", help="Only requests whose reply could not be delivered.")
    ] = False,
    limit: Limit = 50,
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """List recorded requests, newest first. Reads are not recorded.

    With several filters, only those that pass all."""
    from session_worker.cli.requests import requests

    wanted = {"user": user, "code": code, "operation": operation, "ledger_url": ledger_url}
    raise typer.Exit(requests(status, since, limit, undeliverable=undeliverable, json=json, **wanted))


@dead.command("list")
def dead_list(
    code: Code = None,
    exception: ExceptionType = None,
    since: FailedSince = None,
    user: OfUser = None,
    request_id: OfRequest = None,
    limit: Limit = 50,
    operation: OfOperation = None,
    app: AppName = None,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """List dead letters, those of each operation oldest first. Changes nothing."""
    from session_worker.cli.dead import chosen, show_list

    wanted = chosen(code, exception, since, user, request_id)
    flags = {"operation": operation, "app": app, "amqp_url": amqp_url, "prefix": prefix}
    raise typer.Exit(show_list(wanted, limit, json=json, **flags))


@dead.command("groups")
def dead_groups(
    code: Code = None,
    exception: ExceptionType = None,
    since: FailedSince = None,
    user: OfUser = None,
    operation: OfOperation = None,
    app: AppName = None,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """Count dead letters by operation, error code and exception."""
    from session_worker.cli.dead import chosen, show_groups

    wanted = chosen(code, exception, since, user)
    flags = {"operation": operation, "app": app, "amqp_url": amqp_url, "prefix": prefix}
    raise typer.Exit(show_groups(wanted, json=json, **flags))


@dead.command("show", cls=WithArgument)
def dead_show(
    request_id: Annotated[str, typer.Argument(metavar="ID", show_default=False, hidden=True)],
    operation: OfOperation = None,
    app: AppName = None,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """Show one dead letter and the history of its request. ID is the request's or the letter's own.

    Exits with 1 if there is no such letter."""
    from session_worker.cli.dead import show_one

    flags = {"operation": operation, "app": app, "amqp_url": amqp_url, "prefix": prefix}
    flags |= {"ledger_url": ledger_url}
    raise typer.Exit(show_one(request_id, json=json, **flags))


@dead.command("redrive")
def dead_redrive(
    code: Code = None,
    exception: ExceptionType = None,
    since: FailedSince = None,
    user: OfUser = None,
    request_id: OfRequest = None,
    limit: AtMost = None,
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="Also send, as new requests, those that the ledger does not have."),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    operation: OfOperation = None,
    app: AppName = None,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """Send requests to the workers again. If it is interrupted or killed, run it again.

    Without a filter, it asks first. Exits with 1 if some letters cannot be sent; these are left in place."""
    from session_worker.cli.dead import chosen, redrive

    wanted = chosen(code, exception, since, user, request_id)
    flags = {"operation": operation, "app": app, "amqp_url": amqp_url, "prefix": prefix}
    flags |= {"ledger_url": ledger_url}
    raise typer.Exit(redrive(wanted, limit, unknown=unknown, yes=yes, dry_run=dry_run, json=json, **flags))


@dead.command("replay", hidden=True)
@functools.wraps(dead_redrive)
def dead_replay(**options: Any) -> None:
    streams.complain("`dead replay` is now called `dead redrive`.")
    dead_redrive(**options)


@dead.command("purge")
def dead_purge(
    code: Code = None,
    exception: ExceptionType = None,
    since: FailedSince = None,
    user: OfUser = None,
    request_id: OfRequest = None,
    limit: AtMost = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    operation: OfOperation = None,
    app: AppName = None,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """Delete dead letters permanently. The ledger entries are kept."""
    from session_worker.cli.dead import chosen, purge

    wanted = chosen(code, exception, since, user, request_id)
    flags = {"operation": operation, "app": app, "amqp_url": amqp_url, "prefix": prefix}
    raise typer.Exit(purge(wanted, limit, yes=yes, dry_run=dry_run, json=json, **flags))


@topology.command("apply")
def topology_apply(
    adopt_ledger: Annotated[
        bool,
        typer.Option("--adopt-ledger", help="Have the queues belong to this ledger from now on."),
    ] = False,
    amqp_url: AmqpUrl = None,
    ledger_url: LedgerUrl = None,
    prefix: Prefix = None,
    app: AppName = None,
    retry_delays: RetryDelays = None,
) -> None:
    """Declare the exchange and the queues of all operations. Safe to repeat."""
    from session_worker.cli.topology import apply

    flags = {"app": app, "amqp_url": amqp_url, "prefix": prefix, "retry_delays": retry_delays}
    apply(adopt=adopt_ledger, ledger_url=ledger_url, **flags)


@topology.command("check")
def topology_check(
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    app: AppName = None,
    retry_delays: RetryDelays = None,
) -> None:
    """Compare the broker with what the worker needs. Exits with 1 if they differ."""
    from session_worker.cli.topology import check

    flags = {"app": app, "amqp_url": amqp_url, "prefix": prefix, "retry_delays": retry_delays}
    raise typer.Exit(check(**flags))


@ledger.command("upgrade")
def ledger_upgrade(ledger_url: LedgerUrl = None) -> None:
    """Upgrade the ledger's schema to this version. Safe to repeat."""
    from session_worker.cli.ledger import upgrade

    upgrade(ledger_url=ledger_url)


@ledger.command("copy")
def ledger_copy(
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="URL", help="The ledger to copy: sqlite:///path.db.", show_default=False
        ),
    ],
    ledger_url: LedgerUrl = None,
) -> None:
    """Copy a SQLite ledger into an empty PostgreSQL ledger. All or nothing."""
    from session_worker.cli.ledger import copy

    copy(source, ledger_url=ledger_url)


@ledger.command("prune")
def ledger_prune(
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Delete what finished longer ago, for example 30d. Default: $SESSION_WORKER_RETENTION.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """Delete old finished requests while workers run. In small batches; their sessions are kept."""
    from session_worker.cli.ledger import prune

    raise typer.Exit(prune(older_than, dry_run=dry_run, ledger_url=ledger_url, json=json))


@app.command()
def doctor(
    amqp_url: AmqpUrl = None,
    ledger_url: LedgerUrl = None,
    prefix: Prefix = None,
    retry_delays: RetryDelays = None,
    app: AppName = None,
    handler: HandlerName = None,
    management_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="URL of the broker's management interface. Default: $SESSION_WORKER_MANAGEMENT_URL.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check the whole set-up and say how to fix what is wrong.

    Checks settings, app, broker, queues, ledger and workers, and changes nothing. Exits with 1 if a check
    fails, with 2 if the settings are refused."""
    from session_worker.cli.doctor import doctor

    flags = {"amqp_url": amqp_url, "ledger_url": ledger_url, "prefix": prefix}
    flags |= {"retry_delays": retry_delays, "management_url": management_url}
    flags |= {"app": app, "handler": handler}
    raise typer.Exit(doctor(json=json, **flags))


@app.command()
def top(
    interval: Annotated[
        float, typer.Option(min=0.2, max=3600, metavar="S", help="Seconds between two updates.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one snapshot and exit (the default when piped).")
    ] = False,
    amqp_url: AmqpUrl = None,
    ledger_url: LedgerUrl = None,
    prefix: Prefix = None,
    app: AppName = None,
    retry_delays: RetryDelays = None,
    json: Annotated[bool, typer.Option("--json", help="Print one snapshot as a JSON document.")] = False,
) -> None:
    """Live view of rate, latency, queues, workers and failures.

    `q` or Ctrl-C leaves. Changes nothing. A snapshot exits with 1 if broker or ledger did not answer."""
    from session_worker.cli.top import top

    flags = {"amqp_url": amqp_url, "ledger_url": ledger_url, "prefix": prefix}
    flags |= {"app": app, "retry_delays": retry_delays}
    raise typer.Exit(top(interval, once=once, json=json, **flags))


@app.command(cls=WithArgument)
def schema(
    of: Annotated[str, typer.Argument(metavar="request|response|asyncapi", show_default=False, hidden=True)],
    operation: Annotated[
        str | None,
        typer.Option(
            "--operation",
            metavar="NAME",
            help="Whose requests or responses. Default: create_session.",
            show_default=False,
        ),
    ] = None,
    app: AppName = None,
    prefix: Prefix = None,
) -> None:
    """Print a JSON Schema or the AsyncAPI document.

    The JSON Schema of an operation's requests or responses, or one document of all operations' queues and
    messages."""
    from session_worker.cli.schema import schema

    schema(of, operation, app=app, prefix=prefix)


@app.command(cls=WithArgument)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, hidden=True)],
    into: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder for it, new or empty. Default: ./NAME.", show_default=False),
    ] = None,
) -> None:
    """Write a small project to begin with.

    It has an app with one operation, its contracts and its tests. NAME is that of its module: lower-case
    letters, digits and underscores."""
    from session_worker.cli.new import new

    new(name, into)


@app.command()
def dev(
    served: Annotated[
        str | None,
        typer.Argument(
            metavar="APP",
            help="Your app: package.module:name. Default: $SESSION_WORKER_APP.",
            show_default=False,
        ),
    ] = None,
    handler: HandlerName = None,
    reload: Annotated[
        bool,
        typer.Option("--reload", help="Start the worker anew with each change, as `run --reload` does."),
    ] = False,
) -> None:
    """Run a worker with a private broker, to try things out.

    It runs until Ctrl-C, and says how to send it requests. Its ledger is a new one; nothing is kept. Other
    settings come from the environment, as for `run`."""
    from session_worker.cli.dev import dev

    raise typer.Exit(dev(served, handler, reload=reload))


@app.command()
def demo(
    count: Annotated[
        int, typer.Option(min=50, max=100_000, metavar="N", help="Send this many messages.")
    ] = 1000,
    amqp_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Use this broker, with a prefix of its own. Default: a private broker."
        ),
    ] = None,
    ledger_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Use this ledger; the new entries stay in it.")
    ] = None,
) -> None:
    """Send 1,000 messages through a private broker, check every count."""
    from session_worker.cli.demo import demo

    raise typer.Exit(demo(count, amqp_url=amqp_url, ledger_url=ledger_url))
