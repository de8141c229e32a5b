"""What a PostgreSQL URL may say: each parameter counts, or is refused with what to do instead."""

from __future__ import annotations

import pytest

from session_client.net.diagnosis import InvalidValueError
from session_worker.settings.postgresql_url import place_of, read


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgresql:///ledger",
        "postgres://ada:s3%2Fcret@db.example.com:5432/ledger",
        "postgresql://ada@[::1]:5432/ledger",
        "postgresql://ada@db1:5432,db2:5433/ledger?target_session_attrs=primary",
        "postgresql://ada@%2Frun%2Fpostgresql/ledger",
        "postgresql://ada@/ledger?host=%2Frun%2Fpostgresql",
        "postgresql://ada@db/ledger?options=-csearch_path%3Dsession_worker",
        "postgresql://ada@db/ledger?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem",
    ],
)
def test_what_the_driver_understands_is_left_as_it_is(url: str) -> None:
    target = read(url)
    assert (target.url.removeprefix("postgresql:"), target.connect_timeout) == (
        url.removeprefix("postgresql:"),
        None,
    )


def test_the_time_to_connect_is_taken_out_and_settings_of_the_server_are_told() -> None:
    target = read("postgresql://db/ledger?connect_timeout=30&sslmode=require&lock_timeout=1s")
    assert target.connect_timeout == 30
    assert target.settings == {"lock_timeout"}
    assert "connect_timeout" not in target.url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://ada:s3@cret@db/ledger", "percent-encoded"),
        ("postgresql://ada:s3/cret@db/ledger", "percent-encoded"),
        ("postgresql://ada:s3[cret@db/ledger", "percent-encoded"),
        ("postgresql://ada:s3\ncret@db/ledger", "percent-encoded"),
        ("postgresql://ada:s3\udcffcret@db/ledger", "percent-encoded"),
        ("postgresql://s3cret@db:port/ledger", "write host:port"),
        ("postgresql://s3cret@db:0/ledger", "1 to 65535"),
        ("postgresql://s3cret@db1,,db2/ledger", "write host:port"),
        ("postgresql://s3cret@d b/ledger", "write host:port"),
        ("postgresql://s3cret@[db]/ledger", "write host:port"),
        ("postgresql://db/s3cret#ledger", "%23"),
        ("postgresql://db/ledger?port=s3cret", "port must be 1 to 65535"),
        ("postgresql://db/ledger?s3cret", "name=value"),
        ("postgresql://db/ledger?password=", "password has no value"),
        ("postgresql://db/ledger?connect_timeout=0", "connect_timeout must be whole seconds"),
        ("postgresql://db/ledger?connect_timeout=s3cret", "connect_timeout must be whole seconds"),
        ("postgresql://db/ledger?sslrootcert=system", "ca-certificates.crt"),
        ("postgresql://db/ledger?channel_binding=require", "sslmode=verify-full"),
        ("postgresql://db/ledger?gssencmode=disable", "leave it out"),
        ("postgresql://db/ledger?service=s3cret", "write host, user and database"),
        ("postgresql://db/ledger?keepalives=1", "leave it out"),
    ],
)
def test_any_other_is_refused_with_what_to_do_and_is_not_quoted(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read(url)
    assert "s3" not in str(caught.value)
    assert isinstance(caught.value, InvalidValueError), "what is wrong and what to do are kept apart"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://ada:s3cret@db:5432/ledger", "db:5432/ledger"),
        ("postgresql://ada@%2Frun%2Fpg/ledger", "socket /run/pg/.s.PGSQL.5432, database ledger"),
        ("postgresql://ada@/ledger?host=/run/pg&port=6000", "socket /run/pg/.s.PGSQL.6000, database ledger"),
        ("postgresql:///ledger?host=db", "db/ledger"),
        ("postgresql:///ledger", "localhost/ledger (sockets in /run/postgresql, "),
    ],
)
def test_the_place_is_told_as_the_driver_finds_it(
    url: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGPORT"):
        monkeypatch.delenv(name, raising=False)
    assert place_of(url).startswith(place)
