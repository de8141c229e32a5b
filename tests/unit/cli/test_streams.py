"""Any encoding, reader or interrupt: no traceback, nothing lost, nothing obeyed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from session_client import RequestFailed
from session_contracts import CreateSessionPayload, CreateSessionRequest, CreateSessionResponse
from session_worker.cli import interrupts, send
from session_worker.cli.terminal import Terminal
from session_worker.cli.views.listing import Listing, facts
from session_worker.telemetry.printable import printable, printable_json
from tests.support.hostile import HOSTILE, REQUEST_ID, commands_in, hostile_broker, hostile_ledger
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., tuple[int, str, str]]
    from collections.abc import Coroutine


COMMANDS = [
    f"status {REQUEST_ID}",
    f"status {REQUEST_ID} --json",
    "requests",
    "requests --json",
    "send --user ada",
    "send --user ada --json",
    "send --user ada --count 2",
    "dead list",
    f"dead show {REQUEST_ID}",
    "topology check",
    "top --once",
    "top --json",
    "doctor",
    "doctor --json",
]
WAYS = ["--help", "schema asyncapi", "requests", "requests --json", "top --once"]
"""One command for each way to write: help, a long document, lists, documents by the line, and from a loop."""


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    ledger = hostile_ledger(tmp_path_factory.mktemp("ledger") / "ledger.db")
    mine = {name: value for name, value in os.environ.items() if not name.startswith("SESSION_WORKER_")}
    with hostile_broker() as broker:
        yield mine | {"SESSION_WORKER_LEDGER_URL": ledger, "SESSION_WORKER_AMQP_URL": broker}


def _run(command: list[Any], env: dict[str, str], **streams: Any) -> subprocess.CompletedProcess[bytes]:
    how: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    } | streams
    done = subprocess.run([PROGRAM, *command], env=env, timeout=60, check=False, **how)
    for words in (done.stdout or b"", done.stderr or b""):
        assert b"Traceback" not in words, words.decode(errors="replace")
        assert b"Exception ignored" not in words
    return done


def _urls(surroundings: dict[str, str]) -> dict[str, str]:
    return {name: surroundings[f"SESSION_WORKER_{name.upper()}"] for name in ("ledger_url", "amqp_url")}


# ---------------------------------------------------------------------------------------- what is obeyed


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_others_wrote_commands_the_terminal(
    command: str, run: Run, surroundings: dict[str, str]
) -> None:
    """Neither a ledger's columns nor a broker's last words, as text or as JSON."""
    _, out, err = run(*command.split(), **_urls(surroundings))
    assert commands_in(out + err) == set()
    assert "[red]é 漢 e\u0301[/red]" in out + err
    if "--json" in command:
        for line in out.splitlines():
            json.loads(line)


def test_json_says_exactly_what_is_in_the_ledger(run: Run, surroundings: dict[str, str]) -> None:
    _, out, _ = run("status", REQUEST_ID, "--json", **_urls(surroundings))
    entry = json.loads(out)
    assert entry["user_id"] == entry["history"][0]["detail"] == f"eve{HOSTILE}"


def test_what_a_log_says_on_a_terminal_is_not_obeyed(surroundings: dict[str, str]) -> None:
    ours, theirs = os.openpty()
    run = subprocess.Popen([PROGRAM, "run"], env=surroundings, stdin=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        with suppress(OSError):  # it has ended
            while "漢".encode() not in said or not said.endswith(b"\n"):
                said += os.read(ours, 65_536)
    finally:
        run.terminate()
        run.wait(30)
        os.close(ours)
    assert "漢".encode() in said
    assert commands_in(re.sub(r"\x1b\[\d*m|\r\n", "", said.decode())) == set()


@pytest.mark.parametrize(
    "given",
    [
        ["--\x1b[31m"],
        ["\x1b[31m"],
        ["send", "--user", HOSTILE.replace("\r", "") * 9],
        ["status", HOSTILE],
        ["requests", "--status", HOSTILE],
        ["requests", "--code", HOSTILE],
        ["schema", HOSTILE],
        ["run", "--handler", HOSTILE],
        ["requests", "--ledger-url", f"sqlite:////tmp/{HOSTILE}.db"],
        ["topology", "check", "--amqp-url", f"amqp://{HOSTILE}/"],
        ["dead", "list", "--since", HOSTILE],
    ],
    ids=lambda given: given[0],
)
def test_what_was_typed_is_repeated_harmlessly(
    given: list[str], run: Run, surroundings: dict[str, str]
) -> None:
    code, out, err = run(*given, **_urls(surroundings))
    assert code != 0
    assert commands_in(out + err) == set()


@pytest.mark.parametrize(
    "shown",
    [
        HOSTILE,
        Text(HOSTILE, style="red"),
        Text.assemble(("before ", "bold"), (HOSTILE, "red")),
        Group(HOSTILE, Text(HOSTILE)),
        facts([("name", HOSTILE), ("other", Text(HOSTILE))]),
    ],
    ids=["text", "styled", "assembled", "group", "listing"],
)
def test_no_way_to_show_something_passes_the_gate(shown: Any) -> None:
    """A new command has no other: colours are the layout's, and every text is one line."""
    file = StringIO()
    screen = Terminal(vital=True, file=file, width=2000, markup=False, highlight=False, emoji=False)
    table = Table(HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE))
    for each in (shown, table):
        screen.print(each)
    assert commands_in(file.getvalue()) == set()
    assert "[red]é 漢 e\u0301[/red]" in file.getvalue()


def test_a_line_break_in_a_cell_begins_no_line() -> None:
    file = StringIO()
    listing = Listing("one", "two")
    listing.add("a\nb", Text("c\nd", style="red"))
    Terminal(vital=True, file=file, width=80).print(listing)
    assert len(file.getvalue().splitlines()) == 2


@pytest.mark.parametrize("json_wanted", [True, False])
@pytest.mark.parametrize("refused", [True, False])
def test_a_responder_that_answers_what_it_likes_commands_nothing(
    refused: bool, json_wanted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    request = CreateSessionRequest(user_id="ada", payload=CreateSessionPayload(title=f"x{HOSTILE}"))
    answer = CreateSessionResponse.model_validate(
        {
            "request_id": request.request_id,
            "status": "failed" if refused else "completed",
            "payload": {"session_id": HOSTILE, "casefile_id": HOSTILE, "created_at": HOSTILE},
            "error": HOSTILE,
            "metadata": {"error_code": HOSTILE, HOSTILE: HOSTILE},
        }
    )
    result = send.Result(request, 0.1, answer, RequestFailed(answer) if refused else None)
    send._show(result, json=json_wanted, many=False)
    send._summary([result, result], 0.1, json=json_wanted)
    send._unwritten(send.Tally(1, [result]), [request])
    shown = capsys.readouterr()
    assert commands_in(shown.out + shown.err) == set()
    assert "漢" in shown.out + shown.err


def test_every_category_that_is_no_text_is_spelled_out() -> None:
    with_characters = [*range(0x40000), *range(0xE0000, 0xE1000), 0xF0000, 0x10FFFF]  # of all planes
    spelled = {ascii(chr(code)): printable(chr(code)) for code in with_characters}
    assert [name for name, text in spelled.items() if commands_in(text)] == []
    text = 'é 漢字 e\u0301 \U0001f600 "x" \\'
    assert printable(text) == text
    assert json.loads(printable_json(json.dumps({"a": HOSTILE}, ensure_ascii=False))) == {"a": HOSTILE}


# ------------------------------------------------------------------------------------------ encodings


@pytest.mark.parametrize("command", ["requests", "doctor", "run --help", "requests --é"])
def test_characters_that_an_encoding_does_not_have_are_replaced(
    command: str, surroundings: dict[str, str]
) -> None:
    done = _run(command.split(), surroundings | {"PYTHONIOENCODING": "ascii:strict"})
    assert b"?" in done.stdout + done.stderr
    assert done.stdout.isascii()
    assert done.stderr.isascii()


def test_json_loses_nothing_by_an_encoding(surroundings: dict[str, str]) -> None:
    done = _run(["requests", "--json"], surroundings | {"PYTHONIOENCODING": "ascii:strict"})
    assert {json.loads(line)["user_id"] for line in done.stdout.splitlines()} == {f"eve{HOSTILE}"}


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "POSIX"}]
)
def test_in_the_c_locale_arguments_and_words_are_still_text(
    locale: dict[str, str], surroundings: dict[str, str]
) -> None:
    """UTF-8 that Python took for something else is UTF-8."""
    done = _run(["requests", "--user", f"eve{HOSTILE}", "--json"], surroundings | locale)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([b"send", b"--user", b"ab\xff"], "--user"),
        ([b"requests", b"--ledger-url=sqlite:////tmp/\xff.db"], "--ledger-url"),
        ([b"status", b"\xff"], "Argument 2"),
        ([b"dead", b"list", b"--code", b"\xc3"], "--code"),
        ([b"run", b"--handler", b"\xff:x"], "--handler"),
        ([b"topology", b"check", b"--amqp-url", b"amqp://\xff/"], "--amqp-url"),
        ([b"\xff"], "Argument 1"),
    ],
)
def test_an_argument_that_is_not_utf8_is_named(given: list[bytes], named: str, run: Run) -> None:
    complaint = f"session-worker: {named} is not UTF-8 text. Write it in UTF-8.\n"
    assert run(*map(os.fsdecode, given)) == (2, "", complaint)


def test_a_variable_that_is_not_utf8_is_named(run: Run) -> None:
    code, _, err = run("requests", ledger_url="sqlite:////tmp/\udcff.db")
    assert code == 2
    assert "SESSION_WORKER_LEDGER_URL is not UTF-8 text" in err


def test_a_secret_that_is_not_utf8_is_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "session_worker_prefix").write_bytes(b"\xff")
    code, _, err = run("topology", "check", secrets_dir=tmp_path)
    assert code == 2
    assert "session_worker_prefix" in err
    assert "UTF-8" in err


def test_a_folder_whose_name_is_not_utf8_is_one_to_work_in(
    surroundings: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    home = surroundings | {"HOME": str(folder), "XDG_STATE_HOME": str(folder)}
    del home["SESSION_WORKER_LEDGER_URL"]
    for command in (["requests"], ["doctor"], ["run", "--handler", "none:x"]):
        done = _run(command, home, cwd=folder)
        assert done.returncode in (1, 2)
        assert commands_in((done.stdout + done.stderr).decode()) == set()


# ----------------------------------------------------------------------------------------- who reads


@pytest.fixture
def gone() -> Iterator[int]:
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("command", WAYS)
def test_a_reader_that_is_gone_is_no_accident(command: str, gone: int, surroundings: dict[str, str]) -> None:
    done = _run(command.split(), surroundings, stdout=gone)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("command", WAYS)
def test_a_full_disk_is_a_sentence(command: str, surroundings: dict[str, str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = _run(command.split(), surroundings, stdout=full)
    told = b"session-worker: Standard output takes nothing: No space left on device.\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_a_command_succeeds_though_nobody_can_read_its_notices(
    gone: int, surroundings: dict[str, str]
) -> None:
    """On a full disk, or with a reader that is gone."""
    misspelt = surroundings | {"SESSION_WORKER_LOG_LEVL": "info"}
    assert b"LOG_LEVL" in _run(["requests"], misspelt).stderr
    with Path("/dev/full").open("wb") as full:
        for nowhere in (full, gone):
            done = _run(["requests"], misspelt, stderr=nowhere)
            assert (done.returncode, b"eve" in done.stdout) == (0, True)


@pytest.mark.parametrize("command", WAYS[:4])
def test_streams_may_be_closed(command: str, surroundings: dict[str, str]) -> None:
    closed = f"exec {PROGRAM} {command} <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", closed], env=surroundings, timeout=60, check=False)
    assert done.returncode == 0


# ----------------------------------------------------------------------------------------- interrupts


RAISING = """
import signal
from session_worker.cli import interrupts
signal.signal(signal.SIGINT, signal.{sigint})
signal.signal(signal.SIGHUP, signal.{sighup})
interrupts.listen()
signal.raise_signal(signal.{number})
"""


@pytest.mark.parametrize(
    ("number", "sigint", "sighup", "interrupted"),
    [
        ("SIGTERM", "default_int_handler", "SIG_DFL", True),
        ("SIGTERM", "SIG_IGN", "SIG_DFL", True),
        ("SIGHUP", "SIG_IGN", "SIG_DFL", True),
        ("SIGHUP", "SIG_IGN", "SIG_IGN", False),
    ],
)
def test_sigterm_interrupts_what_was_begun_in_the_background_too(
    number: str, sigint: str, sighup: str, interrupted: bool
) -> None:
    """A shell has SIGINT ignored there, and nohup SIGHUP."""
    program = RAISING.format(number=number, sigint=sigint, sighup=sighup)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == (-signal.SIGINT if interrupted else 0), done.stderr


async def test_a_cancellation_that_the_work_turns_into_an_error_stays_one() -> None:
    started = asyncio.Event()

    async def connecting() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("the connection was lost") from None

    task = asyncio.create_task(interrupts.interruptible(connecting()))
    await started.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_results_and_errors_come_through() -> None:
    async def work(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 7

    assert await interrupts.interruptible(work(None)) == 7
    with pytest.raises(ValueError, match="wrong"):
        await interrupts.interruptible(work(ValueError("wrong")))


def test_an_interrupt_before_the_work_begins_is_an_interrupt() -> None:
    """A runner that is just setting itself up hands it on as a cancellation; nothing is left behind."""

    async def work() -> None: ...

    def interrupted(coro: Coroutine[Any, Any, Any]) -> None:
        coro.close()
        raise asyncio.CancelledError

    with pytest.raises(KeyboardInterrupt):
        interrupts.run(cast("asyncio.Runner", SimpleNamespace(run=interrupted)), work())
