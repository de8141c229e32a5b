"""The rules between the parts that import-linter cannot say (its own are in ``pyproject.toml``), and what is
loaded for what: people and probes wait for nothing that they do not use."""

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

import session_client

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
    declared |= {each.partition(">")[0] for each in extras.get("reload", ())}
    # pydantic pins its core; typing_extensions is for type checkers alone, which bring its types along.
    own = {package, "pydantic_core", "typing_extensions", *sys.stdlib_module_names}
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


# ------------------------------------------------------------------------------- what is loaded for what

HEAVY = {"pydantic", "rich", "structlog", "asyncio", "aiormq", "aio_pika", "asyncpg", "uvloop", "tenacity"}
SERVING = {"aio_pika", "aiormq", "asyncpg", "uvloop", "pamqp"}


def loaded(program: str) -> set[str]:
    """The modules that are there when the program ends."""
    report = "import sys; sys.stdout = sys.__stdout__; print('\\n@' + ' '.join(sys.modules))"
    code = f"import atexit; atexit.register(lambda: exec({report!r})); {program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return set(done.stdout.rpartition("@")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["send", "--help"], ["ledger", "--help"]])
def test_help_loads_no_library_that_does_the_work(arguments: list[str]) -> None:
    found = loaded(f"import sys; sys.argv[1:] = {arguments!r}; from session_worker.cli import main; main()")
    assert "typer" in found
    assert not found & (HEAVY - {"pydantic"} if len(arguments) > 1 else HEAVY), "typer itself uses pydantic"


def test_a_supervisor_loads_nothing_that_serves_requests() -> None:
    """Its own memory and its start are all it adds to those of its processes."""
    found = loaded("import session_worker.runtime.supervisor, session_worker.settings")
    assert "session_worker.runtime.ops" in found
    assert not found & SERVING


def test_a_process_ignores_signals_before_it_loads_anything_large() -> None:
    found = loaded("import session_worker.cli.supervised_worker")
    assert not found & HEAVY


def test_how_servers_are_reached_is_loaded_without_the_client_that_uses_it() -> None:
    """A worker is no requester."""
    files = sorted((Path(session_client.__file__).parent / "net").glob("[!_]*.py"))
    found = loaded(f"import {', '.join(f'session_client.net.{file.stem}' for file in files)}")
    assert "session_client.net.brokers" in found
    assert "aio_pika" not in found
    assert not [each for each in found if re.fullmatch(r"session_client\.(?!net\b).*", each)]
