"""Growth: a drain with a ledger that has seen many requests before.

By requests whose ids are those of our client, in the order of time, and by such with random ids.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from benchmarks import prefill
from benchmarks.load import warm_up
from benchmarks.messages import new_request
from benchmarks.plan import Measurement
from benchmarks.scenarios.drain import drain
from session_contracts import new_request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.contestants import Contestant
    from benchmarks.plan import Plan
    from benchmarks.stage import Stage

REQUESTS: Final = 10_000
LARGEST_SQLITE: Final = 1_000_000
IDS: Final[dict[str, Callable[[], UUID]]] = {"in order": new_request_id, "random": uuid4}


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    """A ledger is filled once and used in every repetition, which hardly adds to it; an empty one is new."""
    ledgers: dict[tuple[str, int], str] = {}
    requests = plan.count(REQUESTS)
    ours = [each for each in plan.contestants if each.is_ours]
    entrants = [
        (contestant, size, ids)
        for contestant in ours
        for size in plan.ledger_rows
        for ids in IDS
        if contestant.ledger != "sqlite" or size <= LARGEST_SQLITE
    ]
    for repetition, (contestant, size, ids) in plan.turns(entrants, times=2):
        measure = partial(_measure, stage, contestant, size, ids, requests, ledgers)
        yield Measurement(contestant.name, repetition, measure)
    for url in ledgers.values():
        stage.drop_ledger(url)


def _measure(
    stage: Stage,
    contestant: Contestant,
    size: int,
    ids: str,
    requests: int,
    ledgers: dict[tuple[str, int], str],
) -> list[dict[str, Any]]:
    key = contestant.name, size
    if size and key not in ledgers:
        ledgers[key] = stage.new_ledger(contestant.ledger)
        _fill(stage, contestant, ledgers[key], size)
    with stage.running(contestant, ledger_url=ledgers.get(key)) as run:
        warm_up(run)
        drained = drain(run, [new_request(new_id=IDS[ids]) for _ in range(requests)])
        return [{"ledger_rows": size, "ids": ids} | drained]


def _fill(stage: Stage, contestant: Contestant, url: str, size: int) -> None:
    """The worker itself makes the schema and the first entries; SQL makes them many."""
    with stage.running(contestant, ledger_url=url) as run:
        warm_up(run)
    if url.startswith("sqlite"):
        prefill.sqlite(url, size)
    else:
        prefill.postgresql(stage.postgresql, url, size)
