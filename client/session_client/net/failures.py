"""What it means that a server could not be reached, or that its connection broke: for people."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import TYPE_CHECKING

from session_client.net.diagnosis import Diagnosis

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXPIRED, _NOT_YET_VALID, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64
"""OpenSSL's numbers (X509_V_ERR_…), which Python has no names for."""


def in_one_line(error: BaseException) -> str:
    """Describe ``error`` with its type: many exceptions have no text of their own."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else f"{type(error).__name__}, without a word"


def why_lost(error: BaseException | None) -> str:
    """Say why a connection ended with ``error``, or with none."""
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
    return in_one_line(error)


def network_failure(error: BaseException) -> str | None:
    """Say why no connection came about, or return None where only the system's own words are left."""
    for each in _chain(error):
        if isinstance(each, socket.gaierror):
            return "the host name is not known"
        # Where a name has several addresses, the errors of all of them are one, which has no number.
        if isinstance(each, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(each):
            return "connection refused: nothing listens there"
        if isinstance(each, OSError) and each.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
            return "there is no way to it in the network"
    return None


def unreachable(error: BaseException, where: str, url: str) -> Diagnosis:
    """Say why there is no connection to ``where``, a server that sent nothing. ``url``: what names it."""
    if any(isinstance(each, _HANG_UPS) for each in _chain(error)):
        return Diagnosis(
            f"{where} closed the connection before it was open", "make sure that it is the broker, and up"
        )
    why = network_failure(error) or getattr(error, "strerror", None) or str(error) or why_lost(error)
    return Diagnosis(f"{where} cannot be reached ({why})", f"start it, or correct {url}")


def tls_failure(error: BaseException, where: str, authority: str) -> Diagnosis | None:
    """Say why the TLS handshake with ``where`` failed, or return None when ``error`` is about something else.

    ``authority`` is the URL's parameter that names the file of the authority behind the server's certificate.
    """
    refused = next((each for each in _chain(error) if isinstance(each, ssl.SSLError)), None)
    if refused is None:
        return None
    if isinstance(refused, ssl.SSLCertVerificationError):
        return _refused_certificate(refused, where, authority)
    reason = getattr(refused, "reason", None) or str(refused)  # one made in Python has none
    if "ALERT" in reason:
        return Diagnosis(f"{where} ended the TLS handshake ({reason})", _CLIENT_CERTIFICATE)
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}:
        return Diagnosis(f"{where} does not speak TLS", "correct the port or the scheme in the URL")
    return Diagnosis(
        f"no TLS connection to {where} came about ({reason})", "check the URL and the certificates"
    )


def tls_hang_up(error: BaseException, where: str) -> Diagnosis | None:
    """Say why ``where`` hung up on a TLS connection before it sent anything, or return None.

    A server does so when it misses the client's certificate or does not trust it; its reason gets lost.
    """
    if not any(isinstance(each, _HANG_UPS) for each in _chain(error)):
        return None
    return Diagnosis(f"{where} closed the TLS connection before it was open", _CLIENT_CERTIFICATE)


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


def _refused_certificate(error: ssl.SSLCertVerificationError, where: str, authority: str) -> Diagnosis:
    code, certificate = error.verify_code, f"the certificate of {where}"
    if code == _EXPIRED:
        return Diagnosis(f"{certificate} has expired", "have it renewed, or set this machine's clock")
    if code == _NOT_YET_VALID:
        return Diagnosis(f"{certificate} is not valid yet", "set the clock that is wrong")
    if code in {_OTHER_HOST, _OTHER_ADDRESS}:
        return Diagnosis(
            f"{certificate} is for another host",
            "write a name that is in it into the URL, or have one made for this name",
        )
    return Diagnosis(
        f"{certificate} comes from an authority that is not trusted here ({error.verify_message})",
        f"name the authority's file in the URL: ?{authority}=/path/ca.pem",
    )
