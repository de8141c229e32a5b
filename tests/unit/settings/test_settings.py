"""The settings: where they come from, and every rule with its sentence."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pydantic
import pytest

from session_worker.cli.run import default_text
from session_worker.settings import (
    CONSUMER_TIMEOUT,
    InvalidSettingsError,
    Settings,
    load,
    load_only,
    unknown_variables,
)

PASSWORD = "hunter2"


@pytest.fixture(autouse=True)
def _empty_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SESSION_WORKER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SESSION_WORKER_SECRETS_DIR", str(tmp_path))


def _invalid(**flags: Any) -> str:
    """The only sentence with which these flags are refused."""
    with pytest.raises(InvalidSettingsError) as refused:
        load(**flags)
    (setting,) = refused.value.settings
    sentence = str(setting)
    assert sentence.startswith(("The settings do not fit together", f"{next(iter(flags))}: "))
    return sentence


def test_what_is_wrong_what_to_do_and_where_it_comes_from_are_kept_apart() -> None:
    """For programs; people read one text made of them. A rule that has no other way out has no ``fix``."""
    with pytest.raises(InvalidSettingsError) as refused:
        load(prefix="amq.x", ledger_url="postgresql://db/ledger?port=0", concurrency=0)
    assert set(refused.value.settings) == {
        ("prefix: must not begin with amq., which is the broker's own", "choose another one", "--prefix"),
        ("ledger_url: parameter port must be 1 to 65535", "correct it", "--ledger-url"),
        ("concurrency: must be at least 1", "", "--concurrency"),
    }
    assert "1 to 65535; correct it. It is given by --ledger-url." in str(refused.value)


def test_an_app_and_a_handler_together_are_refused_by_both_names() -> None:
    sentence = _invalid(app="shop:app", handler="shop.hooks:check")
    assert "app is shop:app and handler is shop.hooks:check" in sentence
    assert "@app.on_create_session" in sentence


def test_an_app_is_written_as_a_place_in_a_module() -> None:
    assert _invalid(app="shop.py") == (
        "app: names no app; write it as package.module:app. It is given by the argument APP."
    )
    assert load(app="shop:apps.main").app == "shop:apps.main"


def test_operations_are_names_separated_by_commas_each_counted_once() -> None:
    """``all`` is what the pages show where none is named."""
    assert load(operations="create_session, extend,create_session").operations == ("create_session", "extend")
    assert load(operations="all").operations == load().operations == ()


def test_the_folder_of_secret_files_may_be_named_in_small_letters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As any setting may."""
    monkeypatch.delenv("SESSION_WORKER_SECRETS_DIR")
    monkeypatch.setenv("session_worker_secrets_dir", str(tmp_path))
    (tmp_path / "session_worker_prefix").write_text("orders")
    assert load().prefix == "orders"


def test_defaults_are_valid_and_local() -> None:
    settings = load()
    assert settings.amqp_urls == ("amqp://guest:guest@localhost:5672/",)
    assert settings.retry_delays == (1, 5, 30, 120, 600)
    assert (settings.prefix, settings.concurrency, settings.declare, settings.migrate) == (
        "session",
        256,
        True,
        False,
    )


# ------------------------------------------------------------------------------------------- sources


def test_flag_wins_over_environment_and_environment_over_secret_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "session_worker_prefix").write_text("file\n")
    assert load().prefix == "file"
    monkeypatch.setenv("SESSION_WORKER_PREFIX", "environment")
    assert load().prefix == "environment"
    assert load(prefix=None).prefix == "environment", "a flag that was not given is no flag"
    assert load(prefix="flag").prefix == "flag"


def test_secret_file_holds_a_url_with_its_password(tmp_path: Path) -> None:
    (tmp_path / "session_worker_amqp_url").write_text(f"amqp://user:{PASSWORD}@broker/\n")
    settings = load()
    assert settings.amqp_urls == (f"amqp://user:{PASSWORD}@broker/",)
    assert PASSWORD not in repr(settings) + str(settings.model_dump())


def test_environment_that_is_not_ours_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_WORKER_OF_ANOTHER_PROGRAM", "x")
    monkeypatch.setenv("PREFIX", "not-ours")
    assert load() == load(prefix="session")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SESSION_WORKER_CONCURENCY", "SESSION_WORKER_CONCURRENCY"),
        ("session_worker_broker_url", "SESSION_WORKER_LEDGER_URL"),
        ("SESSION_WORKER_SECRET_DIR", "SESSION_WORKER_SECRETS_DIR"),
    ],
)
def test_variable_that_nothing_reads_is_found_with_the_nearest_that_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "3")
    monkeypatch.setenv("SESSION_WORKER_PREFIX", "known")
    monkeypatch.setenv("session_worker_log_level", "info")
    assert unknown_variables() == {name.upper(): nearest}


@pytest.mark.parametrize("name", ["SERVICE_HOST", "SERVICE_PORT_OPS", "PORT", "PORT_9090_TCP_ADDR"])
def test_variable_that_kubernetes_sets_for_a_service_is_not_taken_for_a_setting(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"SESSION_WORKER_{name}", "tcp://10.0.0.1:9090")
    assert unknown_variables() == {}


def test_environment_gives_numbers_lists_and_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_WORKER_RETRY_DELAYS", " 2, 7 ,")
    monkeypatch.setenv("SESSION_WORKER_DECLARE", "false")
    monkeypatch.setenv("SESSION_WORKER_HANDLER_TIMEOUT", "2.5")
    settings = load()
    assert (settings.retry_delays, settings.declare, settings.handler_timeout) == ((2, 7), False, 2.5)


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        load().prefix = "other"  # type: ignore[misc]


# --------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("delays", [",", "0", "-1", "1,86401", [1] * 21])
def test_delays_are_between_one_second_and_a_day_and_at_most_twenty(delays: object) -> None:
    assert "1 to 20 delays of 1 to 86400 seconds" in _invalid(retry_delays=delays)


@pytest.mark.parametrize("delays", ["5,1", "1,1", (1, 30, 5)])
def test_delays_are_given_once_and_in_order(delays: object) -> None:
    assert "each delay once, the shortest first" in _invalid(retry_delays=delays)


@pytest.mark.parametrize("delays", ["1,x", "1.5,2", "1s"])
def test_delays_are_whole_numbers(delays: str) -> None:
    assert "whole seconds separated by commas" in _invalid(retry_delays=delays)


def test_longest_list_of_delays_is_accepted() -> None:
    assert load(retry_delays=",".join(map(str, range(1, 21)))).retry_delays == tuple(range(1, 21))


def test_attempt_and_grace_together_stay_under_the_brokers_consumer_timeout() -> None:
    said = _invalid(handler_timeout=CONSUMER_TIMEOUT - 20, shutdown_grace=20)
    assert "handler_timeout plus shutdown_grace must stay under 1800 s" in said
    assert load(handler_timeout=CONSUMER_TIMEOUT - 21, shutdown_grace=20)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("concurrency", [0, 10_001]),
        ("handler_timeout", [0, -1, float("inf"), float("nan")]),
        ("max_attempts", [0, 1001]),
        ("max_crashes", [1, 101]),
        ("holder_timeout", [0.5, 3601, float("nan")]),
        ("max_body_bytes", [1023, 16_777_217]),
        ("shutdown_grace", [-1, 3601, float("nan")]),
    ],
)
def test_number_out_of_its_bounds_is_refused_with_the_bound(name: str, values: list[float]) -> None:
    for value in values:
        assert re.search("must be (at (least|most)|more than|a finite)", _invalid(**{name: value}))


@pytest.mark.parametrize("prefix", ["-x", ".x", "a b", "a/b", "ä", "x" * 65, "x\ny"])
def test_prefix_is_what_every_broker_takes_for_a_name(prefix: str) -> None:
    assert "letters, digits, dots" in _invalid(prefix=prefix)


def test_prefix_is_not_of_the_names_that_the_broker_keeps_for_itself() -> None:
    assert "must not begin with amq." in _invalid(prefix="amq.x")


@pytest.mark.parametrize("pattern", ["(", "[", "*", "(?P<a>x)(?P<a>y)", "a{99999999999}", "(?<=a*)b"])
def test_reply_to_allow_is_a_regular_expression(pattern: str) -> None:
    assert "not a regular expression" in _invalid(reply_to_allow=pattern)


@pytest.mark.parametrize("handler", ["module", "module:", ":function", "a b:c", "m:f()", "m/x.py:f"])
def test_handler_is_a_path_to_a_function(handler: str) -> None:
    assert "package.module:function" in _invalid(handler=handler)


@pytest.mark.parametrize("level", ["INFO", "verbose"])
def test_log_level_is_one_of_four(level: str) -> None:
    assert "'debug', 'info', 'warning' or 'error'" in _invalid(log_level=level)


def test_urls_of_a_cluster_are_separated_by_commas() -> None:
    urls = load(amqp_url=" amqp://a:5672/v, amqps://u:p@b/ ,amqp://[::1]:5672/,").amqp_urls
    assert urls == ("amqp://a:5672/v", "amqps://u:p@b/", "amqp://[::1]:5672/")


@pytest.mark.parametrize(
    "url",
    [
        " , ",
        f"user:{PASSWORD}@broker",
        f"http://user:{PASSWORD}@broker/",
        f"amqp:/user:{PASSWORD}@broker/",
        f"amqp://user:{PASSWORD}@/vhost",
        "amqp://",
        "amqp:///vhost",
        f"amqp://user:{PASSWORD}@broker:port/",
        f"amqp://user:{PASSWORD}@broker:99999/",
        f"amqp://user:{PASSWORD}@[broker/",
        f"amqp://user:1/{PASSWORD}@broker/",
        f"amqp://good/,broker,amqp://user:{PASSWORD}@other/",
    ],
)
def test_amqp_url_must_name_scheme_and_host_and_is_never_echoed(url: str) -> None:
    """What is said of each is the business of ``client/session_client/net/urls.py``."""
    said = _invalid(amqp_url=url)
    assert "write" in said or "must be" in said
    assert PASSWORD not in said


@pytest.mark.parametrize("url", ["sqlite:///a.db", "sqlite:////var/a.db", f"postgresql://u:{PASSWORD}@h/d"])
def test_ledger_is_kept_in_sqlite_or_postgresql(url: str) -> None:
    assert load(ledger_url=url).ledger_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url", ["a.db", "sqlite:a.db", f"mysql://u:{PASSWORD}@h/d", f"postgresql+asyncpg://u:{PASSWORD}@h/d"]
)
def test_other_ledger_is_refused_by_naming_the_two(url: str) -> None:
    said = _invalid(ledger_url=url)
    assert "sqlite:///" in said
    assert "postgresql://" in said
    assert PASSWORD not in said


@pytest.mark.parametrize("cut", "/?#")
def test_ledger_url_whose_password_cuts_it_in_two_is_refused(cut: str) -> None:
    """What follows the cut would be taken for a database, and printed."""
    said = _invalid(ledger_url=f"postgresql://u:1{cut}{PASSWORD}@h/d")
    assert "percent-encode" in said
    assert PASSWORD not in said


def test_refusal_prints_no_password() -> None:
    with pytest.raises(InvalidSettingsError) as refused:
        load(amqp_url=f"http://u:{PASSWORD}@h/", ledger_url=f"mysql://u:{PASSWORD}@h/d")
    assert PASSWORD not in str(refused.value) + repr(refused.value)


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - {"ledger_url"}))
def test_a_default_may_be_written_as_the_page_shows_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = getattr(load(), name)
    monkeypatch.setenv(f"SESSION_WORKER_{name.upper()}", default_text(Settings.model_fields[name]))
    assert getattr(load(), name) == default


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_several_processes_on_one_sqlite_file_are_refused_with_the_reason() -> None:
    reason = _invalid(processes=2)
    assert "PostgreSQL" in reason
    assert "one writer at a time" in reason
    assert load(processes=2, ledger_url="postgresql://localhost/ledger").processes == 2


def test_settings_survive_being_handed_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords, units and lists included; what the other one finds in its environment does not count."""
    settings = load(
        amqp_url=f"amqp://ada:{PASSWORD}@localhost/",
        ledger_url=f"postgresql://ada:{PASSWORD}@localhost/ledger",
        processes=3,
        retry_delays="2,4",
        retention="30d",
    )
    handed_over = json.dumps(settings.hand_over())
    for name in Settings.model_fields:
        monkeypatch.setenv(f"SESSION_WORKER_{name.upper()}", "7")
    there = Settings.take_over(json.loads(handed_over))
    assert dict(there) == dict(settings)
    assert there.model_fields_set == settings.model_fields_set, "what nobody gave is no less a default there"


# ------------------------------------------------------------------------- never silently ignored


@pytest.mark.parametrize("folder", ["absent", "file", ""], ids=["absent", "no folder", "empty"])
def test_a_secrets_folder_that_is_named_and_cannot_be_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    """A worker that started without its secrets would make a ledger of its own."""
    (tmp_path / "file").touch()
    named = str(tmp_path / folder) if folder else ""
    monkeypatch.setenv("SESSION_WORKER_SECRETS_DIR", named)
    with pytest.raises(InvalidSettingsError, match=r"^SESSION_WORKER_SECRETS_DIR: ") as refused:
        load()
    assert named in str(refused.value)
    assert f"uid {os.geteuid()}" in str(refused.value) or not folder


def test_a_secret_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    """Docker makes one where the source of a mount is missing."""
    (tmp_path / "session_worker_ledger_url").mkdir()
    said = f"ledger_url: the secret file {tmp_path}/session_worker_ledger_url is a folder (Docker makes one"
    with pytest.raises(InvalidSettingsError, match=re.escape(said)):
        load()


def test_a_secret_that_nobody_may_ever_write_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "session_worker_ledger_url")
    with pytest.raises(InvalidSettingsError, match="is no regular file"):
        load()


def test_two_secret_files_for_one_setting_are_refused(tmp_path: Path) -> None:
    """One of them would be ignored silently."""
    for name in ("session_worker_ledger_url", "SESSION_WORKER_LEDGER_URL"):
        (tmp_path / name).write_text(f"sqlite:///{name}.db")
    with pytest.raises(InvalidSettingsError, match="two secret files give it") as refused:
        load()
    for path in tmp_path.iterdir():
        assert str(path) in str(refused.value)


def test_a_secret_that_may_not_be_read_is_refused_with_file_and_user(tmp_path: Path) -> None:
    path = tmp_path / "session_worker_ledger_url"
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(InvalidSettingsError) as refused:
        load()
    reason = f"cannot be read by uid {os.geteuid()} (No such file or directory); let it, or remove it."
    assert str(refused.value) == f"ledger_url: the secret file {path} {reason}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ledger_url: is empty; give it a value, or remove it. It is given by the file "),
        (b"\n \n", "ledger_url: is empty; give it a value, or remove it. It is given by the file "),
        (b"postgresql://\xff", "is not text in UTF-8"),
        (b"mysql://", "It is given by the file "),
    ],
)
def test_a_secret_that_holds_nothing_of_use_is_refused_with_its_file(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "session_worker_ledger_url"
    path.write_bytes(content)
    with pytest.raises(InvalidSettingsError) as refused:
        load()
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_secret_that_a_flag_or_a_variable_replaces_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ledger_url", "amqp_url", "prefix"):
        (tmp_path / f"session_worker_{name}").mkdir()
    monkeypatch.setenv("SESSION_WORKER_AMQP_URL", "amqp://broker/")
    assert load_only(ledger_url="sqlite:///x.db", amqp_url=None).amqp_urls == ("amqp://broker/",)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("amqp_url", "amqp://broker/", ("amqp_urls", ("amqp://broker/",))),
        ("prefix", "shop", ("prefix", "shop")),
        ("handler", "shop.sessions:handle", ("handler", "shop.sessions:handle")),
        ("reply_to_allow", "x", ("reply_to_allow", "x")),
        ("ops_host", "::1", ("ops_host", "::1")),
        ("log_level", "debug", ("log_level", "debug")),
        ("concurrency", "3", ("concurrency", 3)),
        ("declare", "off", ("declare", False)),
        ("retry_delays", "1,2", ("retry_delays", (1, 2))),
        ("retention", "off", ("retention", None)),
    ],
)
@pytest.mark.parametrize("place", ["file", "variable"])
def test_white_space_around_a_value_is_no_part_of_it_whatever_the_setting(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    place: str,
    name: str,
    value: str,
    expected: tuple[str, Any],
) -> None:
    """The line break at the end of a file, a carriage return before it, a byte order mark."""
    if place == "file":
        (tmp_path / f"session_worker_{name}").write_bytes(f"\ufeff {value}\r\n\n".encode())
    else:
        monkeypatch.setenv(f"SESSION_WORKER_{name.upper()}", f" {value}\n")
    attribute, wanted = expected
    assert getattr(load(), attribute) == wanted


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_is_no_default_but_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As an unset variable of the shell leaves one."""
    monkeypatch.setenv(f"SESSION_WORKER_{name.upper()}", "")
    with pytest.raises(InvalidSettingsError) as refused:
        load()
    assert f"{name}: is empty; give it a value, or remove it. It is given by SESSION_WORKER_" in str(
        refused.value
    )


def test_one_setting_with_two_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that differ in case alone."""
    monkeypatch.setenv("SESSION_WORKER_PREFIX", "one")
    monkeypatch.setenv("session_worker_prefix", "two")
    with pytest.raises(InvalidSettingsError, match=r"^prefix: .* give it two values; remove one of them"):
        load()
    monkeypatch.setenv("session_worker_prefix", "one")
    assert load().prefix == "one"


def test_a_refusal_says_where_the_value_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("session_worker_concurrency", "0")
    assert "It is given by session_worker_concurrency." in _invalid_by_load()
    assert "It is given by --concurrency." in _invalid(concurrency=0)


def test_a_variable_that_kubernetes_made_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a Service that is named like a setting."""
    monkeypatch.setenv("SESSION_WORKER_OPS_PORT", "tcp://10.0.0.1:9464")
    said = _invalid_by_load()
    assert (
        "which Kubernetes sets in each pod for a Service named session-worker-ops: name that otherwise"
        in said
    )
    assert "enableServiceLinks: false" in said


def _invalid_by_load() -> str:
    with pytest.raises(InvalidSettingsError) as refused:
        load()
    return str(refused.value)


@pytest.mark.parametrize(
    "name", ["OPS_SERVICE_HOST", "OPS_SERVICE_PORT_HTTP", "OPS_PORT_9464_TCP_PROTO", "UI_PORT"]
)
def test_variables_for_services_with_longer_names_are_not_taken_for_settings(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"SESSION_WORKER_{name}", "tcp://10.0.0.1:9464")
    assert unknown_variables() == {}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SESSION_WORKR_LEDGER_URL", "SESSION_WORKER_LEDGER_URL"),
        ("SESSIONWORKER_AMQP_URL", "SESSION_WORKER_AMQP_URL"),
        ("SESSION_WORKER_OP_PORT", "SESSION_WORKER_OPS_PORT"),
    ],
)
def test_a_misspelt_prefix_is_found_too(monkeypatch: pytest.MonkeyPatch, name: str, nearest: str) -> None:
    monkeypatch.setenv(name, "9464")
    assert unknown_variables() == {name: nearest}


def test_a_secret_file_that_nothing_reads_is_found_too(tmp_path: Path) -> None:
    (tmp_path / "session_worker_ledger").write_text("postgresql://ledger/")
    (tmp_path / "of_another_program").write_text("x")
    assert unknown_variables() == {f"{tmp_path}/session_worker_ledger": "session_worker_ledger_url"}


@pytest.mark.parametrize(
    "name",
    ["ledger_url", "LEDGER-URL", "session-worker-ledger-url", "session.worker.ledger.url", "ledgerurl"],
)
def test_a_secret_file_without_the_prefix_or_with_hyphens_is_told_with_the_name_it_needs(
    tmp_path: Path, name: str
) -> None:
    """Nothing reads it: the worker would begin an empty ledger in the default place."""
    (tmp_path / name).write_text("postgresql://ledger/")
    (tmp_path / "amqp_user").write_text("of another program")
    assert unknown_variables() == {f"{tmp_path}/{name}": "session_worker_ledger_url"}


def test_a_secret_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "session_worker_ledger_url"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        InvalidSettingsError, match=rf"^ledger_url: the secret file {path} is larger than 1048576"
    ):
        load()
    path.write_bytes(b"sqlite:////ledger.db".ljust(1 << 20))
    assert load().ledger_url.get_secret_value() == "sqlite:////ledger.db"


def test_a_second_line_of_a_ledgers_url_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a password that was written into the wrong file."""
    (tmp_path / "session_worker_ledger_url").write_text("sqlite:////srv/ledger.db\n\nhunter2\n")
    monkeypatch.setenv("SESSION_WORKER_SECRETS_DIR", str(tmp_path))
    refused = _invalid_by_load()
    assert "must be one line" in refused
    assert "hunter2" not in refused
