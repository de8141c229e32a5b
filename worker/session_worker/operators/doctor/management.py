"""What only the broker's management interface tells: the policies in effect on our queues, and queues of
operations that nobody serves."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from yarl import URL

from session_client.net.failures import network_failure, tls_failure, why_lost
from session_client.net.threads import in_own_thread
from session_client.net.urls import vhost_of
from session_worker.operators.doctor.result import CHECK_SECONDS, failed, no_answer, ok, skipped, warning
from session_worker.operators.operations import topology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from session_worker.broker.topology import Queue
    from session_worker.operators.doctor.result import Result
    from session_worker.operators.operations import Known
    from session_worker.settings import Settings

ANSWER_BYTES = 1_048_576
MOST_QUEUES = 500
"""As many as RabbitMQ tells of at once."""
_KEYS = ("policy", "operator_policy", "effective_policy_definition")
_FIX = "correct SESSION_WORKER_MANAGEMENT_URL, or leave it out"
_HARMS = {
    "message-ttl": "what waits there is taken out too early",
    "expires": "the queue is deleted, with what is in it, while nobody consumes it",
    "max-length": "it loses or refuses messages too early",
    "max-length-bytes": "it loses or refuses messages too early",
    "delivery-limit": "the broker gives up requests too early",
    "consumer-timeout": "the broker takes requests away from their handlers",
    "overflow": "what does not fit is treated in another way, and what is dead-lettered may be lost",
}
"""What a policy's key does to a queue that needs another value. Of two numbers the smaller one counts. The
policy's ``overflow`` wins; a queue's own ``dead-letter-…`` arguments do."""


class _UnreadableError(Exception):
    """The management interface cannot be used; what is wrong, and what to do."""


async def examine(settings: Settings, operations: Sequence[Known]) -> list[Result]:
    """Check the policies, and what queues there are; no result without a management interface to ask."""
    if settings.management_url is None:
        return []
    management = Management(settings.management_url.get_secret_value(), settings.amqp_urls[0])
    longest_ms = (settings.handler_timeout + settings.shutdown_grace) * 1000
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            results = [
                result
                for queue in topology(settings.prefix, operations).queues
                if (about := await in_own_thread(management.queue, queue.name)) is not None
                for result in policies(queue, about, management.vhost, longest_ms)
            ]
            queues = await in_own_thread(management.queues, settings.prefix)
    except TimeoutError:
        return [no_answer("policies", "the management interface")]
    except _UnreadableError as error:
        found, fix = error.args
        return [failed("policies", found, fix)]
    results = results or [ok("policies", "none changes what the worker's queues promise")]
    return [*results, *left_alone(settings.prefix, operations, queues)]


def left_alone(prefix: str, operations: Sequence[Known], queues: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Warn of operations, other than these, that have messages and that nobody serves. ``queues``: as the
    management interface describes them."""
    of_operation = re.compile(
        rf"{re.escape(prefix)}\.([a-z][a-z0-9_]*)(?:\.(?:undelivered|dead|retry\.[0-9]+s))?"
    )
    known = {"replies", *(each.key for each in operations)}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for queue in queues:
        match = of_operation.fullmatch(str(queue.get("name")))
        if match is not None and match[1] not in known:
            found.setdefault(match[1], []).append(queue)
    return [
        warning(
            f"operation {key}",
            f"{messages:,} message{' waits' if messages == 1 else 's wait'} in {len(of_it)} of its queues, "
            f"{prefix}.{key} and others; nobody consumes them, and a worker with these settings would not",
            "serve it (SESSION_WORKER_APP, SESSION_WORKER_OPERATIONS), or, if it was given up, see to its "
            f"dead letters (`session-worker dead list --operation {key}`) and delete its queues",
        )
        for key, of_it in sorted(found.items())
        if not sum(queue.get("consumers") or 0 for queue in of_it)
        and (messages := sum(queue.get("messages") or 0 for queue in of_it))
    ]


def policies(queue: Queue, about: Mapping[str, Any], vhost: str, longest_ms: float) -> list[Result]:
    """Warn of each key of a policy that voids the promise on ``queue``."""
    effective = about.get("effective_policy_definition")
    if effective is None:
        return [skipped("policies", f"the broker has not looked at queue {queue.name} yet; ask again soon")]
    if not isinstance(effective, dict):  # an empty one may come as a list
        return []
    named = " or ".join(
        f"{kind} {about[key]}"
        for key, kind in (("policy", "policy"), ("operator_policy", "operator policy"))
        if about.get(key)
    )
    command = "list_operator_policies" if about.get("operator_policy") else "list_policies"
    return [
        warning(
            "policies",
            f"{named} sets {key} of queue {queue.name} to {value}: {_HARMS[key]}",
            f"have it leave that queue alone; `rabbitmqctl {command} -p {vhost}` shows it",
        )
        for key, value in effective.items()
        if _harms(key, value, queue.arguments.get(f"x-{key}"), longest_ms)
    ]


def _harms(key: str, value: Any, ours: Any, longest_ms: float) -> bool:
    """Whether a policy's ``value`` wins over ``ours``, and the worker cannot live with it."""
    match key:
        case "overflow":
            return bool(value != ours)
        case "consumer-timeout":
            return isinstance(value, int) and value <= longest_ms
    if key not in _HARMS:
        return False
    return ours is None or not isinstance(value, int) or value < ours


class Management:
    """The HTTP interface at ``url``, asked about the vhost of ``amqp_url``.

    It is asked as the user in ``url``, or else as the broker's."""

    def __init__(self, url: str, amqp_url: str) -> None:
        parts, broker = urlsplit(url), URL(amqp_url)
        self.vhost = vhost_of(broker)
        host = parts.netloc.rpartition("@")[2]
        self._where = f"the management interface at {host}"
        self._api = parts._replace(netloc=host, path=f"{parts.path.rstrip('/')}/api").geturl()
        self._user = unquote(parts.username) if parts.username else broker.user or "guest"
        password = unquote(parts.password or "") if parts.username else broker.password or "guest"
        login = base64.b64encode(f"{self._user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}

    def queue(self, name: str) -> dict[str, Any] | None:
        """Ask about a queue; None: there is no such queue. Raises _UnreadableError."""
        said = self._ask(f"{quote(name, safe='')}?columns={','.join(_KEYS)}")
        if said is not None and (not isinstance(said, dict) or not said.keys() <= {*_KEYS}):
            raise self._foreign()
        return said

    def queues(self, prefix: str) -> list[dict[str, Any]]:
        """Ask for the queues whose names begin with ``prefix``, the first ``MOST_QUEUES`` of them. Raises
        _UnreadableError."""
        query = {
            "page": 1,
            "page_size": MOST_QUEUES,
            "use_regex": "true",
            "name": rf"^{re.escape(prefix)}\.",
            "columns": "name,messages,consumers",
        }
        said = self._ask(f"?{urlencode(query)}")
        items = said.get("items") if isinstance(said, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self._foreign()
        return items

    def _ask(self, path: str) -> Any:
        """What is answered; None: there is no such queue."""
        place = "/".join([self._api, "queues", quote(self.vhost, safe=""), path]).replace("/?", "?")
        request = urllib.request.Request(place, headers=self._headers)  # noqa: S310 -- http or https, as checked
        try:
            with _OPENER.open(request, timeout=CHECK_SECONDS) as answer:
                return json.loads(answer.read(ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404 and _is_management(error):
                    return None
            raise self._refused(error) from error
        except (OSError, ValueError, HTTPException) as error:
            raise self._unreadable(error) from error

    def _foreign(self) -> _UnreadableError:
        return _UnreadableError(f"what answers at {self._where} is not RabbitMQ's", _FIX)

    def _refused(self, error: urllib.error.HTTPError) -> _UnreadableError:
        if error.code in {401, 403}:
            return _UnreadableError(
                f"{self._where} refuses user {self._user}",
                f"give that user the tag `monitoring` (rabbitmqctl set_user_tags), or {_FIX}",
            )
        return _UnreadableError(f"{self._where} answers {error.code} {error.reason}", _FIX)

    def _unreadable(self, error: Exception) -> _UnreadableError:
        if failure := tls_failure(error, self._where, "cafile"):
            return _UnreadableError(failure.what, _FIX)
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(error, ValueError | HTTPException) or isinstance(cause, ConnectionResetError):
            return self._foreign()
        why = network_failure(error) or (why_lost(cause) if isinstance(cause, BaseException) else str(cause))
        return _UnreadableError(
            f"{self._where} cannot be reached ({why})",
            f"enable it with `rabbitmq-plugins enable rabbitmq_management`, or {_FIX}",
        )


def _is_management(error: urllib.error.HTTPError) -> bool:
    """Whether this 404 is RabbitMQ's own, and not another web server's."""
    try:
        return "reason" in json.loads(error.read(ANSWER_BYTES))
    except (OSError, ValueError, TypeError):
        return False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Never send the login to another server."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects(), urllib.request.ProxyHandler({}))
