"""A folder and the server processes that live in it: they end together, however this process ends."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any, Self

# Wait for the end of standard input: the kernel closes it when our process is gone, even by SIGKILL.
# Then end every process group noted in the folder (each by a file "<pid>.<signal>") and remove the folder.
_GUARD = r"""
trap '' HUP INT TERM
while read -r line; do :; done
cd "$1" || exit 0
for note in *.QUIT *.KILL; do [ -e "$note" ] && kill -s "${note#*.}" -- "-${note%%.*}"; done
tries=0
for note in *.QUIT *.KILL; do
    [ -e "$note" ] || continue
    while kill -s 0 -- "-${note%%.*}" && [ "$tries" -lt 100 ]; do tries=$((tries + 1)); sleep 0.05; done
    kill -s KILL -- "-${note%%.*}"
done
cd /
tries=0
until rm -rf -- "$1" || [ "$tries" -ge 100 ]; do tries=$((tries + 1)); sleep 0.05; done
"""

# Wait for a line that says that the process is noted: the guard must know every process that begins.
_WHEN_NOTED = 'read -r noted && exec "$@"'


class SandboxError(Exception):
    """A private server cannot be had: ``what`` is wrong, and ``fix`` is to be done, where anything is.

    As an error of the worker's own is, but nothing here imports what is not of this folder.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}; {fix}." if fix else what)
        self.what, self.fix = what, fix


class Workspace:
    """A new folder under the system's temporary folder, and the processes started in it.

    Run as root, the servers run as `system_user`, who owns `data`; otherwise as the caller.

    Raises:
        SandboxError: run as root and there is no such user.
    """

    def __init__(self, server: str, system_user: str) -> None:
        self._user = _account(system_user, server) if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix=f"session-worker-{server}-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._guard = subprocess.Popen(  # noqa: S603 -- a constant script
            ["/bin/sh", "-c", _GUARD, "guard", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )
        # The servers' user must pass through; only we may write the notes that the guard trusts.
        self.folder.chmod(0o711)
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        self.own(self.data)

    def own(self, path: Path) -> None:
        """Give a file or folder to the servers' user."""
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        """Write a file of the servers' user into `data`, in place of an older one."""
        path = self.data / name
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
        path.chmod(mode)
        self.own(path)
        return path

    def run(self, *command: str | Path) -> None:
        """Run a short command to its end as the servers' user.

        Raises:
            SandboxError: it failed; with the end of what it printed.
        """
        done = subprocess.run(  # noqa: S603 -- our own command
            command, **self._how(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            raise SandboxError(
                f"{Path(command[0]).name} failed: {tail(done.stdout.decode(errors='replace'))}"
            )

    def start(
        self,
        *command: str | Path,
        env: dict[str, str] | None = None,
        end_with: str = "KILL",
        talk: bool = False,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a server in a session of its own, so that Ctrl-C in a terminal does not reach it.

        `end_with` is the signal ("KILL" or "QUIT") that ends it with the workspace. With `talk`, its standard
        input is a pipe from here.
        """
        process = subprocess.Popen(  # noqa: S603 -- our own command
            ["/bin/sh", "-c", _WHEN_NOTED + ("" if talk else " </dev/null"), "sh", *command],
            **self._how(env),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        (self.folder / f"{process.pid}.{end_with}").touch()
        assert process.stdin is not None  # noqa: S101 -- for the type checker
        process.stdin.write(b"\n")
        process.stdin.flush()
        if not talk:
            process.stdin.close()
        self._processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End a server at once with SIGKILL; nothing to do if it is gone."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        self.wait(process)

    def wait(self, process: subprocess.Popen[bytes], timeout: float = 60.0) -> None:
        """Wait up to `timeout` seconds for a server that was told to stop, and forget it.

        Raises:
            SandboxError: it did not stop in time.
        """
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise SandboxError(
                f"The server with process id {process.pid} did not stop in {timeout:g} s."
            ) from None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        for note in self.folder.glob(f"{process.pid}.*"):
            note.unlink()
        self._processes.remove(process)

    def close(self) -> None:
        """End every process and remove the folder. May be called again."""
        if self._guard.stdin is None or self._guard.stdin.closed:
            return
        self._guard.stdin.close()
        for process in tuple(self._processes):
            self.wait(process)
        self._guard.wait()

    def _how(self, env: dict[str, str] | None = None) -> dict[str, Any]:
        path = os.environ.get("PATH", os.defpath)
        how: dict[str, Any] = {"cwd": self.data, "env": {"PATH": path, "LANG": "C.UTF-8", **(env or {})}}
        if self._user is not None:
            how |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return how


class Server:
    """A private server: a context manager that starts it and leaves nothing behind."""

    _workspace: Workspace

    @property
    def folder(self) -> Path:
        """The folder of all that it has on disk, which `close` removes."""
        return self._workspace.folder

    def start(self) -> None:
        """Start it, or start it again on the same port with the data it had. Returns when it serves."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it in good order; its data stay."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it with SIGKILL; its data stay as they were."""
        raise NotImplementedError

    def close(self) -> None:
        """End it and remove all it had. May be called again."""
        raise NotImplementedError

    def restart(self) -> None:
        """Stop it in good order and start it again."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody listens on.

    It lies below the range that the kernel gives to outgoing connections: while a server restarts, no client
    that keeps trying to connect can be given the server's port.
    """
    while True:
        port = random.randrange(15_000, 32_000)  # noqa: S311 -- no secret
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def find(name: str, package: str, *patterns: str) -> Path:
    """Find the program `name`: the newest that matches one of the patterns (below /), else the one on PATH.

    Raises:
        SandboxError: there is none; says what to install.
    """
    for pattern in patterns:
        for path in sorted(Path("/").glob(pattern), key=_version, reverse=True):
            if os.access(path, os.X_OK):
                return path
    found = shutil.which(name)
    if found is None:
        raise SandboxError(
            f"`{name}` is not on this machine",
            f"install it with `{'sudo ' if os.geteuid() else ''}apt-get install {package}`",
        )
    return Path(found)


def tail(text: str, lines: int = 8) -> str:
    """The last lines of a server's output, joined into one line."""
    return (
        " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())
        or "it printed nothing"
    )


def _version(path: Path) -> list[int]:
    return [int(part) for part in "".join(c if c.isdigit() else " " for c in str(path)).split()]


def _account(name: str, server: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise SandboxError(
            f"As root a private {server} runs as the user `{name}`, who does not exist",
            f"install Debian's package of {server}, or run this as another user",
        ) from None
