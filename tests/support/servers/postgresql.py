"""A private PostgreSQL."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from session_worker.sandbox.workspace import (
    SandboxError,
    Server,
    Workspace,
    find,
    free_port,
    tail,
)

if TYPE_CHECKING:
    from tests.support.servers.certificate import Certificate

START_TIMEOUT: Final = 60.0
_QUICK: Final = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


class PostgreSQL(Server):
    """A private PostgreSQL on a free port of 127.0.0.1, with a password that only this process knows.

    Not `durable` it skips every fsync: quicker, and good enough where only processes die. With `tls` clients
    may connect by TLS.

    Raises:
        SandboxError: PostgreSQL is not installed, or does not start.
    """

    def __init__(self, *, durable: bool = True, tls: Certificate | None = None) -> None:
        pattern = "usr/lib/postgresql/*/bin/"
        self._postgres = find("postgres", "postgresql", pattern + "postgres")
        self._initdb = find("initdb", "postgresql", pattern + "initdb")
        self._psql = find("psql", "postgresql", pattern + "psql")
        self._durable = durable
        self._tls = tls
        self._workspace = Workspace("postgresql", "postgres")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        """The URL of the database `postgres`."""
        return self._url("postgres")

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    def start(self) -> None:
        if not (self._workspace.data / "db").exists():
            password = self._workspace.write("password", self.password)
            self._workspace.run(
                *(self._initdb, "-D", "db", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password),
                *("-E", "UTF8", "--locale=C", "-N"),
            )
            password.unlink()
            # The only settings that a test may want to change while the server runs go on the command line.
            self._workspace.run("/bin/mkdir", "-m", "700", "run")
        for attempt in range(5):
            log = self._launch()
            if log is None:
                return
            if attempt == 4 or "in use" not in log:
                raise SandboxError(f"The private PostgreSQL did not start: {tail(log)}")
            self.port = free_port()

    def stop(self) -> None:
        process = self._running()
        process.send_signal(signal.SIGINT)
        self._workspace.wait(process)
        self._process = None

    def kill(self) -> None:
        process = self._running()
        # Those that serve connections are in groups of their own: they would answer one more statement.
        serving = children(process.pid)
        process.kill()
        for pid in serving:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._workspace.kill(process)
        self._process = None

    def close(self) -> None:
        self._workspace.close()
        self._process = None

    def createdb(self, name: str, *, template: str = "template1") -> str:
        """Create a database, a copy of `template` (to which nobody may be connected), and return its URL."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self._url(name)

    def dropdb(self, name: str) -> None:
        """Delete a database, whoever is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Run SQL, in a transaction only where it says so, and return the rows as text.

        Raises:
            SandboxError: the statement failed; with the server's words.
        """
        done = subprocess.run(
            [self._psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self._place(database), "-c", sql],
            env=os.environ | {"PGPASSWORD": self.password},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SandboxError(f"PostgreSQL refused a statement: {tail(done.stderr)}")
        return done.stdout

    def _launch(self) -> str | None:
        """Start the server; None when it is ready, else what it logged."""
        folder = self._workspace.data
        log = self._workspace.write("log", "")
        settings = [
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={folder / 'run'}",
            # Memory shared through files of the folder: nothing is left in /dev/shm after a SIGKILL.
            "dynamic_shared_memory_type=mmap",
            "max_connections=200",
        ]
        if self._tls is not None:
            names = {"ssl_ca_file": "cacertfile", "ssl_cert_file": "certfile", "ssl_key_file": "keyfile"}
            files = {option: folder / name for option, name in names.items()}
            for name, text in self._tls._asdict().items():
                self._workspace.write(name, text)
            settings += ["ssl=on", *(f"{option}={path}" for option, path in files.items())]
        options = [part for setting in settings for part in ("-c", setting)]
        with log.open("ab") as output:
            self._process = self._workspace.start(
                self._postgres,
                *("-D", "db", "-p", str(self.port), *options, *(() if self._durable else _QUICK)),
                end_with="QUIT",
                stdout=output,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                return log.read_text()
            time.sleep(0.02)
        return None

    def _is_ready(self) -> bool:
        # The eighth line of the server's own file says so; a file of an earlier life names another process.
        try:
            lines = (self._workspace.data / "db" / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise SandboxError("The private PostgreSQL is not running", "call start()")
        return self._process

    def _url(self, database: str) -> str:
        return self._place(database, f":{self.password}")

    def _place(self, database: str, password: str = "") -> str:
        return f"postgresql://postgres{password}@127.0.0.1:{self.port}/{database}"


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run; none when it has ended itself."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
