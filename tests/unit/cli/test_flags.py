"""`run` takes every setting as an option, made from the settings themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_worker.cli.run import command
from session_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def test_every_setting_is_an_option_with_its_description() -> None:
    options = {option.name: option for option in command().params if option.name in Settings.model_fields}

    assert options.keys() == Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in options[name].opts
        assert options[name].help.startswith(field.description)


def test_options_go_before_the_environment(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And arrive in the types of the settings; a switch can be turned off."""
    seen: list[Settings] = []

    def run_worker(loaded: Settings) -> int:
        seen.append(loaded)
        return 7

    monkeypatch.setattr("session_worker.runtime.process.run", run_worker)

    code, _, _ = run(
        *("run", "--concurrency", "5", "--no-declare", "--retry-delays", "2,4"), concurrency=9, prefix="other"
    )

    (loaded,) = seen
    assert code == 7
    assert (loaded.concurrency, loaded.declare, loaded.retry_delays) == (5, False, (2, 4))
    assert loaded.prefix == "other"
