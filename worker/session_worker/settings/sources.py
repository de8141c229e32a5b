"""Where settings come from beside the flags: environment variables and secret files."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from session_client.net.diagnosis import Diagnosis

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "SESSION_WORKER_"
SECRETS = "/run/secrets"
MOST_BYTES = 1_048_576
"""How large a secret file may be."""
_FOLDER = f"{PREFIX}SECRETS_DIR"
_OF_TESTS = f"{PREFIX}TEST_"
_OF_KUBERNETES = re.compile(r"(^|_)SERVICE_(HOST|PORT)(_|$)|(^|_)PORT_\d+_(TCP|UDP|SCTP)(_|$)")
_ADDRESS = re.compile("(tcp|udp|sctp)://")
"""How the value of a variable begins that Kubernetes sets, named after a Service and ``PORT``."""
_SIMILAR = 0.9
"""How much a name without our prefix must resemble one of ours to be a misspelt one."""


class InvalidSetting(NamedTuple):
    """What is wrong with a setting, what to do, and where its value came from. ``str()`` makes sentences of
    that; the value is not in them, for it may be a secret."""

    what: str
    fix: str = ""
    origin: str = ""

    def __str__(self) -> str:
        given = f" It is given by {self.origin}." if self.origin else ""
        return f"{Diagnosis(self.what, self.fix)}.{given}"


class InvalidSettingsError(Exception):
    """Some settings are invalid; ``settings`` says of each what and why."""

    def __init__(self, *settings: InvalidSetting) -> None:
        super().__init__(" ".join(map(str, settings)))
        self.settings = settings


def _invalid(what: str, fix: str) -> InvalidSettingsError:
    return InvalidSettingsError(InvalidSetting(what, fix))


def variables() -> dict[str, str]:
    """Map each setting that a variable gives to the variable's name as it is written.

    Raises:
        InvalidSettingsError: two variables give one setting two values.
    """
    found: dict[str, str] = {}
    for name in os.environ:
        setting = name.upper().removeprefix(PREFIX).lower()
        if not name.upper().startswith(PREFIX):
            continue
        if os.environ[found.setdefault(setting, name)] != os.environ[name]:
            raise _invalid(f"{setting}: {found[setting]} and {name} give it two values", "remove one of them")
    return found


def files() -> dict[str, Path]:
    """Map each setting that a secret file gives to the file.

    Raises:
        InvalidSettingsError: the folder cannot be read, or two files give one setting.
    """
    found: dict[str, Path] = {}
    for path in _in_the_folder():
        setting = path.name.upper().removeprefix(PREFIX).lower()
        if path.name.upper().startswith(PREFIX) and found.setdefault(setting, path) != path:
            raise _invalid(f"{setting}: two secret files give it, {found[setting]} and {path}", "remove one")
    return found


def _in_the_folder() -> list[Path]:
    named = variables().get("secrets_dir")
    if named is None and not os.path.lexists(SECRETS):
        return []
    folder = os.environ[named] if named else SECRETS
    if not folder.strip():
        raise _invalid(f"{_FOLDER}: is empty", "name the folder of the secret files, or remove it")
    try:
        return sorted(Path(folder).iterdir())
    except OSError as error:
        raise _invalid(
            f"{_FOLDER}: the folder {folder} cannot be read by uid {os.geteuid()} ({error.strerror})",
            "correct it, or name another",
        ) from error


def secret(setting: str, path: Path) -> str:
    """Read a secret file.

    Raises:
        InvalidSettingsError: it is no regular file, cannot be read, is too large, or is not UTF-8.
    """
    where, user = f"{setting}: the secret file {path}", f"uid {os.geteuid()}"
    try:
        if path.is_dir():
            raise _invalid(
                f"{where} is a folder (Docker makes one where a mount's source is missing)",
                "put the file with the value in its place",
            )
        if path.exists() and not path.is_file():
            raise _invalid(f"{where} is no regular file", "put a file with the value in its place")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise _invalid(
                f"{where} is larger than {MOST_BYTES} bytes", "put a file with the value alone in its place"
            )
        return content.decode("utf-8-sig")
    except OSError as error:
        raise _invalid(
            f"{where} cannot be read by {user} ({error.strerror})", "let it, or remove it"
        ) from error
    except UnicodeDecodeError as error:
        raise _invalid(f"{where} is not text in UTF-8 ({user} has read it)", "write it again") from error


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
    """Find the variables and secret files that nothing reads although they look like ours.

    Each is mapped to the known name that it resembles most.

    Raises:
        InvalidSettingsError: the folder of the secret files cannot be read.
    """
    bare = [setting.upper() for setting in settings]
    known = [PREFIX + name for name in bare]
    strange = {}
    for name, value in sorted(os.environ.items()):
        ours = name.upper().startswith(PREFIX)
        nearest = _nearest(name.upper(), [*known, _FOLDER], cutoff=0 if ours else _SIMILAR)
        if nearest not in {None, name.upper()} and not (ours and _not_meant(name.upper(), value)):
            strange[name.upper()] = nearest
    for path in _in_the_folder():
        name = re.sub(r"\W", "_", path.name.upper())
        ours = name.startswith(PREFIX)
        nearest = _nearest(name, known if ours else known + bare, cutoff=0 if ours else _SIMILAR)
        if nearest and path.name.upper() not in known:
            strange[str(path)] = f"{PREFIX}{nearest.removeprefix(PREFIX)}".lower()
    return strange


def _nearest(name: str, known: list[str], *, cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _not_meant(name: str, value: str) -> bool:
    rest = name.removeprefix(PREFIX)
    return bool(_OF_KUBERNETES.search(rest) or _ADDRESS.match(value)) or name.startswith(_OF_TESTS)
