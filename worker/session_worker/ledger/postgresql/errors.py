"""What the errors of a PostgreSQL ledger mean, for people."""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import asyncpg

from session_client.net.diagnosis import Diagnosis
from session_client.net.failures import tls_failure, why_lost
from session_worker.ledger.protocol import LedgerError
from session_worker.settings import postgresql_url

if TYPE_CHECKING:
    from collections.abc import Iterator

AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
UNSTORABLE = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
COLLISIONS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

_NETWORK = (None, errno.EHOSTUNREACH, errno.ENETUNREACH)
_MEANINGS: dict[type[BaseException], Diagnosis] = {
    asyncpg.InvalidAuthorizationSpecificationError: Diagnosis(
        "refuses the user or the password", "correct them in the ledger's URL"
    ),
    asyncpg.InvalidCatalogNameError: Diagnosis(
        "has no such database", "create it, or correct the ledger's URL"
    ),
    asyncpg.ReadOnlySQLTransactionError: Diagnosis(
        "is read-only, as a standby is", "name the primary in the ledger's URL"
    ),
    asyncpg.InternalClientError: Diagnosis("ended the connection", "it may be restarting; its log says why"),
    asyncpg.ConnectionDoesNotExistError: Diagnosis(
        "ended the connection", "it may be restarting; its log says why"
    ),
    socket.gaierror: Diagnosis("cannot be found", "correct the host in the ledger's URL"),
    TimeoutError: Diagnosis("does not answer in time", "check the network and the server"),
    OSError: Diagnosis(
        "cannot be reached", "check that the server runs, and the host and port in the ledger's URL"
    ),
}


class UnusableError(asyncpg.InterfaceError):
    """The URL, or what PostgreSQL's variables and files add to it, cannot be used."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(str(diagnosis))
        self.diagnosis = diagnosis


def diagnose(error: BaseException, url: str) -> Diagnosis:
    """What ``error`` means for the ledger at ``url``, without the password."""
    if isinstance(error, UnusableError):
        return error.diagnosis
    parts, place = urlsplit(url), postgresql_url.place_of(url)
    if trouble := _about_tls(error, place, url):
        return trouble
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        user = f"user {unquote(parts.username)}" if parts.username else "this user"
        what, fix = f"does not permit it to {user} ({error})", "docs/security.md has the grants for each role"
    elif isinstance(error, OSError) and place.startswith("socket "):
        what, fix = "cannot be reached", "check that the server runs, and that its socket is in that folder"
    else:
        said = " ".join(str(error).split()) or why_lost(error)
        what, fix = next(
            (meaning for kind, meaning in _MEANINGS.items() if isinstance(error, kind)),
            Diagnosis(f"cannot be used: {said}"),
        )
    return Diagnosis(f"the ledger's PostgreSQL at {place} {what}", fix)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Raise LedgerError, with a sentence for people, in place of what the ledger at ``url`` raises."""
    try:
        yield
    except AWAY as error:
        raise LedgerError(diagnose(error, url)) from error


def _about_tls(error: BaseException, place: str, url: str) -> Diagnosis | None:
    if failure := tls_failure(error, place, "sslrootcert"):
        return Diagnosis(f"the ledger's PostgreSQL: {failure.what}", failure.fix)
    # asyncpg tells neither "root certificate" nor "rejected SSL" by a class or a number: by words alone.
    match error:
        case asyncpg.ClientConfigurationError():
            said = str(error).partition("\n")[0]
            authority = "root certificate" in said
            fix = "name the authority's file: ?sslrootcert=/path/ca.pem" if authority else "correct it"
            return Diagnosis(f"the ledger's URL cannot be used: {said}{postgresql_url.variables()}", fix)
        case OSError(errno=number) if (
            number not in _NETWORK
            and not isinstance(error, ConnectionError | TimeoutError | socket.gaierror)
            and not place.startswith("socket ")
            and (file := postgresql_url.unreadable_file(url))
        ):
            what = f"a file for TLS with the ledger's PostgreSQL cannot be read: {file.what}"
            return Diagnosis(what, file.fix)
        case ConnectionError() if "rejected SSL" in str(error):
            return Diagnosis(
                f"the ledger's PostgreSQL at {place} does not offer TLS",
                "switch it on there (ssl = on), or change sslmode in the ledger's URL",
            )
    return None
