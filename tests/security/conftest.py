"""A broker, a database and an authority, set up as docs/security.md says and in no other way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.acceptance.conftest import cli
from tests.support.pages import follow
from tests.support.servers import PostgreSQL, RabbitMQ
from tests.support.servers.certificate import Certificate
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cli"]

ROOT = Path(__file__).resolve().parents[2]
VHOST = "sessions"


class Authority:
    """Signs certificates; ``folder`` has its own as ``ca.pem`` and a client's with its key."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        client = self._ca.issue_cert("worker@example.com")
        client.private_key_pem.write_to_path(str(folder / "client.key"))
        client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))

    def certificate(self, *hosts: str, **validity: object) -> Certificate:
        """What a server at ``hosts`` shows, which trusts clients of this authority."""
        issued = self._ca.issue_cert(*hosts, **validity)  # type: ignore[arg-type]
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        texts = (self._ca.cert_pem.bytes(), chain, issued.private_key_pem.bytes())
        return Certificate(*(text.decode() for text in texts))

    @property
    def query(self) -> str:
        """The parameters of a broker's URL for a client of this authority."""
        return (
            f"cafile={self.folder}/ca.pem&certfile={self.folder}/client.pem&keyfile={self.folder}/client.key"
        )


@dataclass(frozen=True)
class Secured:
    """What the page's reader has in the end."""

    authority: Authority
    broker: RabbitMQ
    database: PostgreSQL

    @property
    def secret(self) -> str:
        """The end of all passwords, in place of the page's, which everybody knows."""
        return self.database.password

    def amqp_url(self, user: str) -> str:
        """The page's URL for a user of the broker."""
        return self.broker.vhost_url(VHOST, f"session_{user}", f"{user.rpartition('_')[2]}-{self.secret}")

    def ledger_url(self, role: str) -> str:
        """The page's URL for a role of the database."""
        login = f"session_{role}:{role}-{self.secret}@localhost:{self.database.port}"
        query = f"sslmode=verify-full&sslrootcert={self.authority.folder}/ca.pem"
        return f"postgresql://{login}/sessions?{query}"

    def sql(self, statement: str) -> None:
        """Run a statement as a superuser in the ledger's database."""
        self.database.execute(statement, "sessions")


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("security")
    authority = Authority(folder / "etc")
    certificate = authority.certificate("localhost")
    with RabbitMQ(tls=certificate) as broker, PostgreSQL(durable=False, tls=certificate) as database:
        (folder / "page").mkdir()
        follow(
            ROOT / "docs" / "security.md",
            folder / "page",
            replace={
                "rabbitmq.example.com": f"localhost:{broker.tls_port}",
                "db.example.com": f"localhost:{database.port}",
                "/etc/session/": f"{authority.folder}/",
                "-password": f"-{database.password}",
            },
            env={
                **broker.control_environment,
                "PATH": _path(broker, database),
                "PGPASSWORD": database.password,
            },
        )
        yield Secured(authority, broker, database)


def _path(broker: RabbitMQ, database: PostgreSQL) -> str:
    """Where the shell finds ``session-worker``, ``rabbitmqctl`` and ``psql``."""
    folders = (PROGRAM.parent, broker._program.parent, database._psql.parent)
    return ":".join([*map(str, folders), os.environ["PATH"]])
