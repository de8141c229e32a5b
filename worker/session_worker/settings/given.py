"""Settings that are given beside the flags: by environment variables and by secret files."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "SESSION_WORKER_"
SECRETS = "/run/secrets"
_FOLDER = f"{PREFIX}SECRETS_DIR"
_OF_TESTS = f"{PREFIX}TEST_"
_OF_KUBERNETES = re.compile(r"(^|_)SERVICE_(HOST|PORT)(_|$)|(^|_)PORT_\d+_(TCP|UDP|SCTP)(_|$)")
_ADDRESS = re.compile("(tcp|udp|sctp)://")
"""How the value of a variable begins that Kubernetes sets, named after a Service and ``PORT``."""
_SIMILAR = 0.9
"""How much the name of a variable without our prefix must resemble one of ours to be a misspelt one."""


class RefusedError(Exception):
    """What was given cannot be used. ``sentences``: what is wrong and what to do, one for each setting."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = sentences


def variables() -> dict[str, str]:
    """The names of the variables with our prefix as they are written, by setting. Raises RefusedError."""
    found: dict[str, str] = {}
    for name in os.environ:
        setting = name.upper().removeprefix(PREFIX).lower()
        if not name.upper().startswith(PREFIX):
            continue
        if os.environ[found.setdefault(setting, name)] != os.environ[name]:
            raise RefusedError(
                f"{setting}: {found[setting]} and {name} give it two values; remove one of them."
            )
    return found


def files() -> dict[str, Path]:
    """The secret files with our prefix, by setting. Raises RefusedError."""
    named = variables().get("secrets_dir")
    if named is None and not os.path.lexists(SECRETS):
        return {}
    folder = os.environ[named] if named else SECRETS
    if not folder.strip():
        raise RefusedError(f"{_FOLDER}: is empty; name the folder of the secret files, or remove it.")
    try:
        paths = sorted(Path(folder).iterdir())
    except OSError as error:
        raise RefusedError(
            f"{_FOLDER}: the folder {folder} cannot be read by uid {os.geteuid()} ({error.strerror}); "
            "correct it, or name another."
        ) from error
    found: dict[str, Path] = {}
    for path in paths:
        setting = path.name.upper().removeprefix(PREFIX).lower()
        if path.name.upper().startswith(PREFIX) and found.setdefault(setting, path) != path:
            raise RefusedError(
                f"{setting}: two secret files give it, {found[setting]} and {path}; remove one."
            )
    return found


def secret(setting: str, path: Path) -> str:
    """What a secret file holds. Raises RefusedError."""
    where, user = f"{setting}: the secret file {path}", f"uid {os.geteuid()}"
    try:
        if path.is_dir():
            raise RefusedError(
                f"{where} is a folder (Docker makes one where a mount's source is missing); put the file "
                "with the value in its place."
            )
        if path.exists() and not path.is_file():
            raise RefusedError(f"{where} is no regular file; put a file with the value in its place.")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RefusedError(
            f"{where} cannot be read by {user} ({error.strerror}); let it, or remove it."
        ) from error
    except UnicodeDecodeError as error:
        raise RefusedError(f"{where} is not text in UTF-8 ({user} has read it); write it again.") from error


def origin(variable: str) -> str:
    """Name a variable as the origin of a value, and what else may have set it."""
    if not _ADDRESS.match(os.environ[variable].strip()):
        return variable
    service = variable.lower().replace("_", "-").removesuffix("-port")
    return (
        f"{variable}, which Kubernetes sets in each pod for a Service named {service}: name that otherwise, "
        "or set enableServiceLinks: false for this pod"
    )


def unread(settings: Iterable[str]) -> dict[str, str]:
    """The variables and secret files that look like ours and that nothing reads, and for each the known name
    that it most resembles."""
    known = [*(PREFIX + setting.upper() for setting in settings), _FOLDER]
    strange = {}
    for name, value in sorted(os.environ.items()):
        ours = name.upper().startswith(PREFIX)
        nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0 if ours else _SIMILAR)
        if nearest and name.upper() not in known and not (ours and _not_meant(name.upper(), value)):
            strange[name.upper()] = nearest[0]
    for setting, path in files().items():
        if PREFIX + setting.upper() not in known:
            nearest = difflib.get_close_matches(PREFIX + setting.upper(), known[:-1], n=1, cutoff=0)
            strange[str(path)] = nearest[0].lower()
    return strange


def _not_meant(name: str, value: str) -> bool:
    rest = name.removeprefix(PREFIX)
    return bool(_OF_KUBERNETES.search(rest) or _ADDRESS.match(value)) or name.startswith(_OF_TESTS)
