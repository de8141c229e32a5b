"""The rules between the parts that import-linter cannot say; its own are in ``pyproject.toml``."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTLING = {"ack", "nack", "reject", "requeue", "basic_ack", "basic_nack", "basic_reject"}


def _modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def _imported(module: ast.Module) -> set[str]:
    """The first part of the name of whatever is imported."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_contracts_import_pydantic_and_the_standard_library_only() -> None:
    """So that a requester needs nothing else to use them."""
    allowed = {"contracts", "pydantic", "pydantic_core", *sys.stdlib_module_names}
    foreign = {path: _imported(module) - allowed for path, module in _modules("contracts")}
    assert len(foreign) > 5
    assert not any(foreign.values()), foreign


def test_every_library_that_is_imported_is_declared() -> None:
    """What comes along with another library may leave with its next release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split("[^a-z-]", each)[0].replace("-", "_") for each in project["dependencies"]}
    # Traces are an extra; their libraries are parts of one package.
    declared |= {each.partition("-")[0] for each in project["optional-dependencies"]["otel"]}
    own = {
        "contracts",
        "client",
        "worker",
        "pydantic_core",
        *sys.stdlib_module_names,
    }  # pydantic pins its core
    imported = set().union(
        *(_imported(module) for name in ("contracts", "client", "worker") for _, module in _modules(name))
    )
    assert imported - own == declared


def test_client_never_imports_the_worker_not_even_for_types() -> None:
    """import-linter looks only at what is imported when the program runs."""
    importing = [path for path, module in _modules("client") if "worker" in _imported(module)]
    assert importing == []


def test_only_settle_acknowledges_requests() -> None:
    """``consumer.py`` has what a receipt calls, and an operator drops letters from the parking lot."""
    found = {
        path
        for path, module in _modules("worker")
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SETTLING
    }
    assert found == {"worker/settle.py", "worker/consumer.py", "worker/dead/lot.py"}
