"""A private RabbitMQ node."""

from __future__ import annotations

import secrets
import signal
import subprocess
from typing import Final
from urllib.parse import quote

from session_worker.sandbox.control import PROGRAM, Control
from session_worker.sandbox.workspace import (
    SandboxError,
    Server,
    Workspace,
    find,
    free_port,
    tail,
)

START_TIMEOUT: Final = 90.0
USER: Final = "sandbox"


class RabbitMQ(Server):
    """A private node on free ports of 127.0.0.1, with a name, a cookie, a port mapper and folders of its own.

    Its administrator has a password that only this process knows.

    Raises:
        SandboxError: RabbitMQ is not installed, or does not start.
    """

    _plugins = "[]."

    def __init__(self) -> None:
        # Not Debian's wrapper in /usr/sbin: that one insists on the machine's own folders and users.
        self._program = find(
            "rabbitmq-server",
            "rabbitmq-server",
            "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
        )
        self._epmd_program = find("epmd", "rabbitmq-server")
        find("erl", "rabbitmq-server")
        self._workspace = Workspace("rabbitmq", "rabbitmq")
        self._name = f"session-worker-{secrets.token_hex(4)}@localhost"
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self.password = secrets.token_hex(16)
        self._take_ports()

    @property
    def url(self) -> str:
        """The URL of the vhost `/`."""
        return self.vhost_url("/")

    def vhost_url(self, vhost: str, user: str = USER, password: str | None = None) -> str:
        """The URL of a vhost, whether it exists or not."""
        login = f"{quote(user, safe='')}:{quote(password or self.password, safe='')}"
        return f"amqp://{login}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def start(self) -> None:
        for attempt in range(5):
            log = self._launch()
            if log is None:
                return
            if attempt == 4 or not any(word in log for word in ("eaddrinuse", "already in use", "in use by")):
                raise SandboxError(f"The private RabbitMQ node did not start: {tail(log)}")
            self._take_ports()

    def stop(self) -> None:
        process = self._running()
        process.send_signal(signal.SIGTERM)
        self._workspace.wait(process)
        self._process = None

    def kill(self) -> None:
        self._workspace.kill(self._running())
        self._process = None

    def close(self) -> None:
        self._workspace.close()
        self._process = self._epmd = None

    def _launch(self) -> str | None:
        """Start the node; None when it has booted, else what it printed and logged."""
        if self._epmd is None:
            self._epmd = self._workspace.start(
                self._epmd_program, "-port", str(self._epmd_port), "-address", "127.0.0.1"
            )
        folder = self._workspace.data
        self._process = self._workspace.start(
            *(self._program, "-noshell", "-sname", self._name, "-eval", PROGRAM),
            env=self._environment(),
            talk=True,
            stdout=subprocess.PIPE,
        )
        try:
            self._control = Control(self._process)
            self._control.wait_up(START_TIMEOUT)
        except SandboxError as error:
            self.kill()
            logs = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("log/*.log")))
            return f"{self._control.unread}\n{logs}\n{error}"
        return None

    def _configuration(self) -> list[str]:
        """The lines of `rabbitmq.conf`."""
        return [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            f"default_user = {USER}",
            f"default_pass = {self.password}",
            "log.console = false",
            "log.file.level = warning",
            "disk_free_limit.absolute = 1MB",  # else a small disk blocks every publisher
        ]

    def _environment(self) -> dict[str, str]:
        folder = self._workspace.data
        self._workspace.write("rabbitmq.conf", "\n".join(self._configuration()) + "\n")
        self._workspace.write("enabled_plugins", self._plugins)
        self._workspace.write(".erlang.cookie", secrets.token_hex(16), mode=0o400)
        return {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            # Two schedulers that sleep when idle: the tests' own processes need the processor more.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _take_ports(self) -> None:
        self.port, self._distribution_port, self._epmd_port = (free_port() for _ in range(3))
        if self._epmd is not None:
            self._workspace.kill(self._epmd)
            self._epmd = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise SandboxError("The private RabbitMQ node is not running", "call start()")
        return self._process
