"""The ledger that nobody named: one place for each user, in whatever folder a command is run."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from session_worker.ledger import LedgerError, upgrade
from session_worker.ledger.sqlite.database import path_of
from session_worker.settings import InvalidSettingsError, load, load_only
from session_worker.settings.default_ledger import default_ledger_url, sqlite_url

if TYPE_CHECKING:
    from collections.abc import Callable

SYSTEM = Path("/var/lib/session-worker")


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("SESSION_WORKER_LEDGER_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.chdir(tmp_path)


def ledger() -> Path:
    return path_of(load().ledger_url.get_secret_value())


def test_it_is_in_the_users_state_folder_and_the_current_folder_is_the_same_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ledger()
    monkeypatch.chdir("/")
    assert here == ledger() == tmp_path / ".local/state/session-worker/ledger.db"


def test_the_folder_that_the_desktop_standard_names_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/some/where %")
    assert ledger() == Path("/some/where %/session-worker/ledger.db")


def test_a_relative_folder_is_ignored_as_the_standard_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert ledger().is_relative_to(tmp_path / ".local")


def test_a_service_has_the_folder_that_systemd_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/some/where")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/sessions:/var/lib/more")
    assert ledger() == Path("/var/lib/sessions/ledger.db")


def test_a_relative_folder_of_a_service_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be another one for each folder that a command is run in."""
    monkeypatch.setenv("STATE_DIRECTORY", "sessions")
    assert ledger().is_relative_to(tmp_path / ".local")


@pytest.mark.parametrize("home", ["/nonexistent", "relative", "/" + "long" * 100])
def test_a_user_without_a_home_is_a_services(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    assert ledger() == SYSTEM / "ledger.db"


def test_root_looks_where_services_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by sudo, which may leave the user's home."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert ledger() == SYSTEM / "ledger.db"


def test_a_current_folder_or_home_that_may_not_be_entered_has_no_ledger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`sudo -u` leaves a user in a folder of root's, and may leave root's home."""
    monkeypatch.setattr("os.stat", _forbidden)
    assert ledger() == SYSTEM / "ledger.db"


def _forbidden(path: object, **_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


async def test_its_folder_is_made_for_the_user_alone(tmp_path: Path) -> None:
    await upgrade(default_ledger_url())
    assert (tmp_path / ".local/state/session-worker").stat().st_mode & 0o777 == 0o700


async def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / ".local").touch()
    with pytest.raises(LedgerError, match=r"cannot be made \(Not a directory\); make it, or name another"):
        await upgrade(default_ledger_url())


@pytest.mark.parametrize("read", [load, lambda: load_only(ledger_url=None)], ids=["run", "a command"])
def test_where_an_earlier_release_made_a_ledger_none_is_chosen_silently(
    tmp_path: Path, read: Callable[[], object]
) -> None:
    """Nobody's data is left behind: both are named, each with the setting to write."""
    (tmp_path / "session-worker.db").touch()

    with pytest.raises(InvalidSettingsError) as refused:
        read()

    state = tmp_path / ".local/state"
    for path in (tmp_path / "session-worker.db", state / "session-worker/ledger.db"):
        assert f"SESSION_WORKER_LEDGER_URL=sqlite:///{path} " in str(refused.value)


def test_a_ledger_that_is_named_or_not_used_is_no_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "session-worker.db").touch()

    load_only(amqp_url=None)
    assert load(ledger_url="sqlite:///session-worker.db")
    monkeypatch.setenv("SESSION_WORKER_LEDGER_URL", default_ledger_url())
    assert load()


@pytest.mark.parametrize("rest", ["?mode=ro", "#x"])
def test_parameters_are_not_taken_for_a_part_of_the_name(rest: str) -> None:
    """They would make another ledger than the one that was meant."""
    with pytest.raises(LedgerError, match="takes no parameters"):
        path_of(f"sqlite:////folder/ledger.db{rest}")


def test_a_name_may_have_every_character() -> None:
    path = Path("/folder ?/ledger#%.db")
    assert path_of(sqlite_url(path)) == path
