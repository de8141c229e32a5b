"""The doctor's judgements on what it is told, where no server can be made to say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.doctor import State
from worker.doctor.at_broker import version
from worker.doctor.at_home import holder_timeout, known_settings
from worker.doctor.at_ledger import LARGE_BYTES, clock_skew, file_system, size
from worker.doctor.at_postgresql import server
from worker.doctor.result import failed, folded, ok, refused


@pytest.mark.parametrize(
    ("product", "number", "state", "words"),
    [
        ("RabbitMQ", "3.9.29", State.FAILED, "3.9.29 may lose"),
        ("RabbitMQ", "3.10.8", State.OK, "stream_queue"),
        ("RabbitMQ", "3.13.7", State.OK, "x-death"),
        ("RabbitMQ", "4.1.0-rc.1", State.OK, "RabbitMQ 4.1.0-rc.1"),
        ("RabbitMQ", "5.0.0", State.WARNING, "newer"),
        ("LavinMQ", "2.0.0", State.WARNING, "not RabbitMQ"),
        ("RabbitMQ", "unknown", State.WARNING, "not RabbitMQ"),
    ],
)
def test_a_version_is_judged_and_its_traps_are_told(
    product: str, number: str, state: State, words: str
) -> None:
    result = version(product, number)
    assert (result.state, words in result.found) == (state, True)


def test_traps_of_other_versions_are_not_told() -> None:
    assert version("RabbitMQ", "4.0.5").found == "RabbitMQ 4.0.5"
    assert "stream_queue" not in version("RabbitMQ", "3.12.0").found


def test_a_variable_that_nothing_reads_is_a_warning_that_names_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert known_settings("session").state is State.OK
    monkeypatch.setenv("SESSION_WORKER_CONCURENCY", "3")
    result = known_settings("session")
    assert result.state is State.WARNING
    assert "SESSION_WORKER_CONCURENCY" in result.found
    assert "SESSION_WORKER_CONCURRENCY" in str(result.fix)


@pytest.mark.parametrize(
    ("seconds", "state"), [(2, State.WARNING), (5, State.OK), (15, State.OK), (301, State.WARNING)]
)
def test_a_holder_timeout_is_neither_hasty_nor_sluggish(seconds: float, state: State) -> None:
    assert holder_timeout(seconds).state is state


@pytest.mark.parametrize(("seconds", "state"), [(2.0, State.OK), (-2.1, State.WARNING), (2.1, State.WARNING)])
def test_two_seconds_of_skew_are_allowed(seconds: float, state: State) -> None:
    assert clock_skew(seconds).state is state


def test_a_large_ledger_of_which_nothing_is_deleted_is_a_warning() -> None:
    assert size(1, LARGE_BYTES + 1, None).state is State.WARNING
    assert size(1, LARGE_BYTES + 1, 86_400).state is State.OK
    assert size(1, LARGE_BYTES, None).state is State.OK


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "PostgreSQL 15.20"),
        ({"standby": True}, "a standby"),
        ({"read_only": "on"}, "read-only"),
        ({"plans": "auto"}, "connection pooler"),
    ],
)
def test_what_a_server_tells_of_itself(change: dict[str, object], words: str) -> None:
    sound = {
        "version": "15.20",
        "database": "ledger",
        "standby": False,
        "read_only": "off",
        "plans": "force_generic_plan",
    }
    result = server(sound | change, 1)
    assert words in result.found
    assert result.state is (State.FAILED if change else State.OK)


def test_the_innermost_mount_tells_the_file_system(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nserver:/share {tmp_path / 'far'} nfs4 rw 0 0\n"
        f"/dev/sdb {tmp_path}/far/with\\040space xfs rw 0 0\n"
    )
    assert file_system(tmp_path / "near.db", mounts) == "ext4"
    assert file_system(tmp_path / "far" / "deeper" / "ledger.db", mounts) == "nfs4"
    assert file_system(tmp_path / "far" / "with space" / "ledger.db", mounts) == "xfs"
    assert file_system(tmp_path / "far" / "ledger.db", Path("/nowhere")) == ""


def test_a_fix_that_several_need_is_told_once() -> None:
    """What is different stays as it is, and so does what needs no fix."""
    a, b, c = (failed(f"queue {name}", "missing", "make it") for name in "abc")
    other, fine = failed("ledger", "missing", "upgrade it"), ok("queue d", "is there")

    found = folded([a, fine, b, other, c])

    assert [each.name for each in found] == ["queue a", "queue d", "queue b", "ledger", "queue c"]
    assert [each.fix for each in found] == [
        *("make it", None, "do the same as for queue a", "upgrade it", "do the same as for queue a"),
    ]


def test_where_all_parts_are_missing_that_is_one_result() -> None:
    parts = [failed(name, "missing", "make it") for name in ("exchange e", "queue a", "queue b")]

    (first, none, last) = folded([ok("broker", "is there"), *parts, ok("alarms", "none")])

    assert (first.name, last.name) == ("broker", "alarms")
    assert (none.name, none.found, none.fix) == ("exchange, queues", "none of the 3 exist", "make it")


@pytest.mark.parametrize(
    ("sentence", "found", "fix"),
    [
        ("the queue: missing (a: b); make it", "the queue: missing (a: b)", "make it"),
        ("the ledger at host:5432/x is down: start it", "the ledger at host:5432/x is down", "start it"),
        ("it cannot be reached; is it up?", "it cannot be reached", "ours"),
        ("the ledger cannot be used: something: else", "the ledger cannot be used: something: else", "ours"),
        ("all alone", "all alone", "ours"),
    ],
)
def test_an_errors_sentence_is_taken_apart_into_fault_and_fix(sentence: str, found: str, fix: str) -> None:
    result = refused("check", ValueError(sentence), "ours")
    assert (result.found, result.fix) == (found, fix)
