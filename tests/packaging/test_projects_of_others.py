"""A project may have its own ``client``, ``worker`` and ``contracts``: none of our packages has such a name.

Everything runs from the project's folder, with the libraries as a user has them: from the wheels.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from session_worker.sandbox.workspace import free_port
from tests.packaging.conftest import ROOT, clean, done
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.worker_process import WorkerProcess

CONTRACTS = 'REGION = "eu-1"\n'
CLIENT = 'USER = "ada@example.com"\n'
WORKER = """
import contracts

async def handle(request, context):
    return {"region": contracts.REGION, "handler": __file__}
"""
APP = """
import asyncio
import json
import os

import client
import contracts
import worker
from session_client import SessionClient
import session_client, session_contracts, session_worker


async def one_request():
    async with SessionClient(os.environ["SESSION_WORKER_AMQP_URL"]) as requester:
        response = await requester.create_session(user_id=client.USER, title="Search of the east wing")
    own = [client, contracts, worker]
    installed = [session_client, session_contracts, session_worker]
    return {
        "status": response.status.value,
        "metadata": response.metadata,
        "own": [module.__file__ for module in own],
        "installed": [module.__file__ for module in installed],
    }


async def app(scope, receive, send):
    body = json.dumps(await one_request()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    print(json.dumps(asyncio.run(one_request())))
"""
UVICORN = """#!{python}
import sys
from uvicorn.main import main
sys.exit(main())
"""
"""As pip writes it."""


@pytest.fixture(params=["contracts.py", "contracts/__init__.py"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with modules of these names; its contracts are a module or a package."""
    folder = tmp_path / "project"
    for name, text in {
        "app.py": APP,
        "client.py": CLIENT,
        "worker.py": WORKER,
        request.param: CONTRACTS,
    }.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


def by_uvicorn(python: Path, folder: Path, env: dict[str, str]) -> str:
    """What the application answers when `uvicorn app:app` serves it."""
    program = python.with_name("uvicorn")
    program.write_text(UVICORN.format(python=python))
    program.chmod(0o755)
    port = free_port()
    command = [str(program), "app:app", "--port", str(port), "--lifespan", "off", "--log-level", "warning"]
    with subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL) as serving:

        def answer() -> str | None:
            assert serving.poll() is None, "uvicorn has ended"
            try:
                with urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
                    return str(response.read(), "utf-8")
            except ConnectionRefusedError:
                return None
            except OSError as error:
                if isinstance(getattr(error, "reason", None), ConnectionRefusedError):
                    return None
                raise

        try:
            return str(soon(answer, 30.0))
        finally:
            serving.terminate()


def test_a_project_with_these_names_requests_sessions_and_runs_a_handler(
    project: Path,
    python: Path,
    amqp_url: str,
    sqlite_url: str,
    worker_process: Callable[..., WorkerProcess],
) -> None:
    """By `session-worker run`, `python app.py`, `python -m app` and `uvicorn app:app`, from its folder."""
    worker_process(
        command=[python.with_name("session-worker"), "run", "--handler", "worker:handle"],
        folder=project,
        amqp_url=amqp_url,
        ledger_url=sqlite_url,
    )
    env = clean(SESSION_WORKER_AMQP_URL=amqp_url)
    answers = [
        done(python, "app.py", cwd=project, env=env),
        done(python, "-m", "app", cwd=project, env=env),
        by_uvicorn(python, project, env),
    ]
    for answer in map(json.loads, answers):
        assert answer["status"] == "completed"
        assert answer["metadata"]["region"] == "eu-1"
        assert answer["metadata"]["handler"] == str(project / "worker.py")
        assert all(Path(file).is_relative_to(project) for file in answer["own"])
        assert all(Path(file).is_relative_to(python.parents[1]) for file in answer["installed"])


def test_the_environment_does_not_find_the_code_of_this_repository(python: Path, tmp_path: Path) -> None:
    """Or the tests here would prove nothing about the wheels."""
    paths = json.loads(done(python, "-c", "import sys, json; print(json.dumps(sys.path))", cwd=tmp_path))
    assert {str(ROOT / name) for name in ("worker", "client", "contracts", ".")}.isdisjoint(paths)
    assert str(ROOT / "worker") in sys.path
