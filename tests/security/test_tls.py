"""TLS to the broker and to the database, by a private authority."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from session_client import ConnectionFailed, SessionClient
from session_worker.ledger import open_reader
from session_worker.ledger.protocol import LedgerError
from tests.security.conftest import VHOST, Authority
from tests.support.lab import Lab, send
from tests.support.servers import PostgreSQL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.conftest import Cli
    from tests.security.conftest import Secured

USER = "ada@example.com"


@pytest.fixture
def lab(secured: Secured, sqlite_url: str, tmp_path: Path) -> Iterator[Lab]:
    """The page's vhost; what its workers are given is up to the test."""
    secured.broker.vhost(VHOST)
    with closing(Lab(secured.broker, VHOST, sqlite_url, tmp_path)) as lab:
        yield lab
    with lab.requester() as requester:
        requester.channel.queue_delete("session.create.ledger")  # the next test has another one


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path / "stranger")


def tls_url(secured: Secured, query: str, host: str = "localhost") -> str:
    """With a password that has to be decoded."""
    password = secured.broker.password
    encoded = f"%{ord(password[0]):02x}{password[1:]}"
    return f"{secured.broker.tls_url(VHOST, host)}?{query}".replace(f":{password}@", f":{encoded}@")


def lock(key: Path, locked: Path) -> Path:
    """The same key with a password."""
    loaded = load_pem_private_key(key.read_bytes(), None)
    text = loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    locked.write_bytes(text)
    return locked


def refusals(secured: Secured, stranger: Authority, folder: Path) -> dict[str, str]:
    """URLs that cannot be used, and the words that say why."""
    here, there = secured.authority.folder, stranger.folder
    ca = f"cafile={here}/ca.pem"
    cert = f"certfile={here}/client.pem"
    own = f"{cert}&keyfile={here}/client.key"
    foreign = f"certfile={there}/client.pem&keyfile={there}/client.key"
    locked = lock(here / "client.key", folder / "locked.key")
    untrusted = "from an authority that is not trusted here"
    no_client = "client certificate? Name one that it trusts in the URL: ?certfile="
    wrong = {
        own: untrusted,
        f"cafile={there}/ca.pem&{own}": untrusted,
        ca: no_client,
        f"{ca}&{foreign}": no_client,
        f"cafile=/nowhere/ca.pem&{own}": "cafile /nowhere/ca.pem in the broker's URL cannot be read",
        f"cafile={here}/client.key&{own}": "must be a file of certificates",
        f"{ca}&{cert}&keyfile=/nowhere": "keyfile /nowhere in the broker's URL cannot be read",
        f"{ca}&{cert}&keyfile={locked}": "the key is encrypted; store it without password",
        f"{ca}&certfile={here}/ca.pem": "must be a certificate and its key",
        f"{ca}&{own}&no_verify_ssl=false": "no_verify_ssl in the broker's URL must be 1",
    }
    plain = secured.broker.vhost_url(VHOST).replace("amqp:", "amqps:")
    return {tls_url(secured, query): said for query, said in wrong.items()} | {
        tls_url(secured, f"{ca}&{own}", "127.0.0.1"): "is for another host",
        f"{plain}?{ca}&{own}": "does not speak TLS",
    }


async def test_worker_client_and_commands_work_by_the_private_authority(
    lab: Lab, secured: Secured, cli: Cli
) -> None:
    url = tls_url(secured, secured.authority.query)
    lab.worker(amqp_url=url)
    async with SessionClient(url) as client:
        assert (await client.create_session(user_id=USER)).status == "completed"
    assert cli("send", "--user", USER, amqp_url=url).code == 0
    assert cli("topology", "check", amqp_url=url, retry_delays="1").code == 0


async def test_a_broker_or_file_that_cannot_be_trusted_or_used_is_one_sentence(
    lab: Lab, secured: Secured, stranger: Authority, tmp_path: Path
) -> None:
    """By worker and client in the same words, in time, without a traceback and without the password."""
    wrong = refusals(secured, stranger, tmp_path)
    workers = {url: lab.worker(wait=False, amqp_url=url) for url in wrong}
    for url, said in wrong.items():
        with pytest.raises(ConnectionFailed) as refused:
            await SessionClient(url).open()
        assert said in str(refused.value)
        assert "g%75est" not in str(refused.value)
    for url, said in wrong.items():
        assert workers[url].wait() != 0
        assert said in workers[url].output[-1]
        output = "".join(workers[url].output)
        assert "Traceback" not in output
        assert "g%75est" not in output


async def test_a_certificate_that_nobody_verifies_is_taken(lab: Lab, secured: Secured) -> None:
    own = secured.authority.query.split("&", 1)[1]
    async with SessionClient(tls_url(secured, f"{own}&no_verify_ssl=1", "127.0.0.1")):
        pass


async def test_an_expired_certificate_is_refused_and_waited_for_where_the_worker_runs_already(
    lab: Lab, secured: Secured
) -> None:
    """Renewed, it is taken without a restart: the worker's own file too."""
    url = tls_url(secured, secured.authority.query)
    running = lab.worker(amqp_url=url)
    now = datetime.now(UTC)
    validity = {"not_before": now - timedelta(days=2), "not_after": now - timedelta(days=1)}
    try:
        secured.broker.set_certificate(secured.authority.certificate("localhost", **validity))
        lab.drop_connections()
        for count in (1, 2):
            said = running.wait_for("no link to the broker", count=count)
            assert "has expired; have it renewed" in said["reason"]
        starting = lab.worker(wait=False, amqp_url=url)
        assert starting.wait() != 0
        assert "has expired; have it renewed" in starting.output[-1]
    finally:
        secured.broker.set_certificate(secured.authority.certificate("localhost"))
    running.wait_for("worker up", count=2)
    async with SessionClient(url) as client:
        assert (await client.create_session(user_id=USER)).status == "completed"


def test_a_lost_connection_comes_again_while_handlers_use_all_threads(lab: Lab, secured: Secured) -> None:
    """The files of a TLS connection are read in a thread of the worker's own."""
    worker = lab.worker(amqp_url=tls_url(secured, secured.authority.query), concurrency=20)
    send(lab, 20, thread=str(lab.gate))
    lab.running(20)
    lab.drop_connections()
    worker.wait_for("worker up", count=2)
    lab.open_gate()
    lab.take("session.replies", 20)


async def test_the_database_is_asked_by_tls_and_refused_without_trust(
    secured: Secured, stranger: Authority
) -> None:
    """Each refusal is a sentence without the password."""
    good = secured.ledger_url("reader")
    reader = open_reader(good)
    await reader.open()
    await reader.close()
    with PostgreSQL(durable=False) as plain:
        wrong = {
            good.replace(str(secured.authority.folder), str(stranger.folder)): "name the authority's file",
            good.replace("localhost", "127.0.0.1"): "is for another host",
            good.replace("ca.pem", "nothing.pem"): "nothing.pem (No such file or directory)",
            good.replace("verify-full", "safe"): "sslmode",
            good.replace(str(secured.database.port), str(plain.port)): "does not offer TLS",
        }
        for url, said in wrong.items():
            with pytest.raises(LedgerError) as refused:
                await open_reader(url).open()
            assert said in str(refused.value)
            assert secured.secret not in str(refused.value)
