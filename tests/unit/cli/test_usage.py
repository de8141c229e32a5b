"""What is typed, and what is told of it: a sentence; exit code 2 for usage and settings, 1 for the rest."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from session_worker.cli import command_settings, main
from session_worker.cli.run import command
from session_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


SECRET = "tr0ub4dor"
SOME_ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("send", "--user"),
        ("send --user ab", "user_id: must be"),
        ("send --user ada --casefile x", "casefile_id: must look like"),
        ("send --user ada --operation get_session", "payload.session_id: is required"),
        ("send --user ada --operation get_session --title x", "--title: only create_session has one"),
        ("send --user ada --title x --payload {}", "--title: put it into --payload"),
        ("send --user ada --operation extend --payload [1]", "--payload: it must be a JSON object"),
        ("send --user ada --operation extend --payload nothing", "--payload: it is no JSON"),
        ("send --user ada --operation Extend", "--operation: a name is words of lower-case letters"),
        ("send --user ada --operation replies", "--operation: this name is reserved"),
        ("dead list --operation Extend", "--operation: a name is words of lower-case letters"),
        ("schema request --operation extend", "--operation: it is one of create_session, get_session"),
        ("schema asyncapi --operation get_session", "--operation: the document has all operations"),
        ("send --user ada --request-id x", "--request-id"),
        (f"send --user ada --request-id {SOME_ID} --count 2", "--count"),
        ("send --user ada --count 0", "--count"),
        ("status x", "REQUEST_ID"),
        ("requests --status done", "pending, processing, completed, failed"),
        ("requests --code oops", "handler_failed"),
        ("requests --since yesterday", "30s, 15m, 1h or 7d"),
        ("schema reply", "request, response or asyncapi"),
        ("demo --count 1", "--count"),
        ("topology apply --ledger-url sqlite:///l.db", "--adopt-ledger"),
        ("run --no-such-option", "--no-such-option"),
        ("no-such-command", "no-such-command"),
    ],
)
def test_wrong_usage_says_what_is_right(run: Run, command: str, words: str) -> None:
    code, out, err = run(*command.split())

    assert (code, out) == (2, "")
    assert words in err


def test_each_refused_setting_is_named_by_flag_and_variable_and_never_quoted(run: Run) -> None:
    """The value may be a secret in the wrong place."""
    code, _, err = run("run", "--max-attempts", "0", prefix=f"!{SECRET}", retry_delays=SECRET)

    assert code == 2
    assert len(err.splitlines()) == 3
    assert "max_attempts: must be at least 1. " in err
    assert "It is given by --max-attempts." in err
    assert "It is given by SESSION_WORKER_PREFIX." in err
    assert "It is given by SESSION_WORKER_RETRY_DELAYS." in err
    assert SECRET not in err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "run --retry-delays a,b",
            "retry_delays: must be whole seconds separated by commas, for example 1,5",
        ),
        ("run --log-level loud", "log_level: must be 'debug', 'info', 'warning' or 'error'."),
        ("run --prefix a/b", "prefix: must be 1 to 64 letters, digits"),
        ("run --concurrency 10001", "concurrency: must be at most 10,000."),
        ("run --handler-timeout 0", "handler_timeout: must be more than 0."),
        ("run --concurrency many", "'--concurrency': must be a whole number."),
        ("send --user ada --count 0", "'--count': must be at least 1."),
        ("send --user ada --count many", "'--count': must be a whole number."),
        ("send --user ada --timeout 0", "'--timeout': must be at least 0.001."),
        ("dead list --limit 0", "'--limit': must be at least 1."),
    ],
)
def test_a_value_that_is_refused_meets_its_rule_in_plain_words_once(
    run: Run, command: str, words: str
) -> None:
    code, _, err = run(*command.split())

    assert code == 2
    assert err.count(words) == 1, err
    assert "Input should" not in err


def test_a_switch_that_is_neither_on_nor_off_is_told_what_it_can_be(run: Run) -> None:
    code, _, err = run("run", declare="maybe")

    assert code == 2
    assert "declare: must be true or false." in err


@pytest.mark.parametrize("command", ["run", "send --user ada", "topology apply"])
def test_a_broker_url_that_is_none_is_not_repeated(run: Run, command: str) -> None:
    code, _, err = run(*command.split(), amqp_url=f"http://guest:{SECRET}@localhost/")

    assert code == 2
    assert "amqp://" in err
    assert SECRET not in err


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("requests", {"amqp_url": "http://broker/", "concurrency": "many", "prefix": "a/b"}),
        (f"status {SOME_ID}", {"amqp_url": "http://broker/"}),
        ("ledger prune --older-than 30d", {"amqp_url": "http://broker/", "retry_delays": "x"}),
        ("topology apply", {"ledger_url": "mysql://ledger", "retention": "1d"}),
        ("send --user ada", {"ledger_url": "mysql://ledger", "handler": "x"}),
        ("dead list", {"ledger_url": "mysql://ledger", "holder_timeout": "0"}),
        ("schema asyncapi", {"amqp_url": "http://broker/"}),
    ],
)
def test_a_command_checks_only_the_settings_that_it_uses(
    run: Run, command: str, settings: dict[str, str], tmp_path: Path
) -> None:
    """The others may be for somebody else, or be put right later; here nothing can be reached anyhow."""
    here = {"amqp_url": "amqp://127.0.0.1:1/", "ledger_url": f"sqlite:///{tmp_path}/none.db"}
    code, _, err = run(*command.split(), **here | settings)

    assert code == (0 if command.startswith("schema") else 1), err
    assert not any(f"{name}:" in err for name in settings)


def test_a_password_that_cuts_its_url_is_told_what_to_percent_encode(run: Run) -> None:
    code, _, err = run("topology", "apply", amqp_url=f"amqp://ada:{SECRET}/#@localhost/")

    assert code == 2
    assert "each of / # @ : ? , [ ] must be percent-encoded (%2F %23 %40 %3A" in err
    assert SECRET not in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "The disk is full (No space left on device): make",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/data/x"), "The disk is full at /data/x"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "at /data/x: Permission denied."),
    ],
)
def test_what_the_operating_system_refuses_is_a_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr("session_worker.cli.app.app", refuse)
    code, _, err = run("schema", "request")

    assert code == 1
    assert words in err


def test_settings_that_do_not_fit_together_are_refused(run: Run) -> None:
    code, _, err = run("run", "--handler-timeout", "1790")

    assert code == 2
    assert "handler_timeout plus shutdown_grace" in err


@pytest.mark.parametrize("command", ["requests", f"status {SOME_ID}", "ledger upgrade"])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////proc/ledger.db", "/proc"),
        ("sqlite:////nowhere/at/all/ledger.db", "/nowhere/at/all"),
        (f"postgresql://ada:{SECRET}@127.0.0.1:1/ledger", "127.0.0.1"),
    ],
    ids=["unwritable", "no folder", "PostgreSQL down"],
)
def test_a_ledger_that_cannot_be_used_is_a_sentence(run: Run, command: str, url: str, words: str) -> None:
    code, out, err = run(*command.split(), ledger_url=url)

    assert (code, out) == (1, "")
    assert words in err
    assert SECRET not in err


@pytest.mark.parametrize(
    "command",
    [
        "requests",
        f"status {SOME_ID}",
        "ledger upgrade",
        "ledger prune --older-than 30d",
        "top",
        "doctor",
    ],
)
def test_another_programs_database_is_a_sentence_from_every_command(
    run: Run, command: str, tmp_path: Path
) -> None:
    path = tmp_path / "places.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE schema_version (version text)")
    before = path.read_bytes()

    code, out, err = run(*command.split(), ledger_url=f"sqlite:///{path}", amqp_url="amqp://127.0.0.1:1/")

    assert code == 1
    assert f"the file {path} is another program's database" in " ".join((out + err).split())
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_the_old_name_of_redrive_does_the_same_and_says_the_new_one(run: Run) -> None:
    """With the same options: neither names a broker that answers."""
    nowhere = ("--code", "handler_failed", "--yes", "--amqp-url", "amqp://127.0.0.1:1/")
    code, out, err = run("dead", "redrive", *nowhere)
    told = "session-worker: `dead replay` is now called `dead redrive`.\n"

    assert code == 1
    assert run("dead", "replay", *nowhere) == (code, out, told + err)
    assert "replay" not in run("dead", "--help")[1]


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_an_output_that_the_caller_closed_is_no_mistake(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["session-worker", "schema", "request"])
    monkeypatch.setattr(sys, name, None)

    with pytest.raises(SystemExit) as ended:
        main()

    getattr(sys, name).close()
    assert ended.value.code == 0


def test_an_interrupt_that_nobody_else_saw_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("session_worker.cli.app.app", interrupted)

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 130


def test_a_command_tells_of_a_variable_that_may_have_been_meant_for_it(run: Run, tmp_path: Path) -> None:
    """Else it would answer from another ledger, and nobody would know."""
    command_settings._tell_unknown.cache_clear()
    code, _, err = run(
        "requests", ledger_ulr="postgresql://ledger/", ledger_url=f"sqlite:///{tmp_path}/none.db"
    )

    assert code == 1
    assert (
        "session-worker: nothing reads SESSION_WORKER_LEDGER_ULR; perhaps SESSION_WORKER_LEDGER_URL is meant."
        in err
    )


def test_every_setting_is_an_option_with_its_description() -> None:
    """But for the app, which is what `run` is given without a name."""
    options = {option.name: option for option in command().params if option.name in Settings.model_fields}

    assert options.keys() == Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        assert ("app" if name == "app" else f"--{name.replace('_', '-')}") in options[name].opts
        assert options[name].help.startswith(field.description)


def test_options_go_before_the_environment(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And arrive in the types of the settings; a switch can be turned off."""
    seen: list[Settings] = []

    def run_worker(loaded: Settings) -> int:
        seen.append(loaded)
        return 7

    monkeypatch.setattr("session_worker.runtime.process.run", run_worker)

    code, _, _ = run(
        *("run", "--concurrency", "5", "--no-declare", "--retry-delays", "2,4"), concurrency=9, prefix="other"
    )

    (loaded,) = seen
    assert code == 7
    assert (loaded.concurrency, loaded.declare, loaded.retry_delays) == (5, False, (2, 4))
    assert loaded.prefix == "other"


NOWHERE = "postgresql://127.0.0.1:1/ledger"
SCRIPT = "import sys; sys.path.pop(0); from session_worker.cli import main; main()"
STARTS = {"script": ["-c", SCRIPT], "module": ["-m", "session_worker.cli"]}
HANDLER = "async def handle(request, context): ..."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has modules and packages of the names that many projects use."""
    for name in ("client", "worker", "ledger"):
        (tmp_path / f"{name}.py").write_text(HANDLER)
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "__init__.py").write_text("")
    (tmp_path / "contracts" / "sessions.py").write_text(HANDLER)
    return tmp_path


def start_in(folder: Path, start: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SESSION_WORKER_")}
    return subprocess.run(
        [sys.executable, *STARTS[start], *arguments],
        cwd=folder,
        env=inherited | {"SESSION_WORKER_AMQP_URL": "amqp://127.0.0.1:1/"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("more", [[], ["--processes", "2", "--ledger-url", NOWHERE]], ids=["one", "several"])
def test_a_missing_handler_is_reported_in_a_sentence(folder: Path, start: str, more: list[str]) -> None:
    """By the worker itself and by the processes of a supervisor."""
    done = start_in(folder, start, "run", "--handler", "nope:handle", *more)

    assert done.returncode == 1
    assert "session-worker: handler nope:handle: module nope cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("handler", ["worker", "client", "ledger", "contracts.sessions"])
def test_a_handler_module_may_have_any_name(folder: Path, start: str, handler: str) -> None:
    """The doctor loads what the worker would."""
    done = start_in(
        folder, start, "doctor", "--json", "--handler", f"{handler}:handle", "--ledger-url", NOWHERE
    )

    states = {line["name"]: line["state"] for line in map(json.loads, done.stdout.splitlines())}
    assert states["handler"] == "ok", done.stdout
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("commands", [[], ["ledger"], ["dead"], ["topology"]], ids=" ".join)
def test_every_command_is_listed_with_a_whole_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, commands: list[str]
) -> None:
    """On 80 columns none is cut off."""
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run(*commands, "--help")
    listed = [line for line in out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines() if line]

    assert listed
    assert all(line.endswith(".") and not line.endswith("...") for line in listed), listed


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_help_breaks_no_word_and_goes_beyond_no_edge_but_with_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """However narrow the terminal is; no program's name is split at its hyphen, and no URL."""
    for name in ("run", "send", "demo", "dead redrive", "ledger copy", "doctor"):
        monkeypatch.setenv("COLUMNS", "1000")
        _, whole, _ = run(*name.split(), "--help")
        monkeypatch.setenv("COLUMNS", str(columns))
        _, out, _ = run(*name.split(), "--help")

        assert out.split() == whole.split()
        texts = out.partition("Options:")[2].splitlines()
        assert not [line for line in texts if len(line) > columns and len(line.split()) > 1]


@pytest.mark.parametrize(
    ("command", "usage"),
    [("status", "REQUEST_ID"), ("dead show", "ID"), ("schema", "request|response|asyncapi")],
)
def test_an_argument_stands_in_the_usage_line_by_its_name_alone(run: Run, command: str, usage: str) -> None:
    _, out, _ = run(*command.split(), "--help")

    assert out.startswith(f"Usage: session-worker {command} [OPTIONS] {usage}\n")
    assert "<str>" not in out
