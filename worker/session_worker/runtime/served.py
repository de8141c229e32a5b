"""The operations that a worker serves: which of the app's, with what limits, from which queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from session_contracts.amqp import Names
from session_worker.broker.topology import Topology
from session_worker.operations.binding import Limits
from session_worker.operations.errors import AppError
from session_worker.settings import CONSUMER_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session_worker.operations.app import App
    from session_worker.operations.binding import Binding
    from session_worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Served:
    """An operation as this worker serves it."""

    binding: Binding
    limits: Limits
    names: Names

    @property
    def name(self) -> str:
        return self.binding.operation.name


def served_by(settings: Settings, app: App[Any]) -> tuple[Served, ...]:
    """Return the operations of ``app`` that a worker with these settings serves.

    Raises:
        AppError: the settings name an operation that the app has not, or one may run for too long.
    """
    names = Names(settings.prefix)
    found = {
        binding.operation.name: Served(
            binding, _limits(settings, app, binding), names.of(binding.operation.key)
        )
        for binding in app.bindings
    }
    for name in settings.operations:
        if name not in found:
            raise AppError(
                f"operations: there is no operation {name}",
                f"name some of {', '.join(found)} (--operations or SESSION_WORKER_OPERATIONS)",
            )
    served = tuple(found[name] for name in settings.operations or found)
    for each in served:
        if each.limits.timeout + settings.shutdown_grace >= CONSUMER_TIMEOUT:
            raise AppError(
                f"operation {each.name}: its timeout ({each.limits.timeout:g} s) plus shutdown_grace "
                f"({settings.shutdown_grace:g} s) must stay under {CONSUMER_TIMEOUT:.0f} s, after which the "
                "broker takes an unfinished request away",
                "shorten one of them",
            )
    return served


def _limits(settings: Settings, app: App[Any], binding: Binding) -> Limits:
    """Its limits; what the app allows to all operations together, one need not fetch more of."""
    limits = binding.limits(Limits.of(settings))
    if app.concurrency is None or binding.built_in:
        return limits
    return limits._replace(concurrency=min(limits.concurrency, app.concurrency))


def topology_of(served: Sequence[Served]) -> Topology:
    """Return what these operations need at the broker. Reads have no retry queues."""
    return Topology.joined(
        [Topology.of(each.names, () if each.binding.reads else each.limits.retry_delays) for each in served]
    )
