"""The operations that an operator's command is about."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from session_contracts import Names, Operation
from session_contracts.sessions import BUILT_IN
from session_worker.broker.topology import Topology
from session_worker.operations import loading
from session_worker.runtime.served import served_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session_worker.operations.app import App
    from session_worker.runtime.served import Served
    from session_worker.settings import Settings


class AnyObject(BaseModel):
    """The payload of an operation whose models are not at hand: any JSON object."""

    model_config = ConfigDict(extra="allow", frozen=True)


@dataclass(frozen=True, slots=True)
class Known:
    """What operators know of an operation that is served. ``timeout``: seconds for an attempt.
    ``retry_delays``: in whole seconds; one that only reads has none."""

    name: str
    key: str
    timeout: float
    retry_delays: tuple[int, ...]

    @classmethod
    def of(cls, served: Served) -> Known:
        delays = () if served.binding.reads else served.limits.retry_delays
        return cls(served.name, served.names.key, served.limits.timeout, delays)


def known(settings: Settings) -> tuple[Known, ...]:
    """What a worker with these settings serves.

    Raises:
        AppError: the app cannot be served.
    """
    return tuple(Known.of(each) for each in served_by(settings, _app(settings)))


def topology(prefix: str, operations: Sequence[Known]) -> Topology:
    """What these operations need at the broker."""
    names = Names(prefix)
    return Topology.joined([Topology.of(names.of(each.key), each.retry_delays) for each in operations])


def operations(settings: Settings, only: str | None = None) -> tuple[Operation[Any, Any], ...]:
    """All of the app, the built-in ones included, or ``only`` the one of that name, known or not.

    Raises:
        AppError: the app cannot be loaded.
        ValueError: no operation can have that name; a sentence.
    """
    every = tuple(binding.operation for binding in _app(settings).bindings)
    return every if only is None else (named(only, every),)


def named(name: str, known: Sequence[Operation[Any, Any]] = BUILT_IN) -> Operation[Any, Any]:
    """The one of that name among the known ones, or else one that takes any payload. Its queues follow from
    its name, and the fingerprints of its requests are right too: those of users' operations never depend on a
    model.

    Raises:
        ValueError: no operation can have that name; a sentence.
    """
    found = (operation for operation in known if operation.name == name)
    return next(found, None) or Operation(name, AnyObject, AnyObject)


def _app(settings: Settings) -> App[Any]:
    if settings.app is not None and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return loading.load(settings.app)
