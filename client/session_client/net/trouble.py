"""What a server's refusal means: sentences for people, the same from the client and from the worker."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple

from session_client.net.objections import Kind, objection

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXPIRED, _NOT_YET_VALID, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64
"""OpenSSL's numbers (X509_V_ERR_…), which Python has no names for."""


def splits_login(url: str) -> bool:
    """Whether a ``/``, ``?`` or ``#`` of the password, not percent-encoded, cuts the URL's login in two.

    Its user would be taken for the host then, and pieces of its password be printed as port and vhost.
    """
    return re.search(r"//[^/?#]*[/?#].*@", url) is not None


def words(error: BaseException) -> str:
    """``error`` on one line that says something: many exceptions have no text of their own."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else f"{type(error).__name__}, without a word"


def why_lost(error: BaseException | None) -> str:
    """The same for ``error``, or none, with which a connection ended."""
    text = " ".join(str(error or "").split())
    match error:
        case None | asyncio.CancelledError() | StopAsyncIteration():
            return "the connection was lost"
        case EOFError():
            return "the other side closed the connection"
        case TimeoutError():
            return text or "there was no answer in time"
        case OSError() if not text:
            return f"the connection was lost ({type(error).__name__})"
    return words(error)


def network_trouble(error: BaseException) -> str | None:
    """What it means that a connection did not come about, or None where only the system's words are left."""
    for each in _chain(error):
        if isinstance(each, socket.gaierror):
            return "the host name is not known"
        # Where a name has several addresses, the errors of all of them are one, which has no number.
        if isinstance(each, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(each):
            return "connection refused: nothing listens there"
        if isinstance(each, OSError) and each.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
            return "there is no way to it in the network"
    return None


class Refusal(NamedTuple):
    """What a broker means that closed a connection before it was open."""

    sentence: str
    may_pass: bool
    """Whether it may be another time, without anybody changing anything."""


def refusal(farewell: str, where: str, *, user: str, vhost: str, url: str = "the URL") -> Refusal:
    """What the words mean with which ``where`` closed a connection before it was open. ``url``: what the
    reader is to correct."""
    if farewell.startswith("ACCESS_REFUSED"):
        return Refusal(
            f"{where} refused the login of user {user}; check user and password in {url}, and that the "
            "user may enter the vhost",
            may_pass=False,
        )
    said = objection(farewell)
    if said is not None and said.kind is Kind.LIMIT:
        return Refusal(f"{where} takes no more connections ({farewell}); close some or raise the limit", True)
    if farewell.startswith("NOT_ALLOWED"):
        return Refusal(
            f"{where} has no vhost {vhost}, or user {user} may not enter it; create it (rabbitmqctl "
            f"add_vhost), let the user in (rabbitmqctl set_permissions), or correct {url}",
            may_pass=False,
        )
    if farewell.startswith("INTERNAL_ERROR"):  # its vhost is down, as it is while the node boots
        return Refusal(f"{where} is not ready for vhost {vhost} ({farewell}); wait, or see its log", True)
    return Refusal(f"{where} closed the connection before it was open ({farewell}); see its log", True)


def unreachable(error: BaseException, where: str, url: str = "the URL") -> str:
    """Why there is no connection to ``where``, which itself has not said a word about it."""
    if any(isinstance(each, _HANG_UPS) for each in _chain(error)):
        return f"{where} closed the connection before it was open; make sure that it is the broker, and up"
    why = network_trouble(error) or getattr(error, "strerror", None) or str(error) or why_lost(error)
    return f"{where} cannot be reached ({why}); start it, or correct {url}"


def tls_trouble(error: BaseException, where: str, authority: str) -> str | None:
    """What a failed TLS handshake with ``where`` means, or None when ``error`` is none.

    ``authority`` is the URL's parameter that names the file of the authority behind the server's certificate.
    """
    refused = next((each for each in _chain(error) if isinstance(each, ssl.SSLError)), None)
    if refused is None:
        return None
    if isinstance(refused, ssl.SSLCertVerificationError):
        return _refused_certificate(refused, where, authority)
    reason = getattr(refused, "reason", None) or str(refused)  # one made in Python has none
    if "ALERT" in reason:
        return f"{where} ended the TLS handshake ({reason}); {_CLIENT_CERTIFICATE}"
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}:
        return f"{where} does not speak TLS; correct the port or the scheme in the URL"
    return f"no TLS connection to {where} came about ({reason}); check the URL and the certificates"


def tls_hang_up(error: BaseException, where: str) -> str | None:
    """What it means that ``where`` hung up on a TLS connection before it said anything, or None.

    So it treats a client whose certificate it misses or does not trust; the reason that it gives gets lost.
    """
    if not any(isinstance(each, _HANG_UPS) for each in _chain(error)):
        return None
    return f"{where} closed the TLS connection before it was open; {_CLIENT_CERTIFICATE}"


_HANG_UPS = (ConnectionResetError, EOFError, StopAsyncIteration)
_CLIENT_CERTIFICATE = (
    "does it ask for a client certificate? Name one that it trusts in the URL: "
    "?certfile=/path/client.pem&keyfile=/path/client.key"
)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # causes and contexts together may go in a circle
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _refused_certificate(error: ssl.SSLCertVerificationError, where: str, authority: str) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return f"the certificate of {where} has expired; have it renewed, or set this machine's clock"
    if code == _NOT_YET_VALID:
        return f"the certificate of {where} is not valid yet; set the clock that is wrong"
    if code in {_OTHER_HOST, _OTHER_ADDRESS}:
        return (
            f"the certificate of {where} is for another host; write a name that is in it into the URL, or "
            "have one made for this name"
        )
    return (
        f"the certificate of {where} comes from an authority that is not trusted here "
        f"({error.verify_message}); name the authority's file in the URL: ?{authority}=/path/ca.pem"
    )
