"""The rules between the parts that import-linter cannot say; its own are in ``pyproject.toml``."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = {
    "session_contracts": "contracts",
    "session_client": "client",
    "session_worker": "worker",
}
"""The folder of each package."""
OPTIONAL = {"session_client": {"opentelemetry"}, "session_worker": set[str]()}
"""What a package imports only where somebody else has installed it."""
SETTLING = {"ack", "nack", "reject", "requeue", "basic_ack", "basic_nack", "basic_reject"}


def _modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / DISTRIBUTIONS[package] / package).rglob("*.py")):
        yield str(path.relative_to(ROOT / DISTRIBUTIONS[package] / package)), ast.parse(path.read_text())


def _project(package: str) -> dict[str, object]:
    folder = ROOT if package == "session_worker" else ROOT / DISTRIBUTIONS[package]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert isinstance(project, dict)
    return project


def _imported(module: ast.Module) -> set[str]:
    """The first part of the name of whatever is imported."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_every_library_that_a_distribution_imports_is_declared(package: str) -> None:
    """What comes along with another library may leave with its next release."""
    project = _project(package)
    extras = project.get("optional-dependencies", {})
    dependencies = project["dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(extras, dict)
    declared = {re.split("[^a-z-]", each)[0].replace("-", "_") for each in dependencies}
    # Traces are an extra; their libraries are parts of one package.
    declared |= {each.partition("-")[0] for each in extras.get("otel", ())}
    own = {package, "pydantic_core", *sys.stdlib_module_names}  # pydantic pins its core
    imported = set().union(*(_imported(module) for _, module in _modules(package)))
    assert imported - own - OPTIONAL.get(package, set()) == declared


def test_the_three_distributions_have_one_version_and_ask_for_each_other_in_it() -> None:
    versions = {str(_project(package)["version"]) for package in DISTRIBUTIONS}
    assert len(versions) == 1
    (version,) = versions
    pins = {
        (package, each)
        for package in DISTRIBUTIONS
        for each in _project(package)["dependencies"]  # type: ignore[attr-defined]
        if each.startswith("session-")
    }
    assert pins == {
        ("session_client", f"session-contracts=={version}"),
        ("session_worker", f"session-contracts=={version}"),
        ("session_worker", f"session-client=={version}"),
    }


def test_every_room_has_its_place_in_the_layers() -> None:
    """import-linter says nothing about a room that nobody has listed."""
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0][
        "layers"
    ]
    listed = {room for layer in layers for room in layer.split(" | ")}
    rooms = {
        f"session_worker.{path.stem}"
        for path in (ROOT / "worker" / "session_worker").iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
    }
    assert listed == rooms | {"session_client", "session_contracts"}


@cache
def _files() -> dict[str, set[str]]:
    """The modules that each file of ours imports, by the dotted names of both, imports for types included."""
    trees = {
        f"{package}/{path}".removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree
        for package in DISTRIBUTIONS
        for path, tree in _modules(package)
    }
    found: dict[str, set[str]] = {}
    for name, tree in trees.items():
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= parts if parts <= trees.keys() else {node.module or "", *parts}
        found[name] = (imported & trees.keys()) - {name}
    return found


def _circles(imports: dict[str, set[str]]) -> set[frozenset[str]]:
    left = {name: set(imported) for name, imported in imports.items()}
    found = set()
    while True:
        try:
            tuple(TopologicalSorter(left).static_order())
        except CycleError as error:
            circle = error.args[1]
            found.add(frozenset(circle))
            left[circle[1]].discard(circle[0])
        else:
            return found


def test_no_two_files_import_each_other_be_it_by_way_of_others_or_for_types_only() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == {frozenset("abc")}
    assert all(_files()[package] for package in DISTRIBUTIONS), "the imports are not found"
    assert _circles(_files()) == set()


def test_an_import_against_the_layers_is_found(tmp_path: Path) -> None:
    """In a copy of the packages, with the rules as they are: they must be able to fail."""
    pytest.importorskip("importlinter", reason="import-linter is not installed in this environment")
    for package, folder in DISTRIBUTIONS.items():
        shutil.copytree(ROOT / folder / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def checked() -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-c",
            "from importlinter import cli; cli.lint_imports_command()",
            "--no-cache",
        ]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert checked().returncode == 0
    with (tmp_path / "session_worker" / "broker" / "topology.py").open("a") as file:
        file.write("from session_worker.requests import settle\n")
    broken = checked()
    assert broken.returncode != 0
    assert "session_worker.broker.topology -> session_worker.requests.settle" in broken.stdout


def test_only_settle_acknowledges_requests() -> None:
    """``consumer.py`` has what a receipt calls, and an operator drops letters from the parking lot."""
    found = {
        path
        for path, module in _modules("session_worker")
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SETTLING
    }
    assert found == {"requests/settle.py", "broker/consumer.py", "operators/dead_letters/parking_lot.py"}
