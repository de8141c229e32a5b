"""The container files agree with the settings and the package. Nothing is built or run here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker import ops
from worker.health import Board
from worker.sandbox.workspace import free_port
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FINAL_STAGE = DOCKERFILE.rpartition("FROM ")[2]
PREFIX = "SESSION_WORKER_"


def with_defaults(text: str) -> str:
    """`${NAME:-default}` as it is when NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def settings_of(service: str) -> dict[str, str]:
    given = SERVICES[service]["environment"].items()
    return {name.removeprefix(PREFIX).lower(): with_defaults(value) for name, value in given}


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def test_every_setting_of_the_worker_exists_and_is_valid() -> None:
    given = SERVICES["worker"]["environment"]
    assert all(name.startswith(PREFIX) for name in given)
    assert set(settings_of("worker")) <= set(Settings.model_fields)
    assert Settings.model_validate(settings_of("worker")).migrate is True


def test_the_worker_logs_in_where_the_servers_let_it() -> None:
    """Users, passwords, host names, ports and the database are the same on both sides."""
    broker = {name: with_defaults(value) for name, value in SERVICES["rabbitmq"]["environment"].items()}
    database = {name: with_defaults(value) for name, value in SERVICES["postgresql"]["environment"].items()}
    login = f"{broker['RABBITMQ_DEFAULT_USER']}:{broker['RABBITMQ_DEFAULT_PASS']}"
    assert settings_of("worker")["amqp_url"] == f"amqp://{login}@rabbitmq:5672/"
    login = f"{database['POSTGRES_USER']}:{database['POSTGRES_PASSWORD']}"
    assert (
        settings_of("worker")["ledger_url"]
        == f"postgresql://{login}@postgresql:5432/{database['POSTGRES_DB']}"
    )


def test_both_sides_take_the_same_variables() -> None:
    """Whoever sets a password sets it for the server and for the worker at once."""
    of_servers = re.findall(r"\$\{(\w+):-", str([SERVICES["rabbitmq"], SERVICES["postgresql"]]))
    assert sorted(of_servers) == sorted(re.findall(r"\$\{(\w+):-", str(SERVICES["worker"])))


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_names_its_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.match(r"\d", tag)


def test_the_workers_image_has_the_projects_version() -> None:
    assert SERVICES["worker"]["image"] == f"{PROJECT['project']['name']}:{PROJECT['project']['version']}"


def test_the_broker_is_rabbitmq_4_with_management() -> None:
    assert re.fullmatch(r"rabbitmq:4\.\d+-management(-alpine)?", SERVICES["rabbitmq"]["image"])


@pytest.mark.parametrize("name", ["rabbitmq", "postgresql"])
def test_servers_are_checked_keep_their_data_and_serve_this_machine_only(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert {volume.partition(":")[0] for volume in service["volumes"]} <= set(COMPOSE["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_a_new_broker_container_finds_the_queues_of_the_old_one() -> None:
    """The node's name, and with it the name of its folder, comes from the host's name."""
    assert SERVICES["rabbitmq"]["hostname"] == "rabbitmq"


def test_the_worker_waits_until_both_servers_are_healthy() -> None:
    healthy = {"condition": "service_healthy"}
    assert SERVICES["worker"]["depends_on"] == {"rabbitmq": healthy, "postgresql": healthy}


def test_the_worker_has_time_to_finish_what_runs() -> None:
    grace = Settings.model_validate(settings_of("worker")).shutdown_grace
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= grace + 10


def test_nothing_runs_as_root_or_may_become_root() -> None:
    user = re.search(r"^USER (\d+)$", FINAL_STAGE, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    assert SERVICES["worker"]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICES["worker"]["security_opt"]
    assert not any(service.get("privileged") for service in SERVICES.values())


def test_both_stages_start_from_one_pinned_python_that_the_project_supports() -> None:
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 2
    assert len(set(images)) == 1
    version = re.fullmatch(r"python:3\.(\d+)-slim-\w+", images[0])
    assert version is not None
    assert int(version[1]) >= int(PROJECT["project"]["requires-python"].removeprefix(">=3."))


def test_the_image_gets_every_package_and_file_that_the_build_needs() -> None:
    """What is copied is what is packaged, it exists, and it is not kept out by .dockerignore."""
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    packages = {
        pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    project = PROJECT["project"]
    assert copied == packages | {
        "pyproject.toml",
        "requirements.lock",
        project["readme"],
        *project["license-files"],
    }
    assert all((ROOT / name).exists() for name in copied)
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert kept == copied


def test_the_images_health_is_asked_at_its_ops_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of the check itself: it fails unless the worker is alive."""
    default = re.search(r"^ENV SESSION_WORKER_OPS_PORT=(\d+)$", FINAL_STAGE, re.MULTILINE)
    assert default is not None
    assert Settings.model_validate({"ops_port": default[1]}).ops_port
    check = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", FINAL_STAGE, re.MULTILINE | re.DOTALL)
    assert check is not None
    _, *arguments = json.loads(check[1].replace("\\\n", ""))
    port = free_port()
    monkeypatch.setenv("SESSION_WORKER_OPS_PORT", str(port))

    def is_healthy() -> bool:
        return subprocess.run([sys.executable, *arguments], capture_output=True, check=False).returncode == 0

    with ops.serving("127.0.0.1", port, Board(1)):
        assert is_healthy()
    assert not is_healthy()


def test_the_image_starts_a_command_that_the_package_installs() -> None:
    entry = re.search(r'^ENTRYPOINT \["(.+)"\]$', FINAL_STAGE, re.MULTILINE)
    assert entry is not None
    assert entry[1] in PROJECT["project"]["scripts"]
    assert 'CMD ["run"]' in FINAL_STAGE
