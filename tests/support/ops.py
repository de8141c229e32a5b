"""Asking a worker's ops port, as a probe or Prometheus does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


class Ops:
    """The ops port on this machine; every call is one request."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> tuple[int, str]:
        """Status and body. Raises OSError when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def live(self) -> bool:
        status, body = self.get("/livez")
        assert json.loads(body)["live"] == (status == 200)
        return status == 200

    def red(self) -> dict[str, str]:
        """The checks that are not ok, with their reasons; nothing when the worker is ready."""
        status, body = self.get("/readyz")
        document = json.loads(body)
        red = {name: reason for name, reason in document["checks"].items() if reason != "ok"}
        assert document["ready"] == (status == 200) == (not red)
        return red

    def ready(self) -> bool:
        """Whether it is; not while the port is not open yet."""
        try:
            return not self.red()
        except ConnectionError:
            return False
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionError):
                return False
            raise

    def pids(self) -> list[int]:
        """The worker processes that have reported."""
        return [process["pid"] for process in json.loads(self.get("/livez")[1])["processes"]]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        status, body = self.get("/metrics")
        assert status == 200
        return sum(
            sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
