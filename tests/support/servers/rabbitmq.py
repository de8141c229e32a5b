"""A private RabbitMQ node that its operator can be asked to do anything with."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import quote

from session_worker import sandbox
from session_worker.sandbox.rabbitmq import USER
from session_worker.sandbox.workspace import free_port

if TYPE_CHECKING:
    from tests.support.servers.certificate import Certificate


class RabbitMQ(sandbox.RabbitMQ):
    """A private node, and what an administrator does there.

    With `management`, its HTTP interface answers at `management_url` (a second more to start). With `tls` it
    also speaks TLS, at `tls_url`, and asks every client there for a certificate.
    """

    def __init__(self, *, management: bool = False, tls: Certificate | None = None) -> None:
        self._management = management
        self._tls = tls
        if management:
            self._plugins = "[rabbitmq_management]."
        super().__init__()

    def _take_ports(self) -> None:
        self._management_port, self.tls_port = free_port(), free_port()
        super()._take_ports()

    def _configuration(self) -> list[str]:
        lines = super()._configuration()
        if self._management:
            lines += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {self._management_port}"]
        if self._tls is not None:
            self._write_certificate(self._tls)
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                *(f"ssl_options.{name} = {self._workspace.data / name}" for name in self._tls._fields),
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = true",
            ]
        return lines

    def _write_certificate(self, tls: Certificate) -> None:
        for name, text in tls._asdict().items():
            self._workspace.write(name, text)

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

    def tls_url(self, vhost: str, host: str = "localhost") -> str:
        """The URL of a vhost by TLS, without the client's certificate; the host is a name of 127.0.0.1."""
        return f"amqps://{USER}:{self.password}@{host}:{self.tls_port}/{quote(vhost, safe='')}"

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
