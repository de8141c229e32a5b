"""What the URL of a broker says about TLS.

aiormq would do it, but it asks the terminal for the password of an encrypted key, does not say which file is
wrong, and takes ``no_verify_ssl=false`` for a yes.
"""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from session_client.net.diagnosis import DiagnosedError
from session_client.net.threads import in_own_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from yarl import URL


class UnusableError(DiagnosedError, ValueError):
    """A parameter of the URL cannot be used; the message names it."""


async def context_for(url: URL) -> ssl.SSLContext | None:
    """The context for ``cafile``, ``certfile``, ``keyfile`` and ``no_verify_ssl``; None for ``amqp://``.

    The files are read anew each time: they may have been renewed.

    Raises:
        UnusableError: a file cannot be read, or is not what it should be.
    """
    if url.scheme != "amqps":
        return None
    return await in_own_thread(_context, dict(url.query))


def _context(query: dict[str, str]) -> ssl.SSLContext:
    cafile, certfile, keyfile = (query.get(name) or None for name in ("cafile", "certfile", "keyfile"))
    with _naming(f"cafile {cafile}", "a file of certificates (PEM)"):
        context = ssl.create_default_context(cafile=cafile)
    if certfile is None and keyfile is not None:
        raise UnusableError("keyfile in the broker's URL goes with a certfile, which is missing")
    if certfile is not None:
        for name, path in (("certfile", certfile), ("keyfile", keyfile or certfile)):
            with _naming(f"{name} {path}", "a file"):  # ssl would not say which one is missing
                Path(path).read_bytes()
        with _naming(
            f"certfile {certfile} with keyfile {keyfile or certfile}", "a certificate and its key (PEM)"
        ):
            context.load_cert_chain(certfile, keyfile, password=_no_password)
    match query.get("no_verify_ssl", "0"):
        case "0":
            pass
        case "1":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        case _:
            raise UnusableError("no_verify_ssl in the broker's URL must be 1 (any certificate will do) or 0")
    return context


class _EncryptedError(Exception):
    pass


def _no_password() -> NoReturn:
    raise _EncryptedError


@contextmanager
def _naming(what: str, expected: str) -> Iterator[None]:
    try:
        yield
    except _EncryptedError:
        raise UnusableError(
            f"{what} in the broker's URL: the key is encrypted", "store it without password"
        ) from None
    except ssl.SSLError as error:
        raise UnusableError(
            f"{what} in the broker's URL must be {expected} ({getattr(error, 'reason', None) or error})"
        ) from None
    except OSError as error:
        raise UnusableError(f"{what} in the broker's URL cannot be read: {error.strerror}") from None
