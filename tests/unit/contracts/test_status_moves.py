"""The moves between statuses are the promised ones and no others."""

from itertools import product

import pytest

from session_contracts import MOVES, IllegalMoveError, RequestStatus, check_move
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


@pytest.mark.parametrize(("old", "new"), list(product([None, *RequestStatus], RequestStatus)))
def test_promised_moves_are_allowed_and_all_others_raise(
    old: RequestStatus | None, new: RequestStatus
) -> None:
    if (old, new) in PROMISED:
        check_move(old, new)
    else:
        with pytest.raises(IllegalMoveError, match=f"from {old or 'unknown'} to {new}"):
            check_move(old, new)


def test_completed_is_final() -> None:
    assert not any(old is RequestStatus.COMPLETED for old, _ in MOVES)


def test_diagram_shows_every_move() -> None:
    arrows = {line.strip().partition(":")[0] for line in mermaid().splitlines()[1:]}
    assert arrows == {f"{old or '[*]'} --> {new}" for old, new in MOVES} | {"completed --> [*]"}
