"""Private RabbitMQ nodes that form one cluster."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import Self

from tests.support.servers import RabbitMQ


class _Member(RabbitMQ):
    """A node that shares its port mapper, its password and its cookie with the others."""

    def __init__(self, cookie: str, first: _Member | None) -> None:
        super().__init__()
        self._cookie = cookie
        if first is not None:
            self.password = first.password
            self._epmd, self._epmd_port = first._epmd, first._epmd_port

    @property
    def name(self) -> str:
        return f"'{self._name}'"

    def _environment(self) -> dict[str, str]:
        environment = super()._environment()
        self._workspace.write(".erlang.cookie", self._cookie, mode=0o400)
        return environment


class Cluster:
    """Three nodes; a queue declared through any of them is replicated on all. Starts and ends like a node."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.nodes: list[_Member] = []

    def __enter__(self) -> Self:
        cookie = secrets.token_hex(16)
        with ExitStack() as stack:
            for _ in range(3):
                first = self.nodes[0] if self.nodes else None
                node = stack.enter_context(_Member(cookie, first))
                self.nodes.append(node)
                if first is not None:
                    node.eval("ok = rabbit:stop()")
                    node.eval(f"ok = rabbit_mnesia:join_cluster({first.name}, disc)")
                    node.eval("ok = rabbit:start()")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def url(self, vhost: str) -> str:
        """The URLs of all nodes, separated by commas."""
        return ",".join(node.vhost_url(vhost) for node in self.nodes)

    def leader(self, vhost: str, queue: str) -> RabbitMQ:
        """The node that leads a quorum queue."""
        name = f"rabbit_misc:r(<<{_bytes(vhost)}>>, queue, <<{_bytes(queue)}>>)"
        found = self.nodes[0].eval(
            f"{{ok, Q}} = rabbit_amqqueue:lookup({name}), element(2, amqqueue:get_pid(Q))"
        )
        return next(node for node in self.nodes if node.name.strip("'") == found.strip("'"))


def _bytes(text: str) -> str:
    return ",".join(str(byte) for byte in text.encode())
