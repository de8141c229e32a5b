"""Names that were given up stay given up: one noun per thing, in code, pages, metrics and tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("benchmarks", "client", "contracts", "docs", "examples", "monitoring", "scripts", "tests", "worker")
SUFFIXES = {".md", ".py", ".toml", ".yml", ".json", ".sql", ".mjs", ".sh", ""}
NOT_OURS = {"corpus", "results", "node_modules", "__pycache__", "build"}
"""Folders of inputs, measurements and what others wrote."""

ALIAS = {"worker/session_worker/cli/app.py", "tests/unit/cli/test_usage.py"}
"""The command that was renamed is still understood, and says its new name."""

RETIRED: dict[str, set[str]] = {
    # A duplicate is answered with what is stored: replayed. An operator sends a dead letter again: redriven.
    r"dead replay": ALIAS,
    r"(?i)replay[-_]count": set(),
    # How often a request went round: requeues.
    r"\blaps?\b|busy-laps": set(),
    # How long a sender waits is its expiration or time to live; how long we wait for something, a timeout.
    r"(?i)\bpatience\b": set(),
    # Outcomes: failed, rejected.
    r"\bExhausted\b": set(),
    r"\bDeclined?\b": set(),
    # A copy that lies on the dead-letter queue is parked.
    r"dead_lettered": set(),
    # Import names that were also those of other people's modules.
    r"\bworker\.handlers\b": set(),
    r"\bfrom (client|contracts|worker)(\.\w+)* import\b": set(),
    # Files and functions whose names said nothing about what they are for.
    r"\bbroken\.py\b|session_client\.broken": set(),
    r"\bOneByOne\b": set(),
    r"\bprobable_id\b|\bid_from_properties\b": set(),
    r"\bReplyBuilder\b": set(),
    r"\bDEADLY_LOSSES\b": set(),
    r"\bmessages\.values\b|\boperations\.handlers\b": set(),
    r"\b_go_on\b": set(),
    r"\b_stubborn\b": set(),
    r"\b_(Own)?Pipe\b": {"tests/support/tcp_proxy.py"},
    # What RabbitMQ calls connection, channel, consumer.
    r"\bWire\b|\bopen_wire\b": set(),
    r"\bRawChannel\b|\bConsumeChannel\b|\bPublishChannel\b": set(),
    r"\baccused\b": set(),
    # A request that is running, or is not due yet, cannot be claimed now.
    r"\bInOtherHands\b": set(),
    r"\bgrow_older\b": set(),
    r"\blook_in\b": set(),
}
"""Each name that was given up, as a regular expression, and the files that may still have it."""

OF_USERS = {"client.py", "worker.py", "grants.sql", "roles.sql", "docker-compose.override.yml"}
"""Files that the pages name and that are their readers'."""


def texts() -> dict[str, str]:
    """Every file of the project that people read, but for what tells of its past."""
    files = [path for path in ROOT.iterdir() if path.is_file() and path.suffix in SUFFIXES]
    for room in ROOMS:
        files += [path for path in (ROOT / room).rglob("*") if path.suffix in SUFFIXES and path.is_file()]
    found = {str(path.relative_to(ROOT)): path for path in files if path != Path(__file__)}
    found = {name: path for name, path in found.items() if not NOT_OURS & set(Path(name).parts)}
    del found["CHANGELOG.md"]
    return {name: path.read_text() for name, path in found.items()}


TEXTS = texts()


@pytest.mark.parametrize("name", RETIRED)
def test_a_name_that_was_given_up_is_not_used_again(name: str) -> None:
    pattern = re.compile(name)
    found = {
        file: [line for line, text in enumerate(text.splitlines(), 1) if pattern.search(text)]
        for file, text in TEXTS.items()
        if file not in RETIRED[name] and pattern.search(text)
    }
    assert found == {}


def test_every_file_of_ours_that_a_text_names_is_there() -> None:
    """Whoever moves or renames one finds the pages and comments that speak of it."""
    named = re.compile(r"`([\w./]*\w+\.(?:py|toml|sql|yml))`")
    there = {"/" + file for file in TEXTS} | {"/tests/unit/test_names.py"}
    gone = {
        (file, name)
        for file, text in TEXTS.items()
        for name in named.findall(text)
        if not any(path.endswith("/" + name.lstrip("./")) for path in there) and name not in OF_USERS
    }
    assert gone == set()


def test_the_alias_is_where_it_is_said_to_be() -> None:
    """A list of exceptions that nobody needs any more hides the next mistake."""
    assert all("dead replay" in TEXTS[file] for file in ALIAS)
