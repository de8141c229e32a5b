"""The table of claims: what each entry means for each claim of it.

A rule names the values for which it holds; what it does not name may have any value. Together the rules cover
every case, and no case twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VALUES: Mapping[str, tuple[str, ...]] = {
    "status": ("pending", "processing", "completed", "failed"),
    "fingerprint": ("same", "other"),
    "token": ("its own", "another"),  # the claim's own token: this very claim took the entry before
    "due": ("now", "later"),
    "holder": ("me", "alive", "gone"),
    "grace": ("over", "runs"),  # the time in which the claiming worker takes nobody for gone
    "expired": ("no", "yes"),
    "crashes": (
        "below",
        "reached",
        "no limit",
    ),  # with that of a takeover, beside the claim's ``suspect_after``
}


@dataclass(frozen=True)
class Rule:
    """``attempts`` and ``crashes``: by how many the claim raises those of the entry."""

    name: str
    holds_for: Mapping[str, tuple[str, ...]]
    answer: str
    attempts: int = 0
    crashes: int = 0

    def cases(self) -> Iterator[dict[str, str]]:
        """Every combination of values for which the rule holds."""
        for values in product(*({**VALUES, **self.holds_for}[name] for name in VALUES)):
            yield dict(zip(VALUES, values, strict=True))


SAME = {"fingerprint": ("same",)}
OPEN = {**SAME, "token": ("another",)}
DUE = {**OPEN, "status": ("pending",), "due": ("now",)}
RUNNING = {**OPEN, "status": ("processing",)}
ORPHANED = {**RUNNING, "holder": ("gone",), "grace": ("over",)}
TRUSTED = {"crashes": ("below", "no limit")}

RULES = (
    Rule("another request has the id", {"fingerprint": ("other",)}, "Mismatch"),
    Rule("it has its outcome", {**SAME, "status": ("completed", "failed")}, "Finished"),
    Rule(
        "this claim took it before",
        {**SAME, "status": ("processing",), "token": ("its own",)},
        "Claimed",
    ),
    Rule(
        "this claim took it before, expired",
        {**SAME, "status": ("pending",), "token": ("its own",)},
        "Claimed expired",
    ),
    Rule("it is not due", {**OPEN, "status": ("pending",), "due": ("later",)}, "NotNow waiting"),
    Rule("its holder is there", {**RUNNING, "holder": ("me", "alive")}, "NotNow running"),
    Rule(
        "its holder is gone, but the grace runs",
        {**RUNNING, "holder": ("gone",), "grace": ("runs",)},
        "NotNow running",
    ),
    Rule("it waits and is suspect", {**DUE, "crashes": ("reached",)}, "Suspect"),
    Rule("its holder is gone and it is suspect", {**ORPHANED, "crashes": ("reached",)}, "Suspect"),
    Rule("it expired while it waited", {**DUE, **TRUSTED, "expired": ("yes",)}, "Claimed expired"),
    Rule(
        "it expired and its holder is gone",
        {**ORPHANED, **TRUSTED, "expired": ("yes",)},
        "Claimed expired",
        crashes=1,
    ),
    Rule("it is due", {**DUE, **TRUSTED, "expired": ("no",)}, "Claimed", attempts=1),
    Rule("its holder is gone", {**ORPHANED, **TRUSTED, "expired": ("no",)}, "Claimed", crashes=1),
)
