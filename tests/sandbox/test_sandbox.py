"""Private servers: what they offer, that they keep to themselves, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pika
import pika.exceptions
import pytest

from session_worker.sandbox.workspace import Workspace, find, free_port
from tests.support.servers import PostgreSQL, SandboxError
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import RabbitMQ

# Starts a server, tells its folder, and ends as the test says.
SCRIPT = """
import sys, time
from tests.support import servers
with getattr(servers, sys.argv[2])() as server:
    print(server.folder, flush=True)
    if sys.argv[1] == "raise":
        raise RuntimeError("as asked")
    if sys.argv[1] == "wait":
        print("waiting", flush=True)
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with PostgreSQL() as database:
        yield database


def processes_of(folder: Path) -> dict[int, str]:
    """The processes that run in a folder, or were started with it or with a port mapper of it."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            traces = [
                str((process / "cwd").readlink()),
                (process / "cmdline").read_text(),
                (process / "environ").read_text(),
            ]
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, UnicodeDecodeError):
            continue
        if state != "Z" and any(str(folder) in trace for trace in traces):
            found[int(process.name)] = traces[1]
    return found


def command_lines() -> list[str]:
    """Of every process on the machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace"))
    return found


def blocking(url: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(url))


def start(how: str, server: str) -> tuple[subprocess.Popen[str], Path]:
    """Run the script; the process and the folder of its server."""
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how, server],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert script.stdout is not None
    folder = Path(script.stdout.readline().strip())
    if how == "wait":
        assert script.stdout.readline().strip() == "waiting"
        assert folder.is_dir()
        assert processes_of(folder)
    return script, folder


@pytest.mark.parametrize(
    ("server", "how", "number", "code"),
    [
        ("RabbitMQ", "wait", signal.SIGINT, -signal.SIGINT),
        ("RabbitMQ", "wait", signal.SIGKILL, -signal.SIGKILL),
        ("PostgreSQL", "return", None, 0),
        ("PostgreSQL", "raise", None, 1),
        ("PostgreSQL", "wait", signal.SIGINT, -signal.SIGINT),
        ("PostgreSQL", "wait", signal.SIGTERM, -signal.SIGTERM),
        ("PostgreSQL", "wait", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_no_process_and_no_folder_is_left_however_the_parent_ends(
    server: str, how: str, number: signal.Signals | None, code: int
) -> None:
    script, folder = start(how, server)
    if number is not None:
        script.send_signal(number)
    with script:
        assert script.wait(60) == code
    soon(lambda: not folder.exists())
    soon(lambda: not processes_of(folder))


def test_a_process_that_could_not_be_noted_does_not_begin() -> None:
    """An interrupt, or a SIGKILL, may come between the two."""
    script = """
import os, pathlib, signal
from session_worker.sandbox.workspace import Workspace
workspace = Workspace("stray", "rabbitmq")
print(workspace.folder, flush=True)
pathlib.Path.touch = lambda _: os.kill(os.getpid(), signal.SIGKILL)
workspace.start("/bin/sleep", "600")
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    folder = Path(done.stdout.strip())
    soon(lambda: not folder.exists() and not processes_of(folder))


def test_a_server_is_no_part_of_the_terminals_process_group(node: RabbitMQ, database: PostgreSQL) -> None:
    """Ctrl-C goes to the whole group: it must reach us, not the servers."""
    assert os.getpgid(node.pid) != os.getpgrp() != os.getpgid(database.pid)


def test_two_nodes_run_side_by_side(node: RabbitMQ, managed_node: RabbitMQ) -> None:
    with blocking(managed_node.vhost("only here")), blocking(node.url):
        pass
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        blocking(node.vhost_url("only here"))
    managed_node.delete_vhost("only here")


def test_the_standard_ports_are_left_alone(managed_node: RabbitMQ, database: PostgreSQL) -> None:
    """Whatever listens on them already, the private servers use others, all on the loopback interface."""
    for server in (managed_node, database):
        listening = set().union(*map(listening_addresses, processes_of(server.folder)))
        assert listening
        assert {host for host, _ in listening} <= {"127.0.0.1", "::1"}
        assert not {port for _, port in listening} & {4369, 5432, 5672, 15672, 25672}


def test_the_broker_lets_nobody_in_who_does_not_know_its_password(managed_node: RabbitMQ) -> None:
    """Neither as the user that every new broker has, nor as ours; by AMQP and by the management interface."""
    name = pika.URLParameters(managed_node.url).credentials.username
    for user in ("guest", name):
        for password in ("guest", name, ""):
            with pytest.raises(pika.exceptions.AMQPConnectionError, match="ACCESS_REFUSED"):
                blocking(managed_node.url.replace(f"{name}:{managed_node.password}", f"{user}:{password}"))
            login = base64.b64encode(f"{user}:{password}".encode()).decode()
            asked = urllib.request.Request(
                f"{managed_node.management_url}/api/whoami", headers={"Authorization": f"Basic {login}"}
            )
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                urllib.request.urlopen(asked, timeout=10)
            refused.value.close()


@pytest.mark.parametrize("password", ["", ":postgres"])
async def test_the_database_lets_nobody_in_who_does_not_know_its_password(
    database: PostgreSQL, password: str
) -> None:
    """By address and by socket."""
    login = f"postgresql://postgres{password}@"
    for place in (f"127.0.0.1:{database.port}/postgres", f"/postgres?host={database.folder}/data/run"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(f"{login}{place}", port=database.port)


def test_no_command_line_shows_a_password(managed_node: RabbitMQ, database: PostgreSQL) -> None:
    """Every user of the machine can read the command line of every process."""
    others = "FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(database.execute, "SELECT pg_sleep(600)")
        soon(lambda: database.execute(f"SELECT count(*) {others}").strip() == "1")
        lines = command_lines()
        database.execute(f"SELECT pg_cancel_backend(pid) {others}")
        with pytest.raises(SandboxError, match="cancel"):
            running.result()
    assert any("pg_sleep(600)" in line for line in lines)
    assert not [line for line in lines if managed_node.password in line or database.password in line]


def test_no_other_user_can_read_what_a_server_has_on_disk(
    managed_node: RabbitMQ, database: PostgreSQL
) -> None:
    """The folder's only content beside the names of processes is a folder that nobody else may enter."""
    for server in (managed_node, database):
        assert stat.S_IMODE(server.folder.stat().st_mode) == 0o711
        for path in server.folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700 if path.is_dir() else not path.stat().st_size


def test_a_vhost_is_there_at_once_and_gone_after(node: RabbitMQ) -> None:
    url = node.vhost("a b/é%")
    with blocking(url) as connection:
        connection.channel().queue_declare("q")
    node.delete_vhost("a b/é%")
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        blocking(url)


def test_depths_count_ready_and_unacknowledged_messages(node: RabbitMQ) -> None:
    with blocking(node.vhost("depths")) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        quorum = {"x-queue-type": "quorum"}
        channel.queue_declare("classic ,{}", durable=True)
        channel.queue_declare("quorum", durable=True, arguments=quorum)
        for queue in ("classic ,{}", "quorum", "quorum"):
            channel.basic_publish("", queue, b"x")
        channel.basic_get("quorum")
        assert node.queue_depths("depths") == {"classic ,{}": 1, "quorum": 2}
        node.delete_queue("depths", "quorum")
        assert node.queue_depths("depths") == {"classic ,{}": 1}
    node.delete_vhost("depths")


def test_connections_are_counted_and_closed_by_vhost(node: RabbitMQ) -> None:
    with blocking(node.vhost("mine")) as mine, blocking(node.vhost("yours")) as yours:
        assert (node.connections("mine"), node.connections()) == (1, 2)
        assert node.close_connections("mine") == 1
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker):
            mine.process_data_events(time_limit=10)
        assert yours.channel().is_open
    node.delete_vhost("mine")
    node.delete_vhost("yours")


def test_an_alarm_blocks_publishers_until_it_is_cleared(node: RabbitMQ) -> None:
    news: list[str] = []
    with blocking(node.url) as connection:
        connection.add_on_connection_blocked_callback(lambda *_: news.append("blocked"))
        connection.add_on_connection_unblocked_callback(lambda *_: news.append("unblocked"))
        channel = connection.channel()

        def told() -> bool:
            # Who published before the alarm reached its connection is told at the next message.
            channel.basic_publish("", "nowhere", b"x")
            connection.process_data_events(time_limit=0)
            return news == ["blocked"]

        node.set_alarm(True)
        try:
            soon(told)
        finally:
            node.set_alarm(False)
        soon(lambda: connection.process_data_events(time_limit=0) or news == ["blocked", "unblocked"])


def test_a_user_may_do_what_the_permissions_say(node: RabbitMQ) -> None:
    url = node.add_user("reader", "se cret", "/", configure="^mine$")
    with blocking(url) as connection:
        connection.channel().queue_declare("mine")
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            connection.channel().queue_declare("yours")


def test_messages_survive_a_restart_and_a_kill(node: RabbitMQ) -> None:
    with blocking(node.vhost("durable")) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish("", "q", b"x", pika.BasicProperties(delivery_mode=2))
    url = node.url
    node.restart()
    node.kill()
    with pytest.raises(SandboxError, match="not running"):
        node.vhost("another")
    node.start()
    assert node.url == url
    soon(lambda: node.queue_depths("durable") == {"q": 1})
    node.delete_vhost("durable")


def test_the_broker_stops_and_starts_inside_the_node(node: RabbitMQ) -> None:
    pid = node.pid
    node.stop_app()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        blocking(node.url)
    node.start_app()
    with blocking(node.url):
        assert node.pid == pid


def test_a_command_that_fails_says_so_and_the_next_one_works(node: RabbitMQ) -> None:
    with pytest.raises(SandboxError, match="failed at a command"):
        node.eval("no_such_module:call()")
    with pytest.raises(SandboxError, match="failed at a command"):
        node.eval("this is not Erlang")
    assert node.eval("1 + 1") == "2"


def test_the_database_keeps_its_rows_over_a_restart_and_a_kill(database: PostgreSQL) -> None:
    database.createdb("first")
    database.execute("CREATE TABLE t AS SELECT 1 AS n", "first")
    database.restart()
    database.kill()
    database.start()
    assert database.execute("SELECT n FROM t", "first").split() == ["1"]
    database.createdb("second", template="first")
    assert database.execute("SELECT n FROM t", "second").split() == ["1"]


def test_a_database_that_is_killed_answers_nothing_more(database: PostgreSQL) -> None:
    """Not even what it has begun: a test that kills it knows what was committed."""

    async def ask_and_kill() -> None:
        connection = await asyncpg.connect(database.url)
        asked = asyncio.create_task(connection.fetchval("SELECT count(*) FROM generate_series(1, 10000000)"))
        await asyncio.sleep(0.2)
        assert not asked.done()
        await asyncio.to_thread(database.kill)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await asked
        connection.terminate()

    asyncio.run(ask_and_kill())
    database.start()


def test_a_database_is_dropped_whoever_is_connected(database: PostgreSQL) -> None:
    async def drop_while_connected(url: str) -> None:
        connection = await asyncpg.connect(url)
        database.dropdb("busy")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.execute("SELECT 1")
        connection.terminate()

    asyncio.run(drop_while_connected(database.createdb("busy")))
    with pytest.raises(SandboxError, match="does not exist"):
        database.execute("SELECT 1", "busy")


@pytest.mark.parametrize("durable", [True, False])
def test_fsync_is_on_unless_durability_is_waived(durable: bool) -> None:
    with PostgreSQL(durable=durable) as server:
        assert server.execute("SHOW fsync").strip() == ("on" if durable else "off")


def test_a_taken_port_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        server = PostgreSQL(durable=False)
        server.port = taken.getsockname()[1]
        with server:
            assert server.port != taken.getsockname()[1]
            assert server.execute("SELECT 1").strip() == "1"


def test_a_server_that_is_not_installed_is_named_with_what_to_type() -> None:
    with pytest.raises(SandboxError, match="apt-get install rabbitmq-server"):
        find("no-such-program", "rabbitmq-server", "usr/lib/nothing/*/here")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_as_root_a_missing_user_is_named_and_leaves_no_folder() -> None:
    before = set(Path(tempfile.gettempdir()).glob("session-worker-nothing-*"))
    with pytest.raises(SandboxError, match="no-such-user"):
        Workspace("nothing", "no-such-user")
    assert set(Path(tempfile.gettempdir()).glob("session-worker-nothing-*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_as_root_the_servers_run_as_their_own_users(node: RabbitMQ, database: PostgreSQL) -> None:
    assert {Path(f"/proc/{server.pid}").owner() for server in (node, database)} == {"rabbitmq", "postgres"}


def listening_addresses(pid: int) -> set[tuple[str, int]]:
    """Addresses of the TCP sockets, IPv4 and IPv6, on which a process listens."""
    names = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    found = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in names:
                host, port = fields[1].split(":")
                words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found
