"""A private RabbitMQ node."""

from __future__ import annotations

import base64
import secrets
import signal
import subprocess
from typing import Final
from urllib.parse import quote

from session_worker.sandbox.control import PROGRAM, Control
from session_worker.sandbox.workspace import (
    Certificate,
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
    With `management`, its HTTP interface answers at `management_url` (a second more to start). With `tls` it
    also speaks TLS, at `tls_url`, and asks every client there for a certificate.

    Raises:
        SandboxError: RabbitMQ is not installed, or does not start.
    """

    def __init__(self, *, management: bool = False, tls: Certificate | None = None) -> None:
        # Not Debian's wrapper in /usr/sbin: that one insists on the machine's own folders and users.
        self._program = find(
            "rabbitmq-server",
            "rabbitmq-server",
            "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
        )
        self._epmd_program = find("epmd", "rabbitmq-server")
        find("erl", "rabbitmq-server")
        self._management = management
        self._tls = tls
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

    @property
    def management_url(self) -> str:
        """Where the management interface answers, if it was asked for; without user and password."""
        return f"http://127.0.0.1:{self._management_port}"

    @property
    def control_environment(self) -> dict[str, str]:
        """The variables with which ``rabbitmqctl`` talks to this node."""
        return {
            "HOME": str(self._workspace.data),
            "RABBITMQ_NODENAME": self._name,
            "ERL_EPMD_PORT": str(self._epmd_port),
        }

    @property
    def pid(self) -> int:
        """The process id of the running node."""
        return self._running().pid

    def vhost_url(self, vhost: str, user: str = USER, password: str | None = None) -> str:
        """The URL of a vhost, whether it exists or not."""
        login = f"{quote(user, safe='')}:{quote(password or self.password, safe='')}"
        return f"amqp://{login}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def tls_url(self, vhost: str, host: str = "localhost") -> str:
        """The URL of a vhost by TLS, without the client's certificate; the host is a name of 127.0.0.1."""
        return f"amqps://{USER}:{self.password}@{host}:{self.tls_port}/{quote(vhost, safe='')}"

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

    def set_certificate(self, tls: Certificate) -> None:
        """Show another certificate to the clients that connect from now on."""
        self._tls = tls
        self._write_certificate(tls)
        self.eval("ssl:clear_pem_cache()")

    def stop_app(self) -> None:
        """Stop the broker inside the node, as an operator does: connections are closed, the node stays."""
        self.eval("rabbit:stop()")

    def start_app(self) -> None:
        """Start the broker again after `stop_app`."""
        self.eval("rabbit:start()")

    def vhost(self, name: str) -> str:
        """Create a vhost for the administrator, and return its URL. Takes about 15 ms."""
        self.eval(f'ok = rabbit_vhost:add({_binary(name)}, <<"sandbox">>)')
        self.set_permissions(USER, name, ".*", ".*", ".*")
        return self.vhost_url(name)

    def delete_vhost(self, name: str) -> None:
        """Delete a vhost with all that is in it; its connections are closed."""
        self.eval(f'rabbit_vhost:delete({_binary(name)}, <<"sandbox">>)')

    def add_user(
        self, name: str, password: str, vhost: str, configure: str = "", write: str = "", read: str = ""
    ) -> str:
        """Add a user with permissions (regular expressions) in one vhost, and return the URL to use."""
        self.eval(
            f'ok = rabbit_auth_backend_internal:add_user({_binary(name)}, {_binary(password)}, <<"sandbox">>)'
        )
        self.set_permissions(name, vhost, configure, write, read)
        return self.vhost_url(vhost, name, password)

    def set_permissions(self, user: str, vhost: str, configure: str, write: str, read: str) -> None:
        """Let a user do in a vhost what the three regular expressions match; an empty one matches nothing."""
        arguments = ", ".join(
            _binary(text) for text in (user, vhost, configure or "^$", write or "^$", read or "^$")
        )
        self.eval(f'ok = rabbit_auth_backend_internal:set_permissions({arguments}, <<"sandbox">>)')

    def limit(self, vhost: str, name: str, value: int) -> None:
        """Set a limit of a vhost, such as `max-queues`."""
        limits = f"[{{{_binary(name)}, {value}}}]"
        self.eval(f'ok = rabbit_vhost_limit:set({_binary(vhost)}, {limits}, <<"sandbox">>)')

    def limit_user(self, user: str, name: str, value: int) -> None:
        """Set a limit of a user, such as `max-channels`."""
        arguments = f"{_binary(user)}, #{{{_binary(name)} => {value}}}"
        self.eval(f'ok = rabbit_auth_backend_internal:set_user_limits({arguments}, <<"sandbox">>)')

    def queue_depths(self, vhost: str) -> dict[str, int]:
        """Messages of each queue, ready and unacknowledged together, as they are now; no streams."""
        # A quorum queue's figures in the node's tables are seconds old: its leader is asked.
        answer = self.eval(
            "[{base64:encode_to_string(element(4, amqqueue:get_name(Q))), case amqqueue:get_type(Q) of"
            " rabbit_quorum_queue -> {ok, {_, N}, _} ="
            " ra:leader_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1), N;"
            " _ -> proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages])) end}"
            f" || Q <- rabbit_amqqueue:list({_binary(vhost)}), amqqueue:get_type(Q) =/= rabbit_stream_queue]"
        )
        pairs = [part.split(",") for part in answer.strip("[]").replace("},{", "} {").split()]
        return {
            base64.b64decode(name.strip('{"')).decode(): int(depth.strip("}"))
            for name, depth in sorted(pairs)
        }

    def delete_queue(self, vhost: str, name: str) -> None:
        """Delete a queue with what is in it, whether it is used or not."""
        self.eval(
            f"{{ok, _}} = rabbit_amqqueue:with(rabbit_misc:r({_binary(vhost)}, queue, {_binary(name)}),"
            ' fun(Q) -> rabbit_amqqueue:delete(Q, false, false, <<"sandbox">>) end)'
        )

    def connections(self, vhost: str | None = None) -> int:
        """How many clients are connected, to one vhost or to any."""
        return int(self.eval(f"length({_connections(vhost)})"))

    def close_connections(self, vhost: str | None = None) -> int:
        """Close the connections to one vhost or all, as an operator does, and return how many there were."""
        close = '[(catch rabbit_networking:close_connection(Pid, "closed by an operator")) || Pid <- Pids]'
        return int(self.eval(f"Pids = {_connections(vhost)}, {close}, length(Pids)"))

    def set_alarm(self, on: bool) -> None:
        """Raise or clear the memory alarm, and wait until every connection has been told: while it is on, the
        broker reads nothing from who publishes."""
        watermark = "0.000001" if on else "0.6"
        self.eval(
            f"vm_memory_monitor:set_vm_memory_high_watermark({watermark}), rabbit_alarm:get_alarms(), ok"
        )

    def eval(self, expression: str, timeout: float = 60.0) -> str:
        """Evaluate an Erlang expression in the node and return the value as text.

        Raises:
            SandboxError: it raised, the node is gone, or no answer came within `timeout` seconds.
        """
        self._running()
        return self._control.eval(expression, timeout)

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

    def _environment(self) -> dict[str, str]:
        folder = self._workspace.data
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            f"default_user = {USER}",
            f"default_pass = {self.password}",
            "log.console = false",
            "log.file.level = warning",
        ]
        lines += ["disk_free_limit.absolute = 1MB"]  # else a small disk blocks every publisher
        if self._management:
            lines += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {self._management_port}"]
        if self._tls is not None:
            self._write_certificate(self._tls)
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                *(f"ssl_options.{name} = {folder / name}" for name in self._tls._fields),
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = true",
            ]
        self._workspace.write("rabbitmq.conf", "\n".join(lines) + "\n")
        self._workspace.write("enabled_plugins", "[rabbitmq_management]." if self._management else "[].")
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

    def _write_certificate(self, tls: Certificate) -> None:
        for name, text in tls._asdict().items():
            self._workspace.write(name, text)

    def _take_ports(self) -> None:
        self.port, self._distribution_port, self._epmd_port, self._management_port, self.tls_port = (
            free_port() for _ in range(5)
        )
        if self._epmd is not None:
            self._workspace.kill(self._epmd)
            self._epmd = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise SandboxError("The private RabbitMQ node is not running; call start().")
        return self._process


def _connections(vhost: str | None) -> str:
    wanted = (
        ""
        if vhost is None
        else f", [{{vhost, {_binary(vhost)}}}] =:= (catch rabbit_networking:connection_info(P, [vhost]))"
    )
    return f"[P || P <- rabbit_networking:connections(){wanted}]"


def _binary(text: str) -> str:
    """An Erlang binary; as numbers, so that no character of the text can mean anything."""
    return f"<<{','.join(str(byte) for byte in text.encode())}>>"
