"""Print the direct dependencies in the oldest versions allowed, and what else the tests need, as pinned."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NOT_FOR_TESTS = {
    "asyncpg-stubs",
    "import-linter",
    "ruff",
    "types-jsonschema",
    "types-pyyaml",
}


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lock = (ROOT / "requirements-dev.lock").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==([^\s;]+)", lock, re.MULTILINE))
    oldest = [Requirement(text) for text in project["dependencies"] + extras["otel"] + extras["reload"]]
    oldest = [each for each in oldest if each.name not in ("session-client", "session-contracts")]
    for requirement in oldest:
        (version,) = (each.version for each in requirement.specifier if each.operator == ">=")
        condition = f"; {requirement.marker}" if requirement.marker else ""
        sys.stdout.write(f"{requirement.name}=={version}{condition}\n")
    tools = {Requirement(text).name for text in extras["dev"]}
    for name in sorted(tools - NOT_FOR_TESTS - {requirement.name for requirement in oldest}):
        sys.stdout.write(f"{name}=={pinned[name]}\n")


main()
