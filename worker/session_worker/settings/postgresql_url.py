"""What the URL of a PostgreSQL ledger says, and what the driver makes of it.

asyncpg knows some of PostgreSQL's parameters and hands every other one to the server as a setting. Those that
neither knows are invalid, and the error says what to do instead: none is ignored.
"""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from session_client.net.diagnosis import Diagnosis, InvalidValueError
from session_client.net.urls import POSTGRESQL_PORT, database_url

if TYPE_CHECKING:
    from collections.abc import Mapping

_KNOWN = {
    *("host", "port", "dbname", "database", "user", "password", "passfile", "krbsrvname", "gsslib"),
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
}
"""What asyncpg itself understands. The rest are settings of the server."""
_UNKNOWN = {
    "channel_binding": "have the server proved by its certificate (sslmode=verify-full) instead",
    "client_encoding": "it is always UTF-8",
    "fallback_application_name": "write application_name",
    "gssencmode": "encrypt by TLS (sslmode) instead",
    "hostaddr": "write the address as the host",
    "load_balance_hosts": "the hosts are tried in their order",
    "requiressl": "write sslmode=require",
    "service": "write host, user and database into the URL",
    "servicefile": "write host, user and database into the URL",
    "sslcompression": "there is none",
    "tcp_user_timeout": "a statement has a time limit of its own",
} | dict.fromkeys(
    (
        *("gssdelegation", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
        *("max_protocol_version", "min_protocol_version", "replication", "require_auth", "requirepeer"),
        *("scram_client_key", "scram_server_key", "sslcertmode", "sslcrldir", "sslkeylogfile", "sslsni"),
        *("oauth_client_id", "oauth_client_secret", "oauth_issuer", "oauth_scope"),
    ),
    "the worker's driver has nothing like it",
)
"""Parameters of PostgreSQL's own library, and what to do without them."""
_SOCKETS = ("/run/postgresql", "/var/run/postgresql", "/tmp")  # noqa: S108 -- where asyncpg looks
_FILES = {
    "sslrootcert": ("PGSSLROOTCERT", "root.crt"),
    "sslcrl": ("PGSSLCRL", "root.crl"),
    "sslcert": ("PGSSLCERT", "postgresql.crt"),
    "sslkey": ("PGSSLKEY", "postgresql.key"),
}
"""Files that asyncpg reads: parameter, variable, and the name in ``~/.postgresql``."""
_CORRECT = "correct its path, or its permissions"
_MOST_SECONDS = 3600


class Target(NamedTuple):
    """Where to connect: ``url`` without what asyncpg does not know, ``connect_timeout`` in seconds if the URL
    says so, and the names of the ``settings`` that it has for the server."""

    url: str
    connect_timeout: int | None
    settings: frozenset[str]


def read(url: str) -> Target:
    """Read the URL of a PostgreSQL ledger.

    Raises:
        InvalidValueError: it cannot be used.
    """
    parts = database_url(url)
    for name, setting in os.environ.items():
        if name.startswith("PG") and setting != setting.encode(errors="replace").decode():
            raise InvalidValueError(
                f"PostgreSQL's variable {name} is not UTF-8, and counts as well", "correct it"
            )
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise InvalidValueError(
            "has something else than parameters after the ?",
            "write its parameters as name=value, separated by &",
        ) from None
    given = dict(pairs)
    _check(given)
    seconds = given.pop("connect_timeout", None)
    settings = frozenset(given) - _KNOWN
    if seconds is None:
        return Target(url, None, settings)
    rest = urlencode(given, quote_via=quote)
    return Target(url.partition("?")[0] + (f"?{rest}" if rest else ""), int(seconds), settings)


def _check(given: Mapping[str, str]) -> None:
    for name, value in given.items():
        if name in _UNKNOWN:
            raise InvalidValueError(
                f"parameter {name} cannot be used here", f"leave it out: {_UNKNOWN[name]}"
            )
        if not value:
            raise InvalidValueError(f"parameter {name} has no value", "give it one, or leave it out")
    if given.get("sslrootcert") == "system":
        raise InvalidValueError(
            "sslrootcert=system cannot be used here",
            "name the file of the system's authorities, on Debian "
            "sslrootcert=/etc/ssl/certs/ca-certificates.crt",
        )
    if not all(_is_count(port, 65_535) for port in given.get("port", "1").split(",")):
        raise InvalidValueError("parameter port must be 1 to 65535", "correct it")
    if not _is_count(given.get("connect_timeout", "1"), _MOST_SECONDS):
        raise InvalidValueError(f"connect_timeout must be whole seconds, 1 to {_MOST_SECONDS}", "correct it")


def _is_count(text: str, most: int) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 1 <= int(text) <= most


def place_of(url: str) -> str:
    """Name host, port and database of ``url``, or the socket, for people."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    hosts = unquote(parts.netloc.rpartition("@")[2]) or given.get("host") or os.environ.get("PGHOST", "")
    database = parts.path or "/" + (given.get("dbname") or given.get("database") or "")
    if not hosts:
        return f"localhost{database.rstrip('/')} (sockets in {', '.join(_SOCKETS)}, then TCP)"
    if hosts.startswith("/"):
        port = given.get("port") or os.environ.get("PGPORT") or POSTGRESQL_PORT
        socket = hosts if ".s.PGSQL." in hosts else f"{hosts}/.s.PGSQL.{port}"
        return f"socket {socket}, database {database[1:] or 'of that user'}"
    return f"{hosts}{database.rstrip('/')}"


def one_by_one(url: str) -> list[str]:
    """Return a URL for each host that stands before the path of ``url``; ``url`` alone if none does."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]


def unnamed_user(url: str) -> bool:
    """Whether neither ``url`` nor the environment names a user, and the user of this process has no name."""
    parts = urlsplit(url)
    if parts.username or "user" in dict(parse_qsl(parts.query)) or os.environ.get("PGUSER"):
        return False
    try:
        getpass.getuser()
    except (KeyError, OSError):  # which of them depends on the version of Python
        return True
    return False


def unreadable_file(url: str) -> Diagnosis | None:
    """Name the first file that asyncpg needs for ``url`` and cannot read, and say why and what to do."""
    given = dict(parse_qsl(urlsplit(url).query))
    for name, (variable, usual) in _FILES.items():
        named = given.get(name) or os.environ.get(variable)
        try:
            path = Path(named) if named else Path.home() / ".postgresql" / usual
            with path.open("rb"):
                pass
        except (FileNotFoundError, NotADirectoryError) as error:
            if named:
                return Diagnosis(f"{name} {named} ({error.strerror})", _CORRECT)
        except OSError as error:
            if named:
                return Diagnosis(f"{name} {named} ({error.strerror})", _CORRECT)
            return Diagnosis(
                f"{path} ({error.strerror})",
                f"make it readable for this user, or set HOME to another folder than {Path.home()}",
            )
        except RuntimeError:  # there is no home folder
            continue
    return None


def variables() -> str:
    """Name PostgreSQL's own variables that are set, for people: asyncpg reads them as well as the URL."""
    names = sorted(name for name in os.environ if name.startswith("PG") and name.isascii())
    return f"; the environment sets {', '.join(names)}" if names else ""
