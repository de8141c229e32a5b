"""What the benchmarks compute from what they measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.bars import Bar, bars
from benchmarks.samples import PROJECT, by_place
from benchmarks.show import table
from benchmarks.statistics import Summary, quantile, ratios, summary


def row(contestant: str, repetition: int, rate: float) -> dict[str, Any]:
    return {
        "contestant": contestant,
        "repetition": repetition,
        "requests_per_second": rate,
        "cpu_us_per_request": 100.0,
        "peak_rss_mb": 50.0,
        "processes": 1,
        "generator_cpu_us_per_request": 10.0,
    }


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1, 100), (0.001, 1)])
def test_a_quantile_is_the_smallest_value_that_the_share_does_not_exceed(share: float, value: int) -> None:
    assert quantile(reversed(range(1, 101)), share) == value


def test_a_ratio_is_taken_within_a_repetition_before_the_median() -> None:
    """The medians' own ratio, 300 / 200, would be 1.5."""
    ours = [row("ours-sqlite", turn, rate) for turn, rate in enumerate((100, 300, 400))]
    echo = [row("echo", turn, rate) for turn, rate in enumerate((100, 300, 200))]
    assert ratios(ours, echo, "requests_per_second") == Summary(1, 1, 2)


def test_a_repetition_without_the_yardstick_has_no_ratio() -> None:
    ours = [row("ours-sqlite", 0, 100), row("ours-sqlite", 1, 900)]
    assert ratios(ours, [row("echo", 0, 50)], "requests_per_second") == Summary(2, 2, 2)
    assert ratios(ours, [], "requests_per_second") is None


def test_the_table_shows_medians_and_ratios_of_what_was_measured_only() -> None:
    rows = [row("ours-postgresql", 0, 150), row("echo", 0, 100)]
    head, echo, ours = table("drain", rows)
    assert head[1:3] == ["requests/s", "to the echo's"]
    assert echo[:3] == ["echo", "100", "1.00 (1.00 to 1.00)"]
    assert ours[:3] == ["ours-postgresql", "150", "1.50 (1.50 to 1.50)"]


def test_levels_of_one_contestant_are_told_apart() -> None:
    rows = [row("ours-postgresql", 0, 100 * count) | {"worker_processes": count} for count in (4, 1, 2)]
    head, *levels = table("processes", rows)
    assert head[:3] == ["", "worker processes", "requests/s"]
    assert [cells[:3] for cells in levels] == [["ours-postgresql", str(n), f"{100 * n}"] for n in (1, 2, 4)]


def test_bars_are_those_for_which_there_are_figures() -> None:
    assert bars({}) == []
    found = {bar.claim: bar for bar in bars({"drain": [row("ours-sqlite", 0, 90), row("echo", 0, 100)]})}
    throughput = found["drain, SQLite: throughput ÷ the bare echo's"]
    assert (throughput.measured.median, throughput.is_met) == (0.9, False)
    assert found["drain, SQLite: peak memory of a process, MB"].is_met
    assert not any("PostgreSQL" in claim for claim in found)


def test_the_best_of_the_others_is_beaten_only_if_it_is_beaten_in_its_repetition() -> None:
    """C is the ceiling and no peer."""
    rates = {"ours-postgresql": 100, "echo": 80, "taskiq": 125, "c-echo": 9000}
    rows = [row(name, 0, rate) for name, rate in rates.items()]
    claim = "drain, PostgreSQL: throughput ÷ that of the best of the others but C"
    (bar,) = [bar for bar in bars({"drain": rows}) if bar.claim == claim]
    assert bar == Bar(claim, summary([0.8]), 1, at_least=True)
    assert not bar.is_met


@pytest.mark.parametrize(
    ("stack", "place"),
    [
        (
            f"run (/lib/runners.py:1);decide ({PROJECT}/worker/session_worker/requests/flow.py:9)",
            "worker/session_worker/requests/flow.py",
        ),
        (
            f"decide ({PROJECT}/worker/session_worker/requests/flow.py:9);uuid4 (/lib/python3.11/uuid.py:7)",
            "worker/session_worker/requests/flow.py",
        ),
        ("run_forever (/project/uvloop/loop.c:1);write (/lib/libc.so.6)", "writing to sockets and files"),
        ("run_forever (/project/uvloop/loop.c:1);uv_run (/project/build/libuv-x86/core.c:2)", "uvloop"),
        ("read (/project/asyncpg/protocol/protocol.c:3);0x7f2b (/lib/libc.so.6)", "reading from sockets"),
        ("decode (/project/asyncpg/protocol/protocol.c:3);0x7f2b (/lib/libc.so.6)", "asyncpg"),
        ("step (/lib/libsqlite3.so.0)", "SQLite"),
        ("main (<frozen runpy>:88)", "the interpreter"),
    ],
)
def test_time_belongs_to_the_innermost_place_that_is_known(stack: str, place: str) -> None:
    assert by_place(f"{stack} 3\n{stack} 4\n") == {place: 7}


def test_time_spent_waiting_does_not_count() -> None:
    waiting = "run (/project/uvloop/loop.c:1);uv__io_poll (/linux.c:2);epoll_pwait (/lib/libc.so.6) 900\n"
    assert by_place(f"{waiting}step (/lib/libsqlite3.so.0) 1\n") == {"SQLite": 1}
