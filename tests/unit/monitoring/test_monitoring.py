"""The files for Prometheus and Grafana ask for what the worker has to say, and for nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from session_worker.telemetry.metrics import METRICS

ROOT = Path(__file__).resolve().parents[3]
ALERTS = ROOT / "monitoring" / "alerts.yml"
RULES = {rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
DASHBOARD: dict[str, Any] = json.loads((ROOT / "monitoring" / "dashboard.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
QUERIES = {
    **{name: rule["expr"] for name, rule in RULES.items()},
    **{title: " ".join(one["expr"] for one in panel["targets"]) for title, panel in PANELS.items()},
}

SERIES = {
    metric.name + ending: {*metric.labels, *(("le",) if ending == "_bucket" else ())}
    for metric in METRICS
    for ending in (("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",))
}
"""What a scrape gives: series, and their labels beside those that Prometheus adds."""


def _names(query: str) -> set[str]:
    return set(re.findall(r"session_worker_\w+", query))


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_every_query_asks_for_series_and_labels_that_exist(query: str) -> None:
    names = _names(query)
    assert names <= SERIES.keys()
    labels = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
    labels |= set(re.findall(r"[{,] *(\w+) *(?:=~|!=|=)", query))
    assert labels <= {"instance"}.union(*(SERIES[name] for name in names))


@pytest.mark.parametrize("title", PANELS)
def test_every_panel_shows_the_chosen_operations_where_there_are_any(title: str) -> None:
    for selector in re.findall(r"session_worker_\w+\{[^}]*\}", QUERIES[title]):
        has_label = "operation" in SERIES[selector.partition("{")[0]]
        assert ('operation=~"$operation"' in selector) == has_label


def test_every_metric_is_on_the_dashboard() -> None:
    shown = set().union(*(_names(QUERIES[title]) for title in PANELS))
    assert {
        metric.name for metric in METRICS if not any(name.startswith(metric.name) for name in shown)
    } == set()


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_every_query_of_the_dashboard_goes_to_the_chosen_prometheus() -> None:
    sources = {one["datasource"]["uid"] for panel in PANELS.values() for one in panel["targets"]}
    assert sources == {"${datasource}"}
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {
        "datasource",
        "instance",
        "operation",
    }


def test_the_operations_page_says_what_to_do_about_each_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^\| `(SessionWorker\w+)`", page, re.MULTILINE)) == RULES.keys()


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", ALERTS), ("test", "rules", Path(__file__).with_name("alerts_test.yml"))],
    ids=["rules are well-formed", "each alert fires when it should and not before"],
)
def test_prometheus_itself_accepts(arguments: tuple[str | Path, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: `make promtool` installs it (Debian's package prometheus)")
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_firing_and_silent() -> None:
    tried: dict[str, set[bool]] = {name: set() for name in RULES}
    for test in yaml.safe_load(Path(__file__).with_name("alerts_test.yml").read_text())["tests"]:
        for one in test["alert_rule_test"]:
            tried[one["alertname"]].add(bool(one["exp_alerts"]))
    assert tried == {name: {True, False} for name in RULES}
