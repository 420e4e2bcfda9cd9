"""psycopg, SQLAlchemy, libpq's tools and dbt all understand the same DATABASE_URL."""

import asyncio
import os
import subprocess
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
import psycopg2  # type: ignore[import-untyped]  # as dbt does
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from api.database import make_pool
from database.address import (
    AddressError,
    database_url,
    libpq_environment,
    parameters,
    sqlalchemy_url,
)
from database.embedded import BIN
from database.migrate import migrate
from database.settings import Settings
from tests.conftest import Pipeline
from tests.warehouse import create_database

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
SHOWN: LiteralString = """
select current_setting('statement_timeout') as timeout, current_setting('timezone') as timezone
"""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `database_url` makes of a value of DATABASE_URL."""

    def read(value: str) -> str:
        monkeypatch.setenv("DATABASE_URL", value)
        database_url.cache_clear()
        return database_url()

    yield read
    database_url.cache_clear()


@given(user=words, password=words, database=words, socket=st.booleans())
def test_every_form_names_the_same_database(
    user: str, password: str, database: str, socket: bool
) -> None:
    credentials = f"{quote(user, '')}:{quote(password, '')}"
    name = quote(database, "")
    url = (
        f"postgresql://{credentials}@/{name}?host=%2Frun%2Fpg&sslmode=require"
        if socket
        else f"postgresql://{credentials}@db.example.com:5433/{name}?sslmode=require"
    )
    libpq = libpq_environment(url)
    expected = {
        "PGHOST": "/run/pg" if socket else "db.example.com",
        "PGPORT": "5432" if socket else "5433",
        "PGUSER": user,
        "PGPASSWORD": password,
        "PGDATABASE": database,
        "PGSSLMODE": "require",
    }
    assert libpq == expected
    alchemy = make_url(sqlalchemy_url(url, "loader", timezone="UTC"))
    _, arguments = alchemy.get_dialect()().create_connect_args(alchemy)
    assert {name: str(value) for name, value in arguments.items()} == parameters(url) | {
        "application_name": "loader",
        "options": "-ctimezone=UTC",
    }


HOSTED = {
    "heroku": (
        "postgres://u:p@ec2.example.com:5432/d1",
        {"host": "ec2.example.com", "user": "u", "dbname": "d1"},
    ),
    "neon": (
        "postgresql://u:p@ep-cool-1.example.com/neondb?sslmode=require&channel_binding=require"
        "&options=endpoint%3Dep-cool-1",
        {"channel_binding": "require", "options": "endpoint=ep-cool-1", "port": "5432"},
    ),
    "supabase": (
        "postgres://postgres.ref:p@pooler.example.com:6543/postgres?pgbouncer=true"
        "&connection_limit=1&sslmode=require",
        {"user": "postgres.ref", "port": "6543", "sslmode": "require"},
    ),
    "a cluster": (
        "postgresql://u:p@a.example.com:5433,b.example.com:5433/crm?target_session_attrs=read-write",
        {"host": "a.example.com,b.example.com", "port": "5433"},
    ),
}


@pytest.mark.parametrize(("url", "said"), HOSTED.values(), ids=HOSTED)
def test_addresses_as_hosts_show_them(url: str, said: dict[str, str], read: Any) -> None:
    understood = parameters(read(url))
    assert understood == parameters(url)
    assert said.items() <= understood.items()
    assert "pgbouncer" not in understood
    libpq = libpq_environment(url)
    names = {"options": "PGOPTIONS", "channel_binding": "PGCHANNELBINDING", "host": "PGHOST"}
    assert {libpq.get(variable) for variable in names.values()} == {
        understood.get(name) for name in names
    }
    alchemy = make_url(sqlalchemy_url(url, None, search_path="meltano"))
    _, arguments = alchemy.get_dialect()().create_connect_args(alchemy)
    hosts = understood["host"].count(",") + 1
    assert {name: str(value) for name, value in arguments.items()} == understood | {
        "options": f"{understood.get('options', '')} -csearch_path=meltano".strip(),
        "port": ",".join([understood["port"]] * hosts),
    }


AWKWARD = (
    "application_name=a&application_name=bids&pgbouncer=true&connect_timeout=7"
    "&options=-c%20statement_timeout%3D61000%20-c%20timezone%3DAsia%2FKolkata"
)


def test_each_reader_connects_alike(database: str, read: Any) -> None:
    """Each is asked on a real server for two settings and a name that the URL gives it."""
    url = read(f"{database.replace('postgresql://', 'postgres://')}?{AWKWARD}")
    name, expected = "show application_name", ("61s", "Asia/Kolkata")
    with psycopg.connect(url) as connection:
        assert connection.execute(SHOWN).fetchone() == expected
        assert connection.execute(name).fetchone() == ("bids",)

    loader = create_engine(sqlalchemy_url(url, "loader", search_path="meltano"))
    with loader.connect() as alchemy:
        assert alchemy.exec_driver_sql(SHOWN).one() == expected
        assert alchemy.exec_driver_sql("show search_path").scalar_one() == "meltano"
        assert alchemy.exec_driver_sql(name).scalar_one() == "loader"

    done = subprocess.run(
        [BIN / "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", SHOWN],
        env=os.environ | libpq_environment(url),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert tuple(done.stdout.strip().split("|")) == expected

    # The API has a time limit, and a time zone, of its own.
    assert asyncio.run(as_the_api_sees_it(url)) == ["30s", "UTC"]


async def as_the_api_sees_it(url: str) -> list[str]:
    async with make_pool(url, Settings()) as pool, pool.connection() as connection:
        found = await (await connection.execute(SHOWN)).fetchone()
        assert found is not None
        return [*found.values()]


def test_the_migrations_keep_the_options(postgres: str) -> None:
    """Meltano's too: what a role creates belongs to it."""
    url = create_database(postgres, "empty", "template0")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create role keeper; alter database empty owner to keeper")
        migrate(f"{url}?options=-crole%3Dkeeper")
        owners = connection.execute(
            """
            select distinct relnamespace::regnamespace::text, relowner::regrole::text
            from pg_class
            where relnamespace::regnamespace::text in ('public', 'meltano')
            """
        ).fetchall()
        assert sorted(owners) == [("meltano", "keeper"), ("public", "keeper")]
        connection.execute("alter database empty owner to current_user")
        connection.execute("drop owned by keeper cascade; drop role keeper")


def test_libpqs_environment_completes_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "5499", "PGUSER": "ada", "PGOPTIONS": "-c jit=off"}.items():
        monkeypatch.setenv(name, value)
    url = "postgresql://db.example.com"
    completed = {"port": "5499", "user": "ada", "dbname": "ada", "options": "-c jit=off"}
    assert parameters(url) == completed | {"host": "db.example.com"}
    alchemy = make_url(sqlalchemy_url(url, "meltano", search_path="meltano"))
    assert alchemy.query["options"] == "-c jit=off -csearch_path=meltano"


def test_dbt_takes_the_rest_from_the_environment(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    libpq = libpq_environment(f"{database}?{AWKWARD}")
    assert libpq["PGCONNECT_TIMEOUT"] == "7"
    for variable, value in libpq.items():
        monkeypatch.setenv(variable, value)
    with psycopg2.connect(host=libpq["PGHOST"], port=int(libpq["PGPORT"])) as connection:
        cursor = connection.cursor()
        cursor.execute(SHOWN)
        assert cursor.fetchone() == ("61s", "Asia/Kolkata")


def test_a_sync_with_a_hosted_address(synced: Pipeline) -> None:
    """The parameters that hosts add disturb neither Meltano, nor the loader, nor dbt."""
    before = synced.query("select remote_id, close_date, remote_updated_at from opportunities")
    synced.environment["DATABASE_URL"] += f"?{AWKWARD}"
    synced.crm.mutate(update=3)
    assert synced.sync()["updated_records"] == 3
    after = synced.query("select remote_id, close_date, remote_updated_at from opportunities")
    assert len(after) == len(before)
    assert sum(row not in before for row in after) == 3


WRONG = {
    "mysql://db.example.com/crm": "postgresql://",
    "postgresql://u:mackerel@h/d?sslmod=require": "does not know: sslmod$",
    "postgresql://u:mack%zzerel@h/d": "percent-encode",
    "postgresql://u:mack@erel@h:/d?x/y": "percent-encode|does not know",
    "postgresql://u:ma/ck?erel&mack@h/d": "percent-encode",
    "postgresql:///d?service=crm": "the parameter service",
    "postgresql://u@a:5432,b:5433/d": "ports that differ",
}


@pytest.mark.parametrize(("url", "said"), WRONG.items())
def test_what_cannot_be_read_is_refused_in_words(url: str, said: str, read: Any) -> None:
    with pytest.raises(SystemExit, match=said) as refused:
        read(url)
    assert str(refused.value).startswith("DATABASE_URL ")
    assert "mack" not in str(refused.value)
    assert "erel" not in str(refused.value)
    with pytest.raises(AddressError):
        parameters(url)


def test_the_direct_address_comes_first(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_DIRECT_URL", "postgresql://u@direct.example.com/crm")
    url = read("postgresql://u@pooler.example.com:6432/crm")
    assert parameters(url)["host"] == "direct.example.com"
    monkeypatch.setenv("DATABASE_DIRECT_URL", "mysql://direct.example.com/crm")
    with pytest.raises(SystemExit, match=r"^DATABASE_DIRECT_URL must look like"):
        read("postgresql://u@pooler.example.com:6432/crm")
