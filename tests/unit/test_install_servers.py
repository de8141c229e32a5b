"""`scripts/install-servers` in a folder that stands for the machine, with a stand-in for apt-get."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install-servers"
TOOLS = (
    "bash",
    "cat",
    "chmod",
    "env",
    "flock",
    "grep",
    "mkdir",
    "mktemp",
    "mv",
    "rm",
    "sleep",
    "tail",
    "touch",
)
ADMINISTRATORS = "#!/bin/sh\n# the administrator's own\nexit 104\n"

# It notes what the policy says meanwhile, and takes as long as the test wants.
APT_GET = """#!/usr/bin/env bash
"$INSTALL_ROOT/usr/sbin/policy-rc.d"; echo "$? $*" >> "$INSTALL_ROOT/log"
while [ -e "$INSTALL_ROOT/wait" ]; do sleep 0.02; done
mkdir -p "$INSTALL_ROOT/usr/lib/postgresql/15/bin" "$INSTALL_ROOT/usr/lib/rabbitmq/lib/rabbitmq_server-4/sbin"
touch "$INSTALL_ROOT/usr/lib/postgresql/15/bin/postgres"
touch "$INSTALL_ROOT/usr/lib/rabbitmq/lib/rabbitmq_server-4/sbin/rabbitmq-server"
"""


class Machine:
    """``uid`` is whose the script believes to be run by."""

    def __init__(self, folder: Path, uid: int = 0) -> None:
        self.root = folder / "root"
        self.bin = folder / "bin"
        self.policy = self.root / "usr/sbin/policy-rc.d"
        self.policy.parent.mkdir(parents=True)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or "/nowhere")
        self.program("apt-get", APT_GET)
        self.program("id", f"#!/bin/sh\necho {uid}\n")
        self.program("python3", "#!/bin/sh\n")
        self.running: list[subprocess.Popen[str]] = []

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self.bin / "bash", SCRIPT, *arguments],
            env={"PATH": str(self.bin), "INSTALL_ROOT": str(self.root), "TMPDIR": str(self.root)},
            cwd=self.root,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        out, _ = process.communicate(timeout=60)
        return process.returncode, out

    @property
    def log(self) -> list[str]:
        """What apt-get was told, each behind what it may do with services."""
        path = self.root / "log"
        return path.read_text().splitlines() if path.exists() else []

    def begin(self) -> subprocess.Popen[str]:
        """An installation that is half-way."""
        (self.root / "wait").touch()
        process = self.start()
        soon(lambda: self.log)
        return process

    def go_on(self) -> None:
        (self.root / "wait").unlink()

    @property
    def left(self) -> list[str]:
        """What of it is left beside the installed."""
        names = [path.name for path in self.policy.parent.iterdir()]
        names += [path.name for path in self.root.glob("etc/postgresql-common/*/*")]
        return [name for name in names if name != self.policy.name]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for process in machine.running:
        with suppress(ProcessLookupError):  # the stand-in for apt-get belongs to its group
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(params=["a file", "a link", "nothing"])
def policy(request: pytest.FixtureRequest, machine: Machine) -> str | None:
    """What the administrator has there, and what it says; None for nothing."""
    if request.param == "nothing":
        return None
    path = machine.policy if request.param == "a file" else machine.root / "usr/sbin/own-policy"
    path.write_text(ADMINISTRATORS)
    path.chmod(0o750)
    if request.param == "a link":
        path = path.rename(machine.root / "own-policy")
        machine.policy.symlink_to(path)
    return ADMINISTRATORS


def is_as_before(machine: Machine, policy: str | None) -> bool:
    if policy is None:
        return not machine.policy.exists() and machine.left == []
    same = machine.policy.read_text() == policy and machine.policy.stat().st_mode & 0o777 == 0o750
    return same and machine.left == []


def test_no_service_starts_while_it_installs_and_the_policy_is_as_before(
    machine: Machine, policy: str | None
) -> None:
    code, out = machine.end(machine.start())

    assert code == 0, out
    assert machine.log == ["101 install -y --no-install-recommends rabbitmq-server postgresql"]
    assert is_as_before(machine, policy)
    assert machine.end(machine.start()) == (0, "")
    assert len(machine.log) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_after_it_was_killed_half_way_another_run_restores_the_policy(
    machine: Machine, policy: str | None, times: int
) -> None:
    for _ in range(times):
        os.killpg(machine.begin().pid, signal.SIGKILL)
        (machine.root / "log").unlink()
    machine.go_on()
    code, out = machine.end(machine.start())

    assert code == 0, out
    assert is_as_before(machine, policy)


@pytest.mark.parametrize("over", [True, False])
def test_work_that_a_killed_apt_get_left_running_is_awaited_and_the_policy_restored(
    machine: Machine, policy: str | None, over: bool
) -> None:
    """Whether that is over or not, the next run has nothing to install."""
    machine.begin().kill()
    if over:
        machine.go_on()
        soon(lambda: list(machine.root.glob("usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server")))
        next_one = machine.start()
    else:
        next_one = machine.start()
        machine.go_on()
    code, out = machine.end(next_one)

    assert code == 0, out
    assert len(machine.log) == 1
    assert is_as_before(machine, policy)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_without_leaving_its_log(machine: Machine, number: signal.Signals) -> None:
    process = machine.begin()
    os.killpg(process.pid, number)
    machine.go_on()

    assert machine.end(process)[0] != 0
    assert [*machine.root.glob("tmp.*")] == []


def test_the_log_of_an_installation_that_failed_stays(machine: Machine) -> None:
    machine.program("apt-get", "#!/bin/sh\necho no such package; exit 100\n")
    code, out = machine.end(machine.start())

    (log,) = machine.root.glob("tmp.*")
    assert (code, f"what it printed is in {log}" in out) == (1, True)
    assert "no such package" in log.read_text()


def test_two_runs_at_once_install_once_and_leave_the_policy(machine: Machine, policy: str | None) -> None:
    first = machine.begin()
    second = machine.start()
    machine.go_on()

    assert (machine.end(first)[0], machine.end(second)) == (0, (0, ""))
    assert len(machine.log) == 1
    assert is_as_before(machine, policy)


def test_a_policy_that_is_new_since_it_was_killed_stays_and_the_old_one_is_kept(machine: Machine) -> None:
    machine.policy.write_text("#!/bin/sh\n# older\n")
    os.killpg(machine.begin().pid, signal.SIGKILL)
    machine.policy.write_text(ADMINISTRATORS)
    machine.go_on()

    assert machine.end(machine.start())[0] == 0
    assert machine.policy.read_text() == ADMINISTRATORS
    assert "older" in "".join(path.read_text() for path in machine.policy.parent.glob("*before*"))


def test_a_user_who_may_not_install_is_told_at_once_what_is_missing_and_what_to_type(tmp_path: Path) -> None:
    """Without sudo, and with one that wants a password, which nobody can type."""
    machine = Machine(tmp_path, uid=1000)
    for sudo in (None, '#!/bin/sh\n[ "$1" != --non-interactive ] && echo "sudo was asked"\nexit 1\n'):
        if sudo:
            machine.program("sudo", sudo)
        code, out = machine.end(machine.start())

        assert code == 1
        assert out.splitlines() == [
            "Missing: rabbitmq-server, postgresql (Debian's packages).",
            f"Type `sudo {SCRIPT} rabbitmq-server postgresql` and try again (it starts no service).",
        ]
    assert machine.log == []


def test_where_there_is_a_terminal_sudo_may_ask_for_the_password(tmp_path: Path) -> None:
    machine = Machine(tmp_path, uid=1000)
    machine.program("sudo", '#!/bin/sh\n[ "$1" != --non-interactive ] && echo "sudo $*"\n')
    ours, theirs = pty.openpty()
    try:
        code, out = machine.end(machine.start(stdin=theirs))
    finally:
        os.close(ours)
        os.close(theirs)

    assert code == 0
    assert out.splitlines()[1:] == ["sudo --validate", f"sudo -- {SCRIPT} rabbitmq-server postgresql"]
