"""What a server's refusal means: sentences for people, the same from the client and from the worker."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_ACCESS = re.compile(
    r"(?:(configure|write|read) )?access to (queue|exchange) '([^']*)' in vhost '([^']*)' "
    r"refused for user '([^']*)'"
)
_EXPIRED, _NOT_YET_VALID, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64
"""OpenSSL's numbers (X509_V_ERR_…), which Python has no names for."""


def splits_login(url: str) -> bool:
    """Whether a ``/``, ``?`` or ``#`` of the password, not percent-encoded, cuts the URL's login in two.

    Its user would be taken for the host then, and pieces of its password be printed as port and vhost.
    """
    return re.search(r"//[^/?#]*[/?#].*@", url) is not None


def access_trouble(text: str, *, queue: str = "", exchange: str = "") -> str | None:
    """What RabbitMQ's ACCESS_REFUSED on a channel means, or None when ``text`` is none.

    Not every version of the broker names the permission: ``queue`` and ``exchange`` are those that what was
    done takes on either. Nothing can be done to the default exchange but write.
    """
    found = _NO_ACCESS.search(text)
    if found is None:
        return None
    permission, kind, name, vhost, user = found.groups()
    needed = "write" if name == "amq.default" else exchange if kind == "exchange" else queue
    return (
        f"user {user} has no {permission or needed} permission on {kind} {name} in vhost {vhost}; grant it "
        "with `rabbitmqctl set_permissions` (docs/security.md has the patterns)"
    )


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
