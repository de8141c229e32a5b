"""What an operator asks of the parking lot, and does with it.

A *dead letter* is a parked copy of a request. Looking at one takes nothing away: it is held for a moment and
given back, also when the process that looks is killed. Nothing here prints.
"""

from session_worker.operators.dead_letters.groups import Group, groups
from session_worker.operators.dead_letters.letter import DeadLetter, Fate, Filter
from session_worker.operators.dead_letters.parking_lot import ParkingLot
from session_worker.operators.dead_letters.redrive import Sender, operators_ledger, redrive

__all__ = [
    "DeadLetter",
    "Fate",
    "Filter",
    "Group",
    "ParkingLot",
    "Sender",
    "groups",
    "operators_ledger",
    "redrive",
]
