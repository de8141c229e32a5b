"""What an operator asks of the parking lot, and does with it.

Nothing here prints: the command line calls it, and whoever else shows it to people.

A *dead letter* is a parked copy of a request. Looking at one takes nothing away: it is held for a moment and
given back, also when the one who looks is killed.
"""

from session_worker.operators.dead_letters.letter import DeadLetter, Wanted
from session_worker.operators.dead_letters.parking_lot import ParkingLot, Sender
from session_worker.operators.dead_letters.redrive import (
    Fate,
    Group,
    groups,
    matching,
    outlook,
    purge,
    redrive,
)

__all__ = [
    "DeadLetter",
    "Fate",
    "Group",
    "ParkingLot",
    "Sender",
    "Wanted",
    "groups",
    "matching",
    "outlook",
    "purge",
    "redrive",
]
