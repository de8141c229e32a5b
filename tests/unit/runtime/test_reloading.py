"""What `--reload` watches, and where it cannot be had; tests/broker/test_reloading.py has it at work."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from session_worker.runtime import reloading
from session_worker.settings import load

if TYPE_CHECKING:
    from pathlib import Path


def test_without_watchfiles_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(reloading.ReloadError, match="pip install 'watchfiles"):
        reloading.run(load())


def test_several_processes_are_refused() -> None:
    with pytest.raises(reloading.ReloadError, match="one process, not 2"):
        reloading.run(load(processes=2, ledger_url="postgresql://localhost/shop"))


def test_the_folder_of_a_package_that_lies_elsewhere_is_watched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "source" / "elsewhere_shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for here, watched in (tmp_path, [tmp_path]), (elsewhere, [elsewhere, package]):
        monkeypatch.chdir(here)
        assert reloading._folders("elsewhere_shop.app:handle") == watched
