"""Print errors as sentences, and a traceback only for what is a defect of this program."""

from __future__ import annotations

import errno

from session_worker.cli import streams


class Failure(Exception):  # noqa: N818 - an outcome, and nobody reads its name
    """It did not work; the message says why and what to do. Exit code 1."""


def report(error: Exception) -> int:
    """Print the error as a sentence and return the exit code; an unknown error is raised again."""
    code, sentences = _explain(error)
    for sentence in sentences:
        streams.complain(sentence)
    return code


def _explain(error: Exception) -> tuple[int, list[str]]:
    from session_worker.settings import InvalidSettingsError

    if isinstance(error, InvalidSettingsError):
        return 2, [str(setting) for setting in error.settings]
    if isinstance(error, UnicodeError):
        return 2, [f"A name, a variable or a file has something that is not UTF-8 text: {error}."]
    unwritable = error.__cause__ if isinstance(error, streams.UnwritableError) else streams.unwritable()
    if isinstance(unwritable, BrokenPipeError) or isinstance(error, BrokenPipeError):
        return 1, []  # the reader has seen enough
    if isinstance(unwritable, OSError):
        return 1, [f"Standard output takes nothing: {unwritable.strerror or unwritable}."]
    if isinstance(error, OSError):
        return 1, [_refused_by_system(error)]
    if isinstance(error, _expected()):
        return 1, [str(error)]
    raise error


def _expected() -> tuple[type[Exception], ...]:
    from session_client import SessionClientError
    from session_client.net.diagnosis import DiagnosedError
    from session_worker.sandbox import SandboxError

    return Failure, DiagnosedError, SandboxError, SessionClientError


def _refused_by_system(error: OSError) -> str:
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"The disk is full{where} ({error.strerror}): make room, then run the command again."
    return f"The operating system refuses what is needed{where}: {error.strerror or error}."
