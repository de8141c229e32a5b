"""The commands and their options. Work is imported inside each command, so that ``--help`` is quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typing import Any


class Commands(TyperGroup):
    """Says in plain words which rule an option's value breaks; typer hands on pydantic's."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from pydantic import ValidationError

            from contracts.errors import rule

            if isinstance(error.__cause__, ValidationError):
                error.message = f"{rule(error.__cause__.errors()[0])}."
            raise


app = typer.Typer(
    name="session-worker",
    cls=Commands,
    help="Answers create-session requests over RabbitMQ: every request once in effect, whatever crashes.",
    epilog="Every setting is also an environment variable, for example SESSION_WORKER_AMQP_URL; "
    "`session-worker run --help` lists them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topology = typer.Typer(
    help="The exchange and the queues at the broker.", rich_markup_mode=None, no_args_is_help=True
)
ledger = typer.Typer(
    help="The database of requests and sessions.", rich_markup_mode=None, no_args_is_help=True
)
dead = typer.Typer(
    help="Requests that failed for good and wait for people: their letters on the parking lot.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
app.add_typer(dead, name="dead")
app.add_typer(topology, name="topology")
app.add_typer(ledger, name="ledger")

AmqpUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The broker; else SESSION_WORKER_AMQP_URL.", show_default=False),
]
LedgerUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The ledger; else SESSION_WORKER_LEDGER_URL.", show_default=False),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="First part of all names; else SESSION_WORKER_PREFIX.", show_default=False
    ),
]
RetryDelays = Annotated[
    str | None,
    typer.Option(metavar="S,S,…", help="Seconds; else SESSION_WORKER_RETRY_DELAYS.", show_default=False),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON document per line on standard output, and nothing else.")
]


Code = Annotated[
    str | None, typer.Option(metavar="CODE", help="Only with this error code.", show_default=False)
]
ExceptionType = Annotated[
    str | None,
    typer.Option("--exception", metavar="TYPE", help="Only with this exception.", show_default=False),
]
FailedSince = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Only younger than 30s, 15m, 1h, 7d.", show_default=False),
]
OfUser = Annotated[
    str | None, typer.Option("--user", metavar="TEXT", help="Only of this user.", show_default=False)
]
OfRequest = Annotated[
    str | None,
    typer.Option(metavar="UUID", help="Only of this request (or this letter's own id).", show_default=False),
]
AtMost = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="The oldest N; else all.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


class SettingsCommand(TyperCommand):
    """A command whose options are made from ``Settings`` only when they are needed."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        from worker.cli.flags import command

        return list(command().get_params(ctx))

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        from worker.cli.flags import command

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
    epilog="Each option is also an environment variable, SESSION_WORKER_ and its name in capitals "
    "(--amqp-url: SESSION_WORKER_AMQP_URL), and a file of that name in /run/secrets.",
)
def run() -> None:
    """Run a worker until it is told to stop (SIGTERM or Ctrl-C)."""


@app.command()
def send(
    user: Annotated[
        str, typer.Option(metavar="TEXT", help="Who asks: at least 3 characters.", show_default=False)
    ],
    casefile: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The casefile it belongs to: cf_YYMMDD_code.", show_default=False),
    ] = None,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="1 to 200 characters.", show_default=False)
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(metavar="UUID", help="Send this request (again); else a new one.", show_default=False),
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="How many requests to send.")] = 1,
    in_flight: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="K", help="How many wait at the same time.")
    ] = 100,
    timeout: Annotated[
        float, typer.Option(min=0.001, metavar="S", help="Seconds to wait for each answer.")
    ] = 30.0,
    name: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Part of the reply queue's name, PREFIX.replies.NAME.*: what the broker's user may declare.",
        ),
    ] = "cli",
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """Send create-session requests and wait for the answers."""
    from worker.cli.send import Wish, send

    wish = Wish(user=user, casefile=casefile, title=title, request_id=request_id)
    broker = {"amqp_url": amqp_url, "prefix": prefix}
    raise typer.Exit(send(wish, count, in_flight, timeout, name=name, json=json, **broker))


@app.command()
def status(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", show_default=False)],
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """Show what became of one request, step by step. Exit code 1 when the ledger never heard of it."""
    from worker.cli.entries import status

    raise typer.Exit(status(request_id, ledger_url=ledger_url, json=json))


@app.command()
def requests(
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help="pending, processing, completed or failed.", show_default=False),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="How far back: 30s, 15m, 1h, 7d.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="At most so many.")] = 50,
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """List requests, the newest first."""
    from worker.cli.entries import requests

    raise typer.Exit(requests(status, since, limit, ledger_url=ledger_url, json=json))


@dead.command("list")
def dead_list(
    code: Code = None,
    exception: ExceptionType = None,
    since: FailedSince = None,
    user: OfUser = None,
    request_id: OfRequest = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="At most so many.")] = 50,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """List letters, the oldest first. Looking changes nothing."""
    from worker.cli.dead import Choice, Place, show_list

    choice = Choice(code, exception, since, user, request_id)
    raise typer.Exit(show_list(choice, limit, Place(amqp_url, prefix), json=json))


@dead.command("groups")
def dead_groups(
    code: Code = None,
    exception: ExceptionType = None,
    since: FailedSince = None,
    user: OfUser = None,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """Count letters by error code and exception."""
    from worker.cli.dead import Choice, Place, show_groups

    choice = Choice(code, exception, since, user)
    raise typer.Exit(show_groups(choice, Place(amqp_url, prefix), json=json))


@dead.command("show")
def dead_show(
    request_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """Show a request's letter, and what the ledger knows of it. Exit code 1 when there is no letter."""
    from worker.cli.dead import Place, show_one

    raise typer.Exit(show_one(request_id, Place(amqp_url, prefix, ledger_url), json=json))


@dead.command("replay")
def dead_replay(
    code: Code = None,
    exception: ExceptionType = None,
    since: FailedSince = None,
    user: OfUser = None,
    request_id: OfRequest = None,
    limit: AtMost = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also what the ledger does not know, as new requests.")
    ] = False,
    dry_run: DryRun = False,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """Send requests through the worker again. Interrupted or killed, it can simply be run again.

    Exit code 1 when some letters cannot be replayed; they stay where they are."""
    from worker.cli.dead import Choice, Place, replay

    choice = Choice(code, exception, since, user, request_id)
    place = Place(amqp_url, prefix, ledger_url)
    raise typer.Exit(replay(choice, limit, place, unknown=unknown, dry_run=dry_run, json=json))


@dead.command("purge")
def dead_purge(
    code: Code = None,
    exception: ExceptionType = None,
    since: FailedSince = None,
    user: OfUser = None,
    request_id: OfRequest = None,
    limit: AtMost = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    amqp_url: AmqpUrl = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """Drop letters for good. What the ledger knows of the requests stays."""
    from worker.cli.dead import Choice, Place, purge

    choice = Choice(code, exception, since, user, request_id)
    raise typer.Exit(purge(choice, limit, Place(amqp_url, prefix), yes=yes, dry_run=dry_run, json=json))


@topology.command("apply")
def topology_apply(amqp_url: AmqpUrl = None, prefix: Prefix = None, retry_delays: RetryDelays = None) -> None:
    """Declare the exchange and the queues. Doing it twice changes nothing."""
    from worker.cli.admin import topology_apply

    topology_apply(amqp_url=amqp_url, prefix=prefix, retry_delays=retry_delays)


@topology.command("check")
def topology_check(amqp_url: AmqpUrl = None, prefix: Prefix = None, retry_delays: RetryDelays = None) -> None:
    """Compare what is at the broker with what the worker needs. Exit code 1 when they differ."""
    from worker.cli.admin import topology_check

    raise typer.Exit(topology_check(amqp_url=amqp_url, prefix=prefix, retry_delays=retry_delays))


@ledger.command("upgrade")
def ledger_upgrade(ledger_url: LedgerUrl = None) -> None:
    """Bring the ledger's schema to this version. Doing it twice changes nothing."""
    from worker.cli.admin import ledger_upgrade

    ledger_upgrade(ledger_url=ledger_url)


@ledger.command("copy")
def ledger_copy(
    source: Annotated[
        str,
        typer.Option("--from", metavar="URL", help="Where they are: sqlite:///path.db.", show_default=False),
    ],
    ledger_url: LedgerUrl = None,
) -> None:
    """Copy all requests and sessions of a SQLite ledger into an empty PostgreSQL one: all or nothing."""
    from worker.cli.admin import ledger_copy

    ledger_copy(source, ledger_url=ledger_url)


@ledger.command("prune")
def ledger_prune(
    older_than: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How old: 30d; else SESSION_WORKER_RETENTION.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count them, delete none.")] = False,
    ledger_url: LedgerUrl = None,
    json: Json = False,
) -> None:
    """Delete requests that finished long ago, bit by bit beside the workers. Their sessions stay."""
    from worker.cli.prune import prune

    raise typer.Exit(prune(older_than, dry_run=dry_run, ledger_url=ledger_url, json=json))


@app.command()
def doctor(
    amqp_url: AmqpUrl = None,
    ledger_url: LedgerUrl = None,
    prefix: Prefix = None,
    retry_delays: RetryDelays = None,
    handler: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="Else SESSION_WORKER_HANDLER.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Check settings, handler, broker, queues, ledger and workers; say how to put right what is wrong.

    Looking changes nothing. Exit code 1 when a check failed, 2 when the settings are refused."""
    from worker.cli.doctor import doctor

    flags = {"amqp_url": amqp_url, "ledger_url": ledger_url, "prefix": prefix}
    raise typer.Exit(doctor(json=json, retry_delays=retry_delays, handler=handler, **flags))


@app.command()
def top(
    interval: Annotated[
        float, typer.Option(min=0.2, max=3600, metavar="S", help="Seconds between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so does a pipe.")] = False,
    amqp_url: AmqpUrl = None,
    ledger_url: LedgerUrl = None,
    prefix: Prefix = None,
    retry_delays: RetryDelays = None,
    json: Annotated[bool, typer.Option("--json", help="Look once, and print one JSON document.")] = False,
) -> None:
    """Watch what goes on: rate, latency, statuses, queues, workers, failures. `q` or Ctrl-C leaves.

    Looking changes nothing. Exit code 1 when broker or ledger did not answer a single look."""
    from worker.cli.top import top

    flags = {"amqp_url": amqp_url, "ledger_url": ledger_url, "prefix": prefix, "retry_delays": retry_delays}
    raise typer.Exit(top(interval, once=once, json=json, **flags))


@app.command()
def schema(
    of: Annotated[str, typer.Argument(metavar="request|response|asyncapi", show_default=False)],
    prefix: Prefix = None,
) -> None:
    """Print the JSON Schema of requests or responses, or an AsyncAPI document of all on the wire."""
    from worker.cli.admin import schema

    schema(of, prefix)


@app.command()
def demo(
    count: Annotated[
        int, typer.Option(min=50, max=100_000, metavar="N", help="How many messages to send.")
    ] = 1000,
    amqp_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Use this broker, under a prefix of its own.")
    ] = None,
    ledger_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Use this ledger; its new entries stay there.")
    ] = None,
) -> None:
    """Show the promise: a private broker, a worker, 1,000 messages, and every count checked."""
    from worker.cli.demo import demo

    raise typer.Exit(demo(count, amqp_url=amqp_url, ledger_url=ledger_url))
