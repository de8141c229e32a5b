"""Asks an ops port, as the image's health check and ``doctor`` do."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException

MOST_BYTES = 1_048_576
"""How much of an answer is read."""
LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on
"""Where a port is asked that is open to everybody."""


def ask(host: str, port: int, path: str, seconds: float) -> tuple[int, bytes]:
    """Ask the ops port of a worker on this machine; return status and body of the answer.

    Each step may take ``seconds``.

    Raises:
        OSError: nobody answers.
        HTTPException: whoever answers does not speak HTTP.
    """
    connection = HTTPConnection(LOCAL.get(host, host), port, timeout=seconds)
    try:
        connection.connect()
        connection.request("GET", path)
        with connection.getresponse() as answer:
            return answer.status, answer.read(MOST_BYTES)
    except ConnectionResetError as error:
        raise HTTPException("the connection was closed") from error
    except UnicodeError as error:
        raise OSError(f"{host!r} is no name of a host") from error
    finally:
        connection.close()
