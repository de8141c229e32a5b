"""The container files agree with the settings, the package and each other.

Nothing is built or run here: that is what `make docker-test` does, where there is a Docker engine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from session_worker.cli import healthcheck
from session_worker.runtime.stopping import SHUTDOWN_SECONDS
from session_worker.runtime.supervisor import LAST_SECONDS
from session_worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FINAL_STAGE = DOCKERFILE.rpartition("FROM ")[2]
PREFIX = "SESSION_WORKER_"
MONITORING = ROOT / "monitoring"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROMETHEUS: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
DATASOURCES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "grafana" / "datasources.yml").read_text())[
    "datasources"
]
LISTENS = {"prometheus": 9090, "grafana": 3000, "jaeger": 16686, "rabbitmq": 5672, "postgresql": 5432}
"""The ports of each image's own documentation."""


def with_defaults(text: str) -> str:
    """`${NAME:-default}` as it is when NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def settings_of(service: str) -> dict[str, str]:
    given = SERVICES[service]["environment"].items()
    return {
        name.removeprefix(PREFIX).lower(): with_defaults(value)
        for name, value in given
        if name.startswith(PREFIX)
    }


def mounts(service: str) -> dict[str, Path]:
    """The project's files that a container sees, by the path at which it does."""
    files = (volume.split(":") for volume in SERVICES[service]["volumes"] if volume.startswith("./"))
    found = {}
    for file, place, mode in files:
        assert mode == "ro"
        found[place] = ROOT / file
    return found


def ops_port() -> int:
    found = re.search(r"^ENV SESSION_WORKER_OPS_PORT=(\d+)$", DOCKERFILE, re.MULTILINE)
    assert found
    return int(found[1])


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def test_every_setting_of_the_worker_exists_and_is_valid() -> None:
    assert set(settings_of("worker")) <= set(Settings.model_fields)
    assert Settings.model_validate(settings_of("worker")).migrate is True


def test_the_worker_logs_in_where_the_servers_let_it() -> None:
    """Users, passwords, host names, ports and the database are the same on both sides."""
    broker = {name: with_defaults(value) for name, value in SERVICES["rabbitmq"]["environment"].items()}
    database = {name: with_defaults(value) for name, value in SERVICES["postgresql"]["environment"].items()}
    assert database["SESSION_USER"] != database["POSTGRES_USER"], "the worker's role is a superuser"
    login = f"{broker['RABBITMQ_DEFAULT_USER']}:{broker['RABBITMQ_DEFAULT_PASS']}"
    assert settings_of("worker")["amqp_url"] == f"amqp://{login}@rabbitmq:5672/"
    login = f"{database['SESSION_USER']}:{database['SESSION_PASSWORD']}"
    assert settings_of("worker")["ledger_url"] == f"postgresql://{login}@postgresql:5432/session"
    made = (ROOT / "scripts" / "docker-database.sh").read_text()
    assert "CREATE DATABASE session OWNER" in made


def test_both_sides_take_the_same_variables() -> None:
    """Whoever sets a password sets it for the server and for the worker at once."""
    secret = r"\$\{((?:RABBITMQ|POSTGRES)_(?:USER|PASSWORD)):-"
    of_servers = re.findall(secret, str([SERVICES["rabbitmq"], SERVICES["postgresql"]]))
    assert sorted(of_servers) == sorted(re.findall(secret, str(SERVICES["worker"])))


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_names_its_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.match(r"v?\d+(\.\d+|-)", tag)


def test_the_workers_image_has_the_projects_version() -> None:
    assert SERVICES["worker"]["image"] == f"{PROJECT['project']['name']}:{PROJECT['project']['version']}"


def test_the_broker_is_rabbitmq_4_with_management() -> None:
    assert re.fullmatch(r"rabbitmq:4\.\d+-management(-alpine)?", SERVICES["rabbitmq"]["image"])


@pytest.mark.parametrize("name", ["rabbitmq", "postgresql"])
def test_servers_are_checked_and_keep_their_data(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    kept = {volume.partition(":")[0] for volume in service["volumes"] if not volume.startswith("./")}
    assert kept
    assert kept <= set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_those_of_the_image_and_open_to_this_machine_only(name: str) -> None:
    """The worker publishes none."""
    published = [with_defaults(port).split(":") for port in SERVICES[name].get("ports", [])]
    assert all(address == "127.0.0.1" and outside == inside for address, outside, inside in published)
    assert {int(port) for _, _, port in published} >= {LISTENS[name]} if published else name == "worker"


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_can_be_changed_and_every_log_is_bounded(name: str) -> None:
    """By a variable; a log that only grows fills the disk of who forgets it."""
    service = SERVICES[name]
    assert all(
        re.fullmatch(r"127\.0\.0\.1:\$\{\w+_PORT:-\d+\}:\d+", port) for port in service.get("ports", [])
    )
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


def test_passwords_are_the_demos_and_can_be_replaced() -> None:
    """Each is the default of a variable, on its own or in a URL."""
    given = {
        name: value for service in SERVICES.values() for name, value in service.get("environment", {}).items()
    }
    passwords = [value for name, value in given.items() if "PASS" in name]
    passwords += [login[1] for value in given.values() if (login := re.search(r"://[^@/]*}:([^@]*)@", value))]
    assert len(passwords) == 6
    assert all(re.fullmatch(r"\$\{\w+_PASSWORD:-session\}", value) for value in passwords)


def test_a_new_broker_container_finds_the_queues_of_the_old_one() -> None:
    """The node's name, and with it the name of its folder, comes from the host's name."""
    assert SERVICES["rabbitmq"]["hostname"] == "rabbitmq"


def test_the_worker_waits_until_both_servers_are_healthy() -> None:
    healthy = {"condition": "service_healthy"}
    assert SERVICES["worker"]["depends_on"] == {"rabbitmq": healthy, "postgresql": healthy}


def test_the_worker_has_time_to_finish_what_runs() -> None:
    """In the longest stop of a worker of several processes."""
    grace = Settings.model_validate(settings_of("worker")).shutdown_grace
    longest = grace + SHUTDOWN_SECONDS + LAST_SECONDS
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > longest


def test_nothing_runs_as_root_or_may_become_root() -> None:
    user = re.search(r"^USER (\d+):\1$", FINAL_STAGE, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    assert SERVICES["worker"]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICES["worker"]["security_opt"]
    assert not any(service.get("privileged") for service in SERVICES.values())


def test_both_stages_start_from_one_pinned_python_that_the_project_supports() -> None:
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 3
    assert images[1] == "dependencies"
    assert images[0] == images[2]
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
    project = PROJECT["project"]
    assert copied == {
        "contracts",
        "client",
        "worker",
        "pyproject.toml",
        "requirements.lock",
        "requirements-build.lock",
        project["readme"],
        *project["license-files"],
    }
    assert all((ROOT / name).exists() for name in copied)
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert kept == copied


def test_the_image_asks_for_its_health_by_a_module_of_ours() -> None:
    """At the port that the image opens unless it is told otherwise."""
    default = re.search(r"^ENV SESSION_WORKER_OPS_PORT=(\d+)$", FINAL_STAGE, re.MULTILINE)
    assert default is not None
    assert Settings.model_validate({"ops_port": default[1]}).ops_port
    assert f'CMD ["python", "-m", "{healthcheck.__name__}"]' in FINAL_STAGE


def test_no_container_leaves_a_volume_without_a_name() -> None:
    """A `VOLUME` of the image would be made anew for every container, and stay when it is gone."""
    assert "VOLUME" not in DOCKERFILE


def test_what_the_image_installs_is_known_by_its_digest() -> None:
    """All of it, the build's tools included, and the latter are what the project asks for."""
    for name in ("requirements.lock", "requirements-build.lock"):
        lines = (ROOT / name).read_text().replace("\\\n", "").splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert pins
        assert all(re.search(r"==\S+ .*--hash=sha256:", pin) for pin in pins)
    assert {re.split("[<>=]", one)[0] for one in PROJECT["build-system"]["requires"]} <= {
        pin.partition("==")[0] for pin in pins
    }


def test_only_what_watches_is_left_out_unless_asked_for() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    watching = ["prometheus", "grafana", "jaeger"]
    assert [name for name, profile in profiles.items() if profile] == watching
    assert all(profiles[name] == ["observability"] for name in watching)


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_every_mounted_file_is_there(name: str) -> None:
    assert all(path.is_file() for path in mounts(name).values())


def test_prometheus_finds_the_workers_their_port_and_the_alert_rules() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    (place,) = job["dns_sd_configs"]
    assert place["names"] == ["worker"]
    assert place["port"] == ops_port()
    assert settings_of("worker")["ops_host"] == "0.0.0.0"
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]
    assert mounts("prometheus") == {
        f"/etc/prometheus/{name}": MONITORING / name for name in ("prometheus.yml", "alerts.yml")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_whoever_follows_a_page_asks_the_workers_port_of_the_image(page: Path) -> None:
    """One port in all examples, so that what works beside a container works without one."""
    asked = re.findall(
        r":(\d+)/(?:livez|readyz|metrics)|SESSION_WORKER_OPS_PORT=(\d+)|`SESSION_WORKER_OPS_PORT` \((\d+)",
        page.read_text(),
    )
    assert {int("".join(port)) for port in asked} <= {ops_port()}
    assert asked or page.name != "operations.md"


def test_prometheus_reads_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: `make promtool` installs it (Debian's package prometheus)")
    done = subprocess.run(
        [promtool, "check", "config", MONITORING / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_has_its_sources_and_the_dashboard() -> None:
    """At the addresses of the other containers, in the folders that Grafana reads and that it is told of."""
    assert {source["url"] for source in DATASOURCES} == {
        f"http://{name}:{LISTENS[name]}" for name in ("prometheus", "jaeger")
    }
    assert [source["type"] for source in DATASOURCES if source.get("isDefault")] == ["prometheus"]
    (provider,) = yaml.safe_load((MONITORING / "grafana" / "dashboards.yml").read_text())["providers"]
    assert mounts("grafana") == {
        "/etc/grafana/provisioning/datasources/session-worker.yml": MONITORING
        / "grafana"
        / "datasources.yml",
        "/etc/grafana/provisioning/dashboards/session-worker.yml": MONITORING / "grafana" / "dashboards.yml",
        f"{provider['options']['path']}/session-worker.json": MONITORING / "dashboard.json",
    }


def test_traces_go_to_the_trace_ui_when_they_are_asked_for() -> None:
    """By OTLP over HTTP, with what the image has installed for them."""
    environment = SERVICES["worker"]["environment"]
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4318"
    assert environment["SESSION_WORKER_TRACES"] == "${TRACES:-off}"
    locking = (ROOT / "Makefile").read_text().replace("\\\n", "").splitlines()
    (of_image,) = [line for line in locking if "--output-file requirements.lock" in line]
    assert "--extra otel" in of_image


def test_the_page_names_the_command_and_the_addresses() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert "\nTRACES=on docker compose --profile observability up --build\n" in page
    for name in ("prometheus", "grafana", "jaeger"):
        assert f"http://localhost:{LISTENS[name]} " in page


def test_the_image_starts_a_command_that_the_package_installs() -> None:
    entry = re.search(r'^ENTRYPOINT \["(.+)"\]$', FINAL_STAGE, re.MULTILINE)
    assert entry is not None
    assert entry[1] in PROJECT["project"]["scripts"]
    assert 'CMD ["run"]' in FINAL_STAGE
