"""What the worker was to reach, and what it reached in this run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.show import YARDSTICK, number
from benchmarks.statistics import grouped, ratios, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.statistics import Summary

Row = dict[str, Any]
CEILING = "c-echo"
LEDGERS = {"ours-postgresql": "PostgreSQL", "ours-sqlite": "SQLite"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A claim, what was measured (median, least to most), and what was asked for."""

    claim: str
    measured: Summary
    bound: float
    at_least: bool

    @property
    def is_met(self) -> bool:
        return self.measured.median >= self.bound if self.at_least else self.measured.median <= self.bound

    def cells(self) -> list[str]:
        found = self.measured
        return [
            self.claim,
            f"{found.median:.2f} ({found.least:.2f} to {found.most:.2f})",
            f"{'≥' if self.at_least else '≤'} {number(self.bound)}",
            "yes" if self.is_met else "no",
        ]


def bars(scenarios: dict[str, list[Row]]) -> list[Bar]:
    """Those for which this run has the figures."""
    return [
        *_drain(scenarios.get("drain", [])),
        *_latency(scenarios.get("latency", [])),
        *_slow(scenarios.get("waiting", []), scenarios.get("mix", [])),
        *_reads(scenarios.get("reads", []), scenarios.get("neighbours", [])),
        *_growth(scenarios.get("growth", [])),
        *_telemetry(scenarios.get("telemetry", [])),
    ]


def _drain(rows: list[Row]) -> Iterator[Bar]:
    rate = "requests_per_second"
    for name, bound in (("ours-postgresql", 1.5), ("ours-sqlite", 1.2)):
        yield from _ratio(
            f"drain, {LEDGERS[name]}: throughput ÷ the bare echo's",
            (_of(rows, name), _of(rows, YARDSTICK), rate),
            bound,
        )
    durable = (_of(rows, "ours-postgresql"), _of(rows, "faststream-postgresql"), rate)
    yield from _ratio("drain, PostgreSQL: throughput ÷ FastStream's with the same durable work", durable, 6)
    yield from _ahead(rows)
    for name, ledger in LEDGERS.items():
        if ours := _of(rows, name):
            peak = summary([row["peak_rss_mb"] / row["processes"] for row in ours])
            yield Bar(f"drain, {ledger}: peak memory of a process, MB", peak, 100, at_least=False)


def _ahead(rows: list[Row]) -> Iterator[Bar]:
    """Throughput beside the best of all the others, in each repetition."""
    rate = "requests_per_second"
    others = [row for row in rows if row["contestant"] not in (*LEDGERS, CEILING)]
    best = [max(group, key=lambda row: float(row[rate])) for group in grouped(others, "repetition").values()]
    claim = "drain, PostgreSQL: throughput ÷ that of the best of the others but C"
    yield from _ratio(claim, (_of(rows, "ours-postgresql"), best, rate), 1)


def _latency(rows: list[Row]) -> Iterator[Bar]:
    for name, ledger in LEDGERS.items():
        floor = {row["repetition"]: row for row in _of(rows, name.replace("ours", "two-commits"))}
        echo = {row["repetition"]: row for row in _of(rows, YARDSTICK, in_flight=1)}
        found = [
            row["p50_ms"] / (1.3 * echo[turn]["p50_ms"] + floor[turn]["p50_ms"])
            for row in _of(rows, name, in_flight=1)
            if (turn := row["repetition"]) in echo and turn in floor
        ]
        if found:
            claim = f"latency, {ledger}: p50 with 1 in flight ÷ (1.3 times the echo's + two commits alone)"
            yield Bar(claim, summary(found), 1, at_least=False)
        for value in ("p50_ms", "p99_ms"):
            pair = (_of(rows, name, in_flight=64), _of(rows, YARDSTICK, in_flight=64), value)
            claim = f"latency, {ledger}: {value[:3]} with 64 in flight ÷ the bare echo's"
            yield from _ratio(claim, pair, 1, at_least=False)


def _slow(waiting: list[Row], mix: list[Row]) -> Iterator[Bar]:
    for name, ledger in LEDGERS.items():
        for wait in sorted({row["wait_seconds"] for row in waiting}):
            if ours := _of(waiting, name, wait_seconds=wait):
                claim = f"1,000 handlers that wait {wait:g} s, {ledger}: share of the ideal throughput"
                yield Bar(claim, summary([row["share_of_ideal"] for row in ours]), 0.9, at_least=True)
        pair = (_of(mix, name, load="mixed"), _of(mix, name, load="alone"), "p99_ms")
        claim = f"1 ms beside 2 s, {ledger}: p99 of the fast ones ÷ their p99 alone"
        yield from _ratio(claim, pair, 2, at_least=False)


def _reads(drains: list[Row], beside: list[Row]) -> Iterator[Bar]:
    for name, ledger in LEDGERS.items():
        reads, creates = (_of(drains, name, operation=each) for each in ("get_session", "create_session"))
        claim = f"drain of reads, {ledger}: throughput ÷ that of creates"
        yield from _ratio(claim, (reads, creates, "requests_per_second"), 1.5)
        slow, alone = (_of(beside, name, load=each) for each in ("beside a slow operation", "alone"))
        claim = f"reads beside a slow operation, {ledger}: p99 ÷ their p99 alone"
        yield from _ratio(claim, (slow, alone, "p99_ms"), 2, at_least=False)


def _growth(rows: list[Row]) -> Iterator[Bar]:
    for name, ledger in LEDGERS.items():
        for size, ids in sorted({(row["ledger_rows"], row["ids"]) for row in rows if row["ledger_rows"]}):
            pair = (
                _of(rows, name, ledger_rows=size, ids=ids),
                _of(rows, name, ledger_rows=0, ids=ids),
                "requests_per_second",
            )
            claim = f"growth, {ledger}, ids {ids}: throughput with {size:,} requests before ÷ with none"
            yield from _ratio(claim, pair, 0.85 if size >= 10_000_000 else 0.9)


def _telemetry(rows: list[Row]) -> Iterator[Bar]:
    for level, bound in (("with logs and metrics", 0.95), ("with 1 % of the traces", 0.97)):
        if found := [row["share_of_off"] for row in rows if row["telemetry"] == level]:
            yield Bar(f"drain {level}: throughput ÷ that with them off", summary(found), bound, at_least=True)


def _ratio(
    claim: str, pair: tuple[list[Row], list[Row], str], bound: float, *, at_least: bool = True
) -> Iterator[Bar]:
    found = ratios(*pair)
    if found is not None:
        yield Bar(claim, found, bound, at_least)


def _of(rows: list[Row], contestant: str, **levels: Any) -> list[Row]:
    return [
        row
        for row in rows
        if row["contestant"] == contestant and all(row[key] == value for key, value in levels.items())
    ]
