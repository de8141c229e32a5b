"""The moves between statuses are the promised ones and no others."""

from session_contracts import MOVES, RequestStatus
from session_contracts.status import mermaid

PROMISED = {
    (None, "pending"),
    ("pending", "processing"),
    ("processing", "pending"),
    ("processing", "completed"),
    ("processing", "failed"),
    ("pending", "failed"),
    ("failed", "pending"),
}


def test_the_promised_moves_are_in_the_table_and_no_others() -> None:
    assert {(move.before, move.after) for move in MOVES} == PROMISED


def test_completed_is_final() -> None:
    assert not any(move.before is RequestStatus.COMPLETED for move in MOVES)


def test_no_two_moves_have_one_reason() -> None:
    """The history of an entry tells them apart by it."""
    assert len({move.reason for move in MOVES}) == len(MOVES)


def test_diagram_shows_every_move() -> None:
    arrows = [line.strip().partition(":")[0] for line in mermaid().splitlines()[1:]]
    assert len(arrows) == len(set(arrows)) == len(PROMISED) + 1
    assert set(arrows) == {f"{old or '[*]'} --> {new}" for old, new in PROMISED} | {"completed --> [*]"}
