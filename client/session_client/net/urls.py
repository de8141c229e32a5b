"""URLs of brokers and databases as people write them, checked before anybody connects."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from unicodedata import normalize
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from session_client.net.diagnosis import Diagnosis, InvalidValueError

if TYPE_CHECKING:
    from yarl import URL

HEARTBEAT_SECONDS = 10
"""Between heartbeats on a connection, unless its URL says otherwise."""
AMQP_PORT = 5672
AMQPS_PORT = 5671
MANAGEMENT_PORT = 15_672
POSTGRESQL_PORT = 5432
LOCAL_BROKER = f"amqp://guest:guest@localhost:{AMQP_PORT}/"
"""The URL of a broker that was just installed on this machine."""

_LAST_PORT = 65_535
_LONGEST_VHOST = 255
"""Bytes, as everywhere in AMQP's short texts."""
_LONGEST_HEARTBEAT = 65_534
"""AMQP knows one number more; aiormq takes that for "no heartbeats"."""
_URL = re.compile(
    r"\w+://(?:(?P<login>[^/?#]*)@)?(?:\[(?P<address>[^]/?#]+)\]|(?P<name>[^][:/?#]+))(?::(?P<port>[0-9]*))?"
    r"(?:/(?P<vhost>[^?#]*))?(?:\?(?P<query>[^#]*))?(?:#.*)?"
)


_HOST = re.compile(r"(?:\[(?P<address>[^]]+)\]|(?P<name>[^][:]+))(?::(?P<port>[0-9]*))?")
_WRONG_HOST = Diagnosis(
    "names no host that could be reached",
    "write host:port with the name or address of a machine (an IPv6 address in brackets) and a number, or "
    "without port",
)
_WRONG_PORT = Diagnosis(
    f"the port must be 1 to {_LAST_PORT}", "correct it, or leave it out for the usual one"
)


def broker_urls(text: str) -> tuple[str, ...]:
    """The brokers' URLs in ``text``, where commas separate them.

    Raises:
        InvalidValueError: one of them cannot be used.
    """
    urls = tuple(filter(None, map(str.strip, text.split(","))))
    if not urls or not all(url.lower().startswith(("amqp://", "amqps://")) for url in urls):
        raise InvalidValueError(
            "is no broker's URL",
            "write amqp://user:password@host:port/vhost, or amqps://…, several of them separated by commas, "
            "and a comma in a password as %2C",
        )
    for url in urls:
        _check(url)
    return urls


def database_url(url: str) -> SplitResult:
    """The parts of a PostgreSQL URL. A host may be a folder with a socket, and there may be several of them.

    Raises:
        InvalidValueError: it cannot be used.
    """
    _check_login(url)
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets without an IPv6 address in them
        raise InvalidValueError(_WRONG_HOST) from None
    if parts.fragment:
        raise InvalidValueError("what follows # would be ignored", "write # as %23")
    for host in parts.netloc.rpartition("@")[2].split(","):
        found = _HOST.fullmatch(host)
        name = unquote(found["name"] or "") if found else ""
        if found is None or not (
            _is_address(found["address"]) if found["address"] else name.startswith("/") or _is_name(name)
        ):
            if parts.netloc.rpartition("@")[2]:
                raise InvalidValueError(_WRONG_HOST)
        elif found["port"] and not 1 <= int(found["port"]) <= _LAST_PORT:
            raise InvalidValueError(_WRONG_PORT)
    return parts


def port_of(url: URL) -> int:
    """The port of a broker; RabbitMQ's own where the URL names none."""
    return url.port or (AMQPS_PORT if url.scheme == "amqps" else AMQP_PORT)


def vhost_of(url: URL) -> str:
    """The vhost that a broker's URL names."""
    return url.path[1:] or "/"


def web_url(url: str) -> None:
    """Raises InvalidValueError unless ``url`` can be that of an HTTP interface."""
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidValueError(
            "is no URL of an HTTP interface", "write http://user:password@host:port, or https://…"
        )
    _check_login(url)
    parts = _check_place(url)
    if parts["query"]:
        raise InvalidValueError("it takes no parameters", "leave out what follows the ?")


def splits_login(url: str) -> bool:
    """Whether a ``/``, ``?`` or ``#`` of the password, not percent-encoded, cuts the URL's login in two.

    Its user would be taken for the host then, and pieces of its password be printed as port and vhost.
    """
    return re.search(r"//[^/?#]*[/?#].*@", url) is not None


def _check_login(url: str) -> None:
    """Raises InvalidValueError if libraries could disagree about where the login ends."""
    if not url.isprintable() or normalize("NFKC", url) != url:
        raise InvalidValueError(
            "some characters cannot be seen, or not be told from others",
            "write them percent-encoded (%0A for a new line)",
        )
    if splits_login(url) or re.match(r"\w+://[^/?#]*[][\\@][^/?#]*@", url):
        raise InvalidValueError(
            "in user and password, each of / # @ : ? , [ ] must be percent-encoded (%2F %23 %40 %3A %3F %2C "
            "%5B %5D)"
        )


def _check(url: str) -> None:
    _check_login(url)
    parts = _check_place(url)
    if len(unquote(parts["vhost"] or "").encode()) > _LONGEST_VHOST:
        raise InvalidValueError(
            f"the vhost is longer than {_LONGEST_VHOST} bytes", "correct what follows the host"
        )
    for name, value in parse_qsl(parts["query"] or "", keep_blank_values=True):
        if name == "heartbeat" and not _is_heartbeat(value):
            raise InvalidValueError(
                f"heartbeat must be whole seconds, 0 (none) to {_LONGEST_HEARTBEAT}, as in ?heartbeat=10"
            )


def _check_place(url: str) -> re.Match[str]:
    """Raises InvalidValueError unless host and port can be used."""
    parts = _URL.fullmatch(url)
    if parts is None or not (_is_address(parts["address"]) if parts["address"] else _is_name(parts["name"])):
        raise InvalidValueError(_WRONG_HOST)
    if parts["port"] and not 1 <= int(parts["port"]) <= _LAST_PORT:
        raise InvalidValueError(_WRONG_PORT)
    return parts


def _is_name(host: str) -> bool:
    try:  # there and back: who writes it as it goes over the wire (xn--…) has it read again
        wired = host.encode("idna")
        wired.decode("idna")
    except UnicodeError:
        return False
    return re.fullmatch(rb"[A-Za-z0-9_.-]+", wired) is not None


def _is_address(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_heartbeat(value: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", value) is not None and int(value) <= _LONGEST_HEARTBEAT
