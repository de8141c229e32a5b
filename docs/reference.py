"""Writes the parts of the documentation that are made from the code, and the published schemas; ``--check``
only names what is outdated.

A page marks each part with ``<!-- made from the code: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from session_contracts import asyncapi
from session_contracts.amqp import Names
from session_contracts.errors import ERRORS
from session_contracts.sessions import BUILT_IN
from session_contracts.status import mermaid
from session_worker.broker.topology import Topology
from session_worker.cli.run import LONGEST_DEFAULT, default_text
from session_worker.settings import Settings
from session_worker.telemetry.events import EVENTS
from session_worker.telemetry.log import LINES
from session_worker.telemetry.metrics import METRICS
from session_worker.telemetry.traces import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parents[1]
_MAIN = ("amqp_url", "ledger_url", "app", "handler", "handler_timeout", "concurrency", "ops_port")
"""The settings that the README has; docs/settings.md has them all."""
_PART = re.compile(r"(<!-- made from the code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    """Every setting: variable, default, meaning."""
    return _settings(Settings.model_fields)


def main_settings_table() -> str:
    """The same of the most important ones."""
    return _settings(_MAIN)


def _settings(names: Iterable[str]) -> str:
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name in names:
        field = Settings.model_fields[name]
        default = default_text(field)
        shown = f"`{default}`" if len(default) <= LONGEST_DEFAULT else "[the usual names](#long-defaults)"
        lines.append(f"| `SESSION_WORKER_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


def long_defaults() -> str:
    """The defaults that do not fit into a table."""
    return "".join(
        f"Default of `SESSION_WORKER_{name.upper()}`:\n\n```\n{default_text(field)}\n```\n"
        for name, field in Settings.model_fields.items()
        if len(default_text(field)) > LONGEST_DEFAULT
    )


def secret_settings() -> str:
    """The settings that may hold a password."""
    secret = (SecretStr, SecretStr | None)
    names = [name for name, field in Settings.model_fields.items() if field.annotation in secret]
    return "".join(f"- `/run/secrets/session_worker_{name}`\n" for name in names)


def errors_table() -> str:
    """Every error code: what it means, who fixes it, and what else to know."""
    lines = [
        "| `error_code` | What it means | Fixed by | `retryable` | parked |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{code}` | {info.meaning} | {info.who_fixes} | {_yes(info.retryable)} | {_yes(info.parked)} |"
        for code, info in ERRORS.items()
    ]
    return "\n".join(lines) + "\n"


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def queues_table() -> str:
    """What the worker declares at the broker, with the settings' defaults."""
    topology = Topology.of(Names(), Settings.model_fields["retry_delays"].default)
    lines = ["| Queue | For |", "|---|---|"]
    lines += [f"| `{queue.name}` | {queue.purpose} |" for queue in topology.queues]
    return "\n".join(lines) + "\n"


def events_table() -> str:
    """Every event: its line in the log, its level, when it happens, and the line's fields."""
    lines = ["| Event | Line in the log | Level | When | Fields |", "|---|---|---|---|---|"]
    for event in EVENTS:
        level, text = LINES[event]
        names = (field.name for field in fields(event))  # type: ignore[arg-type]
        shown = ", ".join(f"`{'exception' if name == 'exc_info' else name}`" for name in names)
        when = " ".join((event.__doc__ or "").split())
        lines.append(f"| `{event.__name__}` | `{text}` | {level} | {when} | {shown} |")
    return "\n".join(lines) + "\n"


def metrics_table() -> str:
    """Every metric: its type, its labels, its meaning."""
    lines = ["| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} "
        f"| {metric.meaning} |"
        for metric in METRICS
    ]
    return "\n".join(lines) + "\n"


def spans_table() -> str:
    """Every attribute of the worker's spans."""
    lines = ["| Attribute | What it says |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in ATTRIBUTES.items()]
    return "\n".join(lines) + "\n"


def moves() -> str:
    """The diagram of a request's statuses."""
    return f"```mermaid\n{mermaid()}```\n"


def rooms() -> str:
    """Every room, from the top down: what it is for, and what it may import."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer.split(" | ") for layer in contracts[0]["layers"]]
    lines = ["| Room | What it holds | May import |", "|---|---|---|"]
    for depth, layer in enumerate(layers):
        below = "what stands below" if depth < len(layers) - 1 else "nothing of ours"
        for room in layer:
            name = _file(room).relative_to(ROOT)
            beside = [f", not `{_file(other).name}/`" for other in layer if other != room]
            may = "".join([below, *beside]) if depth < len(layers) - 1 else below
            lines.append(f"| [`{name}`]({name}) | {_first_line(_file(room))} | {may} |")
    return "\n".join(lines) + "\n"


def _file(room: str) -> Path:
    """The folder of a room, or its file if it is a module."""
    folder = ROOT / room.partition(".")[0].removeprefix("session_") / room.replace(".", "/")
    return folder if folder.is_dir() else folder.with_suffix(".py")


def _first_line(file: Path) -> str:
    text = ast.get_docstring(ast.parse((file / "__init__.py" if file.is_dir() else file).read_text()))
    if not text:
        sys.exit(f"{file} needs a docstring that says what it is for")
    return text.partition("\n")[0].replace("``", "`")


PARTS = {
    "rooms": rooms,
    "settings": settings_table,
    "main_settings": main_settings_table,
    "long_defaults": long_defaults,
    "secrets": secret_settings,
    "errors": errors_table,
    "queues": queues_table,
    "moves": moves,
    "events": events_table,
    "metrics": metrics_table,
    "spans": spans_table,
}


def pages() -> list[Path]:
    """The pages that have such parts."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def rendered(page: str) -> str:
    """A page's text with all its parts as the code has them now."""
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}{part[3]}", page)


def schemas() -> dict[Path, str]:
    """The published JSON Schemas, of the built-in operations' requests and responses."""
    found = {}
    for operation in BUILT_IN:
        found[operation.request_type] = asyncapi.schema(operation, "request")
        found[operation.response_type] = asyncapi.schema(operation, "response")
    folder = ROOT / "docs" / "schemas"
    return {
        folder / f"{name}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in found.items()
    }


def texts() -> dict[Path, str]:
    """All that is made from the code, as it should be now."""
    return {page: rendered(page.read_text()) for page in pages()} | schemas()


def outdated() -> Iterator[Path]:
    """The files that are not as the code has it."""
    return (path for path, text in texts().items() if not path.exists() or path.read_text() != text)


if __name__ == "__main__":
    pages_to_write = list(outdated())
    if sys.argv[1:] == ["--check"]:
        names = ", ".join(str(page.relative_to(ROOT)) for page in pages_to_write)
        sys.exit(f"run docs/reference.py to update {names}" if names else 0)
    current = texts()
    for path in pages_to_write:
        path.parent.mkdir(exist_ok=True)
        path.write_text(current[path])
