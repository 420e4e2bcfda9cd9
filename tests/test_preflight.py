"""What a database must be is asked before it is changed, and each printed remedy helps."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import sql

from database import preflight
from database.embedded import start_embedded, stop_embedded
from database.environment import ROOT
from database.migrate import migrate
from database.preflight import Obstacle, Purpose, names, obstacles
from tests.conftest import Pipeline
from tests.pooler import needs_pgbouncer, pooler
from tests.warehouse import create_database

ROLE, PASSWORD, NAME = 'sync."user"', "s3c'r:t/p@ss%w$rd", 'crm "data" 100%'
pytestmark = pytest.mark.usefixtures("one_role")

SQL = re.compile(r"\b(?:alter|begin|create|grant) .+;")


class Server:
    """A database of a role that may do no more than another's."""

    def __init__(self, postgres: str, name: str) -> None:
        parts = urlsplit(postgres)
        role = f"{quote(ROLE)}:{quote(PASSWORD, '')}"
        self.postgres, self.name = postgres, name
        self.url = f"postgresql://{role}@{parts.hostname}:{parts.port}/{quote(name, '')}"

    def execute(self, statement: str, database: str | None = None) -> None:
        """Run SQL as the administrator."""
        url = f"{self.postgres}/{quote(database or self.name, '')}"
        with psycopg.connect(url, autocommit=True, client_encoding="UTF8") as connection:
            connection.execute(statement.encode())

    def named(self, name: str) -> str:
        """Return the role's URL of another database."""
        return f"{self.url.rpartition('/')[0]}/{quote(name, '')}"


@pytest.fixture
def server(postgres: str) -> Iterator[Server]:
    """A fit database, of a role whose name and database's name need quotes."""
    server = Server(postgres, NAME)
    role, name = sql.Identifier(ROLE).as_string(), sql.Identifier(NAME).as_string()
    server.execute(
        f"create role {role} login password '{PASSWORD.replace(chr(39), chr(39) * 2)}'", "postgres"
    )
    server.execute(f"create database {name} owner {role} template template0", "postgres")
    yield server
    for made in (NAME, f"{NAME}_utf8", f"{NAME}_crm"):
        server.execute(
            f"drop database if exists {sql.Identifier(made).as_string()} with (force)", "postgres"
        )
    server.execute(f"drop role {role}", "postgres")


def remedy(obstacle: Obstacle) -> str:
    """The SQL that an obstacle's remedy has."""
    (statement,) = SQL.findall(obstacle.remedy)
    return str(statement)


def tables(url: str) -> list[str]:
    """What there is in a database but for what PostgreSQL brings."""
    with psycopg.connect(url, client_encoding="UTF8") as connection:
        return [
            row[0]
            for row in connection.execute(
                "select oid::regclass::text from pg_class"
                " where relnamespace::regnamespace::text !~ '^(pg_|information_schema)'"
            )
        ]


def test_names_are_those_that_a_migrated_database_has(database: str) -> None:
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "select relname from pg_class"
            " where relkind in ('r', 'v') and relnamespace::regnamespace::text = 'public'"
        )
        assert {name for (name,) in found} <= names()
    assert obstacles(database, Purpose.MIGRATE) == []


def database_of(setup: str) -> str:
    return setup.format(
        role=sql.Identifier(ROLE).as_string(), database=sql.Identifier(NAME).as_string()
    )


# What the administrator changes, and the checks that then fail.
PROBLEMS = {
    "no rights": (
        "alter database {database} owner to postgres;"
        " grant connect on database {database} to {role};"
        " revoke create on schema public from public",
        ["rights", "rights", "extension"],
    ),
    "no schema": ("drop schema public", ["rights"]),
    "another search path": (
        'create schema "Bids" authorization {role};'
        ' alter role {role} set search_path = "Bids", public',
        ["search path"],
    ),
    "read-only": (
        "alter role {role} in database {database} set default_transaction_read_only = on",
        ["read-only"],
    ),
    "an extension out of sight": (
        "create schema extensions; create extension pg_trgm schema extensions",
        ["extension"],
    ),
}


@pytest.mark.parametrize(("setup", "checks"), PROBLEMS.values(), ids=PROBLEMS)
def test_the_printed_remedies_help(server: Server, setup: str, checks: list[str]) -> None:
    server.execute(database_of(setup))
    found = obstacles(server.url, Purpose.MIGRATE)
    assert [one.check for one in found] == checks
    with pytest.raises(SystemExit) as refused:
        migrate(server.url)
    assert str(refused.value).splitlines() == [str(one) for one in found]
    assert tables(server.url) == []
    for one in found:
        if one.stops:
            server.execute(remedy(one))
    assert obstacles(server.url, Purpose.MIGRATE) == []
    migrate(server.url)
    assert "opportunities" in tables(server.url)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding(server: Server, encoding: str) -> None:
    role, name = sql.Identifier(ROLE).as_string(), sql.Identifier(NAME).as_string()
    server.execute(f"drop database {name}", "postgres")
    server.execute(
        f"create database {name} owner {role} template template0 encoding '{encoding}'"
        " locale_provider libc locale 'C'",
        "postgres",
    )
    command = [sys.executable, "-m", "database", "migrate"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    (found,) = obstacles(server.url, Purpose.MIGRATE)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{found}\n")
    assert encoding in found.detail
    server.execute(remedy(found))
    migrate(server.named(f"{NAME}_utf8"))
    assert tables(server.url) == []


@pytest.mark.parametrize(
    ("foreign", "is_adoptable"),
    [("create table tokens (id int)", False), ("create view users as select 1 as id", True)],
)
def test_tables_of_another_system(server: Server, foreign: str, is_adoptable: bool) -> None:
    server.execute(foreign)
    (found,) = obstacles(server.url, Purpose.MIGRATE)
    assert found.check == "foreign tables"
    assert ("make adopt" in found.remedy) == is_adoptable
    before = tables(server.url)
    with pytest.raises(SystemExit, match="another system"):
        migrate(server.url)
    assert tables(server.url) == before
    server.execute(remedy(found), "postgres")
    migrate(server.named(f"{NAME}_crm"))


def test_tables_of_another_owner_and_of_a_newer_release(
    postgres: str, migrated: str, server: Server
) -> None:
    copy = Server(postgres, "test")
    create_database(postgres, "test", migrated)
    role = sql.Identifier(ROLE).as_string()
    copy.execute(
        f"alter database test owner to {role}; grant all on schema raw, staging, meltano to {role}"
    )
    owners = obstacles(copy.url, Purpose.MIGRATE)
    assert {one.check for one in owners} == {"owner"}
    for one in owners:
        copy.execute(remedy(one))
    assert obstacles(copy.url, Purpose.MIGRATE) == []
    copy.execute("update alembic_version set version_num = '9999'")
    (found,) = obstacles(copy.url, Purpose.MIGRATE)
    assert (found.check, found.remedy) == ("release", "install that one")
    server.execute("drop database test with (force)", "postgres")


def test_what_the_url_itself_says_is_corrected_there(database: str) -> None:
    url = f"{database}?options=-csearch_path%3Draw%20-cdefault_transaction_read_only%3Don"
    for found in obstacles(url, Purpose.MIGRATE):
        assert found.check in {"search path", "read-only"}
        assert re.fullmatch(r"remove [a-z_]+ from the options in DATABASE_URL", found.remedy)


def test_an_old_server(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "OLDEST_POSTGRES", 99)
    (found,) = obstacles(database, Purpose.MIGRATE)
    assert found.check == "version"
    assert "99 or newer" in found.remedy


def test_a_standby() -> None:
    with tempfile.TemporaryDirectory(prefix="standby-") as folder:
        cluster = Path(folder) / "postgres"
        start_embedded(cluster)
        stop_embedded(cluster)
        (cluster / "standby.signal").touch()
        try:
            (found,) = obstacles(start_embedded(cluster), Purpose.RUN)
        finally:
            stop_embedded(cluster)
    assert found.check == "read-only"
    assert "standby" in found.detail


# PgBouncer's settings, and those of its connections; what it does to a session.
POOLERS = {
    "refuses": ([], "", "refuses start-up options"),
    "drops": (["ignore_startup_parameters = options"], "", "drops start-up options"),
    "shares": (
        ["ignore_startup_parameters = options"],
        "connect_query='set oracle_crm.probe to given'",
        "another session",
    ),
}


@needs_pgbouncer
@pytest.mark.parametrize(("settings", "of_the_database", "said"), POOLERS.values(), ids=POOLERS)
def test_a_pooler_is_found_before_anything_is_written(
    postgres: str, settings: list[str], of_the_database: str, said: str
) -> None:
    direct = create_database(postgres, "empty", "template0")
    with pooler(direct, *settings, of_the_database=of_the_database) as pooled:
        (found,) = obstacles(pooled, Purpose.QUERY)
        assert found.check == "pooler"
        assert said in found.detail
        with pytest.raises(SystemExit, match="set DATABASE_DIRECT_URL"):
            migrate(pooled)
    assert tables(direct) == []


@needs_pgbouncer
def test_beside_a_pooler_the_direct_address_does_all(synced: Pipeline) -> None:
    with pooler(synced.database, "ignore_startup_parameters = options") as pooled:
        before = tables(synced.database)
        for call in (["state", "list"], ["run", "tap-oracle-crm", "target-postgres"]):
            done = synced.meltano(*call, DATABASE_URL=pooled)
            assert done.returncode == 1
            assert "set DATABASE_DIRECT_URL" in done.stdout
            assert "Traceback" not in done.stdout
        assert tables(synced.database) == before
        synced.crm.mutate(update=3)
        run = synced.sync(DATABASE_URL=pooled, DATABASE_DIRECT_URL=synced.database)
    assert (run["status"], run["updated_records"]) == ("SUCCESS", 3)


def test_a_run_says_the_same(pipeline: Pipeline, postgres: str) -> None:
    pipeline.query("alter database test set default_transaction_read_only = on")
    foreign = create_database(postgres, "empty", "template0")
    with psycopg.connect(foreign) as connection:
        connection.execute("create table tokens (id int)")
    for url, check in ((pipeline.database, "read-only"), (foreign, "foreign tables")):
        done = pipeline.meltano("run", "tap-oracle-crm", "target-postgres", DATABASE_URL=url)
        assert done.returncode == 1
        (found,) = obstacles(url, Purpose.MIGRATE)
        assert found.check == check
        assert str(found) in done.stdout
        assert "Traceback" not in done.stdout
