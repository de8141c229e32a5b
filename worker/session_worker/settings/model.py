"""Every setting of the worker, in one place.

Read once, at the entry point. Each field is also an environment variable, ``SESSION_WORKER_`` and the name
in capitals; a flag of ``session-worker run``; and a file of that name in ``/run/secrets`` (or the folder
named by ``SESSION_WORKER_SECRETS_DIR``), which is the place for URLs with passwords.
"""

from __future__ import annotations

import os
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from session_client.net.diagnosis import InvalidValueError
from session_client.net.urls import LOCAL_BROKER, MANAGEMENT_PORT, broker_urls, web_url
from session_contracts.amqp import DEFAULT_REPLY_TO_ALLOW
from session_contracts.errors import rule
from session_contracts.types import Rule
from session_worker.settings import durations, postgresql_url, sources
from session_worker.settings.default_ledger import FORMER, default_ledger_url, sqlite_url
from session_worker.settings.sources import InvalidSetting, InvalidSettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONSUMER_TIMEOUT = 1800.0
"""RabbitMQ's default ``consumer_timeout``: seconds after which it takes an unacknowledged message away."""

ALL = "all"
"""Stands for all operations of the app."""


def _duration(value: object) -> object:
    return durations.seconds(value) if isinstance(value, str) else value


def _unless_off(value: object) -> object:
    return None if value == "off" else value


def _duration_or_off(value: object) -> object:
    return None if value == "off" else _duration(value)


class Settings(BaseSettings):
    """The worker's settings. Durations are in seconds, sizes in bytes, unless a setting takes a unit."""

    model_config = SettingsConfigDict(
        env_prefix=sources.PREFIX,
        frozen=True,
        extra="ignore",
        validate_default=True,
        hide_input_in_errors=True,  # URLs hold passwords
    )

    amqp_url: SecretStr = Field(
        default=SecretStr(LOCAL_BROKER),
        description="URL of the broker: `amqp://user:password@host:port/vhost?heartbeat=10`, or `amqps://`. "
        "For a cluster, the URLs of all nodes separated by commas.",
    )
    ledger_url: SecretStr = Field(
        default_factory=lambda: SecretStr(default_ledger_url()),
        description="URL of the ledger: `sqlite:////folder/file.db` or "
        "`postgresql://user:password@host/database`. Default: `ledger.db` in the state folder, which is "
        "`~/.local/state/session-worker`, for root and services `/var/lib/session-worker`.",
    )
    prefix: Annotated[
        str,
        StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$"),
        Rule("must be 1 to 64 letters, digits, dots, underscores or hyphens; the first a letter or digit"),
    ] = Field(
        default="session",
        description="Prefix of the names of the exchange and of all queues.",
    )
    app: Annotated[str | None, BeforeValidator(_unless_off)] = Field(
        default=None,
        description="Your app: `package.module:name`. Off: the built-in operations alone.",
    )
    handler: Annotated[str | None, BeforeValidator(_unless_off)] = Field(
        default=None,
        description="In place of an app, your hook of `create_session`: `package.module:function`, a "
        "`function(request, context)`.",
    )
    operations: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names of the operations that this worker serves, separated by commas.",
    )
    concurrency: int = Field(
        default=256,
        ge=1,
        le=10_000,
        description="Requests of one operation handled concurrently; also the prefetch count. An app may set "
        "it for an operation, and so it may `handler_timeout`, `max_attempts` and `retry_delays`.",
    )
    handler_timeout: float = Field(
        default=30.0,
        gt=0,
        le=86_400,
        description="Time limit for one attempt, including its immediate retries.",
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Number of worker processes, each with its own `concurrency` and connections. "
        "More than one needs a PostgreSQL ledger.",
    )
    max_attempts: int = Field(
        default=6,
        ge=1,
        le=1000,
        description="Attempts after which a request is answered `failed` and parked.",
    )
    max_crashes: int = Field(
        default=3,
        ge=2,
        le=100,
        description="Worker crashes after which the request being handled is answered `failed` and parked.",
    )
    holder_timeout: float = Field(
        default=15.0,
        ge=1,
        le=3600,
        description="A worker that has not renewed its registration in the ledger for this long is "
        "considered dead.",
    )
    retry_delays: Annotated[
        tuple[int, ...], NoDecode, Rule("must be whole seconds separated by commas, for example 1,5,30")
    ] = Field(
        default=(1, 5, 30, 120, 600),
        description="Delays between attempts in whole seconds, separated by commas. Each has a queue of its "
        "own.",
    )
    max_body_bytes: int = Field(
        default=262_144, ge=1024, le=16_777_216, description="Larger requests are refused without being read."
    )
    reply_to_allow: str = Field(
        default=DEFAULT_REPLY_TO_ALLOW,
        description="Regular expression that `reply_to` must match. The worker's own queues are never "
        "allowed.",
    )
    shutdown_grace: float = Field(
        default=20.0, ge=0, le=3600, description="Time that running requests get to finish after SIGTERM."
    )
    declare: bool = Field(
        default=True,
        description="Declare the exchange and the queues at start. Off: only check that they exist, which "
        "needs no `configure` permission.",
    )
    migrate: bool = Field(
        default=False,
        description="Upgrade the schema of a PostgreSQL ledger at start. SQLite is always upgraded.",
    )
    retention: Annotated[float | None, BeforeValidator(_duration_or_off)] = Field(
        default=None,
        description="Workers delete requests that finished longer ago than this, for example `30d`, in small "
        "batches; their sessions are kept. `off`: nothing is deleted.",
    )
    dedupe_window: Annotated[float, BeforeValidator(_duration)] = Field(
        default="7d",  # type: ignore[assignment]
        ge=86_400,  # longer than a copy may wait in a retry queue
        description="Minimum time a request id is remembered after its request finished, for example `7d`. "
        "`retention` cannot be shorter.",
    )
    ops_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="HTTP port of `/livez`, `/readyz` and `/metrics`. 0: off.",
    )
    ops_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address that `ops_port` listens on. `0.0.0.0`: open to everyone who can reach this "
        "machine; `::`: the same by IPv6 and IPv4.",
    )
    management_url: Annotated[SecretStr | None, BeforeValidator(_unless_off)] = Field(
        default=None,
        description=f"URL of the broker's management interface, `http://host:{MANAGEMENT_PORT}`, where "
        "`doctor` looks for policies that void the promise; with user and password if they are not those of "
        "`amqp_url`.",
    )
    traces: bool = Field(
        default=False,
        description="Send traces to the collector named by OpenTelemetry's own variables "
        "(`OTEL_EXPORTER_OTLP_ENDPOINT`, …). Needs `session-worker[otel]`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged: debug, info, warning or error."
    )

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if value.startswith("amq."):
            raise InvalidValueError(
                "must not begin with amq., which is the broker's own", "choose another one"
            )
        return value

    @field_validator("amqp_url")
    @classmethod
    def _check_amqp_url(cls, value: SecretStr) -> SecretStr:
        broker_urls(value.get_secret_value())
        return value

    @field_validator("management_url")
    @classmethod
    def _check_management_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            web_url(value.get_secret_value())
        return value

    @field_validator("ledger_url")
    @classmethod
    def _check_ledger_url(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if not url.startswith(("sqlite:///", "postgresql://", "postgres://")):
            raise InvalidValueError(
                "is no ledger's URL", "write sqlite:///path.db or postgresql://user:password@host/database"
            )
        if "\n" in url:  # what follows would be taken for a part of the file's name, and printed
            raise InvalidValueError("must be one line", "remove what follows the URL")
        if not url.startswith("sqlite:"):
            postgresql_url.read(url)
        return value

    @field_validator("retry_delays", "operations", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("operations")
    @classmethod
    def _check_operations(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return () if value == (ALL,) else tuple(dict.fromkeys(value))

    @field_validator("retry_delays")
    @classmethod
    def _check_delays(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(value) > 20 or any(not 1 <= delay <= 86_400 for delay in value):
            raise InvalidValueError(
                "must be 1 to 20 delays of 1 to 86400 seconds", "write for example 1,5,30"
            )
        if list(value) != sorted(set(value)):
            raise InvalidValueError(
                "must name each delay once, the shortest first", "write for example 1,5,30"
            )
        return value

    @field_validator("reply_to_allow")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, OverflowError) as error:
            raise InvalidValueError(f"not a regular expression: {error}") from None
        return value

    @field_validator("app", "handler")
    @classmethod
    def _check_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", value):
            kind = "app" if info.field_name == "app" else "function"
            raise InvalidValueError(f"names no {kind}", f"write it as package.module:{kind}")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _trim(cls, value: object) -> object:
        """Remove white space: a file ends with a line break, and so may a variable that was read from one.

        pydantic begins with the last validator that is defined, so this one runs first.
        """
        if isinstance(value, str):
            value = value.strip()
            if not value:
                raise InvalidValueError("is empty", "give it a value, or remove it")
        return value

    @model_validator(mode="after")
    def _check_app(self) -> Settings:
        if self.app is not None and self.handler is not None:
            raise InvalidValueError(
                f"app is {self.app} and handler is {self.handler}",
                "give the app alone, and decorate the function with @app.on_create_session",
            )
        return self

    @model_validator(mode="after")
    def _check_times(self) -> Settings:
        if self.handler_timeout + self.shutdown_grace >= CONSUMER_TIMEOUT:
            raise InvalidValueError(
                f"handler_timeout plus shutdown_grace must stay under {CONSUMER_TIMEOUT:.0f} s, after which "
                "the broker takes an unfinished request away"
            )
        return self

    @model_validator(mode="after")
    def _check_retention(self) -> Settings:
        if self.retention is not None and self.retention < self.dedupe_window:
            raise InvalidValueError(
                f"retention ({durations.text(self.retention)}) must not be shorter than dedupe_window "
                f"({durations.text(self.dedupe_window)}), within which a request that is sent again gets the "
                "answer it had"
            )
        return self

    @model_validator(mode="after")
    def _check_processes(self) -> Settings:
        if self.processes > 1 and self.ledger_url.get_secret_value().startswith("sqlite:"):
            raise InvalidValueError(
                "processes above 1 need a PostgreSQL ledger (ledger_url): a SQLite file takes one writer at "
                "a time, and more of them only wait for each other"
            )
        return self

    def revealed(self) -> dict[str, Any]:
        """Return all values as plain data, passwords included."""
        secrets = {name: value.get_secret_value() for name, value in self if isinstance(value, SecretStr)}
        return self.model_dump(mode="json") | secrets

    def hand_over(self) -> dict[str, Any]:
        """Return what another process needs to have the same settings: plain data, passwords included."""
        return {"values": self.revealed(), "given": sorted(self.model_fields_set)}

    @classmethod
    def take_over(cls, handed: Mapping[str, Any]) -> Settings:
        """The settings that another process handed over; what the environment says does not count."""
        return cls.model_construct(_fields_set=set(handed["given"]), **dict(cls(**handed["values"])))

    @property
    def amqp_urls(self) -> tuple[str, ...]:
        return broker_urls(self.amqp_url.get_secret_value())


def load(**flags: object) -> Settings:
    """Read settings from flags (those that are not None), environment and secret files.

    What comes first in this order wins.

    Raises:
        InvalidSettingsError: a value is invalid, cannot be read, or is missing although it is needed.
    """
    return _read(_given(flags))


def load_only(**flags: object) -> Settings:
    """Read the settings that ``flags`` names (None: not given as a flag); the others have their defaults.

    This is for a command that uses a few settings, so that errors in the others do not stop it.

    Raises:
        InvalidSettingsError: see ``load``.
    """
    unused = {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in Settings.model_fields.items()
        if name not in flags
    }
    return _read(_given(flags), unused)


def _given(flags: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _read(flags: Mapping[str, Any], unused: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    variables = sources.variables()
    files = {
        name: path
        for name, path in sources.files().items()
        if name in Settings.model_fields and name not in {*flags, *unused, *variables}
    }
    secrets = {name: sources.secret(name, path) for name, path in files.items()}
    try:
        loaded = Settings(**{**unused, **secrets, **flags})
    except ValidationError as error:
        origins = {name: f"the file {path}" for name, path in files.items()}
        origins |= {name: sources.origin(variable) for name, variable in variables.items()}
        origins |= {name: f"--{name.replace('_', '-')}" for name in flags}
        if "app" in flags:
            origins["app"] = "the argument APP"
        raise InvalidSettingsError(*_invalid(error, origins)) from error
    if "ledger_url" not in loaded.model_fields_set and os.path.exists(FORMER):  # noqa: PTH110 - raises nothing
        former, new = (
            sqlite_url(FORMER.absolute()),
            default_ledger_url(),
        )
        raise InvalidSettingsError(
            InvalidSetting(
                f"ledger_url: not set, and this folder has a ledger {FORMER} of an earlier release",
                f"set SESSION_WORKER_LEDGER_URL={former} to go on with that one, or "
                f"SESSION_WORKER_LEDGER_URL={new} for one in the new default place",
            )
        )
    return loaded


def _invalid(error: ValidationError, origins: Mapping[str, str]) -> Iterator[InvalidSetting]:
    for problem in error.errors(include_input=False, include_url=False):
        own = problem.get("ctx", {}).get("error")  # one from above, if it is a ValueError
        what, fix = own.diagnosis if isinstance(own, InvalidValueError) else (rule(problem), "")
        if problem["loc"]:
            name = str(problem["loc"][0])
            yield InvalidSetting(f"{name}: {what}", fix, origins.get(name, "nobody, which is a defect"))
        else:
            yield InvalidSetting(f"The settings do not fit together: {what}", fix)


def unknown_variables() -> dict[str, str]:
    """See ``sources.unread``."""
    return sources.unread(Settings.model_fields)
