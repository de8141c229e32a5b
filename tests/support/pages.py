"""Follows a page word by word: runs every command on it, in order, as a reader would in their terminals.

Commands stand in fenced blocks. ``sh``: commands alone. ``console``: commands after ``$ ``, and below each
what it must print: these lines in this order, maybe with others between them; ``…`` stands for anything. What
is written behind the language no reader sees:

- ``terminal=worker``: another terminal than the first one. A terminal keeps its folder, its variables and its
  background commands; what still runs there in the foreground gets Ctrl-C before the next block's commands.
- ``until="worker up"``: the block's last command need not end, but must print this.
- ``exit=1``: how the block's last command ends.
- ``file=shop/sessions.py``: the block, of any language, is that file's new content.
- ``elsewhere=docker``: it needs what is not here. The test must name its first line, and say why.

Any other block is a mistake, so that none is added that nobody runs.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.servers.postgresql import children
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

DEADLINE = 120.0
"""Seconds for one command."""
COMMANDS = {"sh", "console"}
OPTIONS = {"terminal", "until", "exit", "file", "elsewhere"}
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_BLOCK = re.compile(
    r"^(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Command:
    """What a reader types, and what they must see then."""

    text: str
    prints: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """A fenced block, the line of the page where it begins, and the heading under which it stands."""

    language: str
    options: dict[str, str]
    text: str
    line: int
    heading: str

    @property
    def commands(self) -> list[Command]:
        """In the order of the page. A line that ends in a backslash goes on, and so does a here-document."""
        if self.language == "sh":
            return [Command(text) for text in _whole(self.text.splitlines())]
        assert self.text.startswith("$ "), f"line {self.line}: a console block begins with a command: $ …"
        found: list[Command] = []
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            first, *rest = _whole(part.splitlines())
            found.append(Command(first, [line for line in rest if line.strip() not in {"", "…"}]))
        return found


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page's text."""
    found = []
    for match in _BLOCK.finditer(page):
        language, *words = shlex.split(match["info"]) or [""]
        options = dict(word.split("=", 1) for word in words)
        line = page.count("\n", 0, match.start()) + 1
        assert set(options) <= OPTIONS, f"line {line}: only {', '.join(sorted(OPTIONS))} may stand there"
        heading = ["", *_HEADING.findall(_BLOCK.sub("", page[: match.start()]))][-1]
        found.append(Block(language, options, match["text"], line, heading))
    return found


def mentions(page: str, programs: Collection[str]) -> list[str]:
    """The commands of these programs that the running text names."""
    prose = _BLOCK.sub("", page)
    return [
        " ".join(code.split())
        for code in re.findall(r"`([^`]+)`", prose)
        if code.split()[:1] and code.split()[0] in programs and len(code.split()) > 1
    ]


def follow(
    page: Path,
    folder: Path,
    *,
    replace: Mapping[str, str],
    capture: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    meanwhile: Mapping[str, Callable[[], object]] | None = None,
    elsewhere: Collection[str] = (),
) -> str:
    """Run every command of ``page`` in ``folder``; all that was printed.

    ``replace``: texts of the page and what is run in their place (addresses; commands that must not be run
    here), each of which must be on the page. ``capture``: a placeholder of the page and the pattern whose
    group 1, where it was printed last, is its value. ``meanwhile``: what befalls the reader before the first
    command under a heading. ``elsewhere``: the first lines of all blocks that are marked so.

    Raises:
        AssertionError: with the page's line, the command and what it printed.
    """
    text = page.read_text()
    unused = [old for old in replace if old not in text]
    assert not unused, f"{page.name} does not have {unused}"
    there = blocks(text)
    marked = {block.text.partition("\n")[0] for block in there if "elsewhere" in block.options}
    assert marked == set(elsewhere), f"{page.name} has other blocks that are not run: {marked}"
    ahead = dict(meanwhile or {})
    reader = _Reader(folder, replace, capture or {}, env or {})
    try:
        for block in there:
            if "elsewhere" in block.options:
                continue
            ahead.pop(block.heading, lambda: None)()
            reader.do(block, f"{page.name}, line {block.line}")
    finally:
        reader.leave()
    assert not ahead, f"{page.name} has no commands under {list(ahead)}"
    return reader.printed


class _Reader:
    """Somebody who does what the page says."""

    def __init__(
        self, folder: Path, replace: Mapping[str, str], capture: Mapping[str, str], env: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._replace = sorted(replace.items(), key=lambda each: -len(each[0]))
        self._capture = capture
        self._env = env
        self._terminals: dict[str, _Terminal] = {}

    @property
    def printed(self) -> str:
        """In all terminals; their last commands' output comes last within each."""
        return "".join(terminal.printed for terminal in self._terminals.values())

    def do(self, block: Block, where: str) -> None:
        if file := block.options.get("file"):
            path = self._folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._meant(block.text))
            return
        assert block.language in COMMANDS, (
            f"{where}: nobody runs this block ({block.language or 'no language'})"
        )
        name = block.options.get("terminal", "first")
        terminal = self._terminals.get(name) or _Terminal(self._folder, self._env)
        self._terminals[name] = terminal
        terminal.interrupt()
        *others, last = block.commands
        for command in others:
            self._run(terminal, command, None, 0, where)
        self._run(terminal, last, block.options.get("until"), int(block.options.get("exit", 0)), where)

    def _run(self, terminal: _Terminal, command: Command, until: str | None, code: int, where: str) -> None:
        start = len(terminal.printed)
        typed = self._meant(command.text)
        terminal.type(typed)
        behind = typed.endswith("&")

        def over() -> bool:
            seen = until is not None and until in terminal.printed[start:]
            return seen or terminal.gone or (not terminal.busy and not (until and behind))

        with suppress(AssertionError):  # what it printed until then says more
            soon(over, DEADLINE)
        output = terminal.printed[start:]
        said = f"{where}: {typed}"
        assert until is None or until in output, f"{said}\ndid not come to print {until!r}:\n{output}"
        assert until is not None or terminal.code == code, f"{said}\nended with {terminal.code}:\n{output}"
        rest = iter(output.splitlines())
        for line in command.prints:
            pattern = re.compile(re.escape(self._meant(line).rstrip()).replace("…", ".*"))
            assert any(pattern.fullmatch(each.rstrip()) for each in rest), (
                f"{said}\ndid not print\n{line}\n\n{output}"
            )

    def _meant(self, text: str) -> str:
        for old, new in self._replace:
            text = text.replace(old, new)
        for name, pattern in self._capture.items():
            if re.search(rf"\b{name}\b", text):
                found = re.findall(pattern, self.printed)
                assert found, f"nothing was printed for {name}, {pattern}, so far:\n{self.printed}"
                text = re.sub(rf"\b{name}\b", found[-1], text)
        return text

    def leave(self) -> None:
        for terminal in self._terminals.values():
            terminal.close()


class _Terminal:
    """A shell with job control that reads its commands from us. What it says is in a file."""

    _numbers = count()

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith("SESSION_WORKER_")
        }
        notes = folder.parent / f"{folder.name}-terminal-{next(self._numbers)}"
        self._output, self._codes = notes.with_suffix(".out"), notes.with_suffix(".codes")
        self._codes.touch()
        self._typed = 0
        with self._output.open("ab") as output:
            self._shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                cwd=folder,
                env={**inherited, **env},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._write("set -m; trap : INT")  # as at a prompt: jobs of their own, and Ctrl-C ends only them

    @property
    def printed(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def busy(self) -> bool:
        """Whether a command runs in the foreground."""
        return len(self._codes.read_text().splitlines()) < self._typed

    @property
    def gone(self) -> bool:
        return self._shell.poll() is not None

    @property
    def code(self) -> int | None:
        """How the last command ended; None when it did not, or took the shell with it (by wrong syntax)."""
        return None if self.busy else int(self._codes.read_text().split()[-1])

    def type(self, command: str) -> None:
        self._typed += 1
        self._write(f"{{\n{command}\n}} </dev/null\necho $? >> {shlex.quote(str(self._codes))}")

    def interrupt(self) -> None:
        """Ctrl-C, if something runs in the foreground: it is what the shell started last."""
        if self.busy and not self.gone:
            newest = max(children(self._shell.pid), key=_started)
            os.killpg(os.getpgid(newest), signal.SIGINT)
            soon(lambda: not self.busy or self.gone, DEADLINE)

    def close(self) -> None:
        """End the shell and whatever it left running."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in _session(self._shell.pid):
                if pid != self._shell.pid:
                    os.kill(pid, number)
            try:
                soon(lambda: set(_session(self._shell.pid)) <= {self._shell.pid}, 30)
                break
            except AssertionError:
                continue
        self._shell.kill()
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait()

    def _write(self, line: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{line}\n".encode())
        self._shell.stdin.flush()


def _whole(lines: list[str]) -> Iterator[str]:
    """Lines with those that continue them."""
    rest = iter(lines)
    for line in rest:
        whole = line
        while whole.endswith("\\"):
            whole += f"\n{next(rest)}"
        if document := re.search(r"<<-?\s*['\"]?(\w+)", whole):
            for each in rest:
                whole += f"\n{each}"
                if each.strip() == document[1]:
                    break
        if whole.strip() and not whole.lstrip().startswith("#"):
            yield whole


def _stat(pid: int) -> list[str]:
    """The numbers that the kernel has of a process, from its state on; none when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> int:
    return int((_stat(pid) or ["0"] * 20)[19])


def _session(leader: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(path.name))
        if stat and stat[0] != "Z" and int(stat[3]) == leader:
            found.append(int(path.name))
    return found
