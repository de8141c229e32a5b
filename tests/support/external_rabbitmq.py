"""A broker that was there before the tests: what they need of it goes through its management interface."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from yarl import URL

from session_client.net.urls import MANAGEMENT_PORT, port_of


class ExternalRabbitMQ:
    """The broker of `url`, whose user must be an administrator.

    The management interface is looked for on the AMQP port plus 10000 and on 15672.

    Raises:
        RuntimeError: it answers on neither; one sentence.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._parts = parts
        self._user = unquote(parts.username or "guest")
        login = f"{self._user}:{unquote(parts.password or 'guest')}"
        self._authorization = "Basic " + base64.b64encode(login.encode()).decode()
        self._api = ""
        for port in (port_of(URL(url)) + 10_000, MANAGEMENT_PORT):
            self._api = f"http://{parts.hostname}:{port}/api"
            try:
                self._call("GET", "/whoami")
            except (OSError, ValueError):
                continue
            return
        raise RuntimeError(
            f"The broker of SESSION_WORKER_TEST_AMQP_URL at {parts.hostname} has no management interface for "
            f"{self._user} on port {port_of(URL(url)) + 10_000} or {MANAGEMENT_PORT}; "
            "enable it with `rabbitmq-plugins enable rabbitmq_management`."
        )

    @property
    def url(self) -> str:
        return self._parts.geturl()

    def vhost_url(self, vhost: str) -> str:
        return self._parts._replace(path="/" + quote(vhost, safe="")).geturl()

    def vhost(self, name: str) -> str:
        """Create a vhost in which the URL's user may do everything, and return its URL."""
        self._call("PUT", f"/vhosts/{quote(name, safe='')}")
        self.set_permissions(self._user, name, ".*", ".*", ".*")
        return self.vhost_url(name)

    def delete_vhost(self, name: str) -> None:
        self._call("DELETE", f"/vhosts/{quote(name, safe='')}")

    def add_user(
        self, name: str, password: str, vhost: str, configure: str = "", write: str = "", read: str = ""
    ) -> str:
        """Add a user with permissions (regular expressions) in one vhost, and return the URL to use."""
        self._call("PUT", f"/users/{quote(name, safe='')}", {"password": password, "tags": ""})
        self.set_permissions(name, vhost, configure, write, read)
        login = f"{quote(name, safe='')}:{quote(password, safe='')}"
        host = self._parts.netloc.rpartition("@")[2]
        return self._parts._replace(netloc=f"{login}@{host}", path="/" + quote(vhost, safe="")).geturl()

    def set_permissions(self, user: str, vhost: str, configure: str, write: str, read: str) -> None:
        given = {"configure": configure or "^$", "write": write or "^$", "read": read or "^$"}
        self._call("PUT", f"/permissions/{quote(vhost, safe='')}/{quote(user, safe='')}", given)

    def limit(self, vhost: str, name: str, value: int) -> None:
        """Set a limit of a vhost, such as `max-queues`."""
        self._call("PUT", f"/vhost-limits/{quote(vhost, safe='')}/{name}", {"value": value})

    def limit_user(self, user: str, name: str, value: int) -> None:
        """Set a limit of a user, such as `max-channels`."""
        self._call("PUT", f"/user-limits/{quote(user, safe='')}/{name}", {"value": value})

    def queue_depths(self, vhost: str) -> dict[str, int]:
        """Messages of each queue, ready and unacknowledged together, as of some seconds ago; no streams."""
        queues = self._call("GET", f"/queues/{quote(vhost, safe='')}")
        return {queue["name"]: queue.get("messages", 0) for queue in queues if queue.get("type") != "stream"}

    def delete_queue(self, vhost: str, name: str) -> None:
        self._call("DELETE", f"/queues/{quote(vhost, safe='')}/{quote(name, safe='')}")

    def connections(self, vhost: str) -> int:
        """How many clients are connected to the vhost, as of some seconds ago."""
        return len(self._call("GET", f"/vhosts/{quote(vhost, safe='')}/connections"))

    def close_connections(self, vhost: str) -> int:
        """Close the connections to a vhost and return how many there were."""
        names = [each["name"] for each in self._call("GET", f"/vhosts/{quote(vhost, safe='')}/connections")]
        for name in names:
            self._call("DELETE", f"/connections/{quote(name, safe='')}")
        return len(names)

    def close(self) -> None:
        """Nothing to end: the broker is not ours."""

    def _call(self, method: str, path: str, body: object | None = None) -> Any:
        request = urllib.request.Request(
            self._api + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read()
        return json.loads(text) if text else None
