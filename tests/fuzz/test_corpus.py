"""Every nasty input that we know of is refused or understood, and does nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from session_worker.requests.request import Request
from tests.fuzz.targets import PARSER, body_holds, properties_hold
from tests.support.parts import delivery

CORPUS = Path(__file__).parent / "corpus"
UNDERSTOOD = {
    "bom.json",
    "good.json",
    "smallest.json",
    "upper-case-ids.json",
    "urn-id.json",
    "unknown-fields.json",
    "session-id.json",
    "user-in-emoji.json",
    "duplicate-keys.json",
    "minus-zero.json",
    "rtl-and-zero-width.json",
    "nfc.json",
    "nfd.json",
}


@pytest.mark.parametrize("path", sorted((CORPUS / "body").iterdir()), ids=lambda path: path.name)
def test_nasty_bodies_are_refused_and_odd_ones_understood(path: Path) -> None:
    """Which is which is part of the contract: a body does not change sides unnoticed."""
    data = path.read_bytes()
    body_holds(data)
    assert isinstance(PARSER.parse(delivery(data)), Request) == (path.name in UNDERSTOOD)


@pytest.mark.parametrize("path", sorted((CORPUS / "properties").iterdir()), ids=lambda path: path.name)
def test_nasty_properties_cost_their_message_at_most(path: Path) -> None:
    """They are read, or they raise; what was read fits into a reply."""
    properties_hold(path.read_bytes())
