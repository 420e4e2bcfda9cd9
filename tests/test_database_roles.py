"""Each part of the system has a role of its own, which can do no more than the part needs.

That it can do so much is shown by the other tests, with TEST_ROLES=1.
"""

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from database import roles
from database.address import PARTS, PASSWORDS, Part, role_of, url_for
from database.environment import ROOT
from database.migrate import migrate, migrate_if_needed
from tests.conftest import PIPELINE, Pipeline


@pytest.fixture(scope="module", autouse=True)
def passwords(postgres: str) -> Iterator[None]:
    """Settings that give each part its own role."""
    with pytest.MonkeyPatch.context() as patch:
        for part in PARTS:
            patch.setenv(PASSWORDS[part], f"password of {part}")
        yield


@pytest.fixture(scope="module")
def filled(postgres: str, migrated: str, passwords: None) -> Iterator[str]:
    """The URL of a migrated database with a deal, a user and an entry of the audit trail."""
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database roles template {migrated} owner {role_of('migrate')}")
        url = f"{postgres}/roles"
        roles.apply(url)
        with psycopg.connect(url) as filling:
            filling.execute(
                """
                insert into opportunities (remote_id) values ('1');
                insert into users (name, full_name, role) values ('ann', 'Ann', 'viewer');
                insert into audit_log (user_name, action, subject, subject_id)
                values ('ann', 'sign in', 'user', '1');
                """
            )
        yield url
        connection.execute("drop database roles with (force)")


FORBIDDEN: dict[Part, list[str]] = {
    "load": [
        "select * from public.opportunities",
        "select * from public.users",
        "update public.load_fence set run_number = run_number + 1",
        "create table public.mine ()",
        "select * from meltano.runs",
    ],
    "transform": [
        'insert into raw.opportunities ("OptyId") values (1)',
        "update raw.opportunities set \"Name\" = 'x'",
        "delete from public.opportunities",
        "truncate public.opportunities",
        "drop table public.opportunities",
        "alter table public.opportunities drop column workflow_status",
        "select * from public.users",
        "select * from public.tokens",
        "select * from meltano.state",
    ],
    "run": [
        "update public.opportunities set name = 'x'",
        "select * from public.users",
        'insert into raw.opportunities ("OptyId") values (1)',
        "create table public.mine ()",
    ],
    "api": [
        "select * from raw.opportunities",
        "select * from meltano.state",
        "insert into public.opportunities (remote_id) values ('2')",
        "update public.opportunities set deal_value = 1",
        "delete from public.opportunities",
        "delete from public.opportunity_changes",
        "update public.opportunity_changes set changed_by = 'x'",
        "update public.audit_log set action = 'x'",
        "delete from public.audit_log",
        "truncate public.audit_log",
        "alter table public.audit_log disable trigger keep_audit_log",
        "drop trigger keep_audit_log on public.audit_log",
        "select public.remove_audit_entries(0, 1)",
        "set session_replication_role = replica",
        "update public.sync_runs set new_records = 0",
        "create table public.mine ()",
        "create schema mine",
        "create function public.mine() returns int language sql as 'select 1'",
    ],
    "migrate": [],
}
OUTSIDE = [
    "copy public.alembic_version from program 'id'",
    "select pg_read_file('/etc/passwd')",
    "create role mine",
    "create database mine",
    "set role postgres",
    "set session authorization postgres",
    "alter system set log_statement = 'all'",
]


@pytest.mark.parametrize("part", PARTS)
def test_what_a_role_may_not_do(filled: str, part: Part) -> None:
    with psycopg.connect(url_for(part, filled), autocommit=True) as connection:
        assert connection.info.user == role_of(part)
        for statement in FORBIDDEN[part] + OUTSIDE:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


@pytest.mark.parametrize("part", ["load", "transform", "run", "api"])
def test_no_part_can_take_the_role_of_another(filled: str, part: Part) -> None:
    with psycopg.connect(url_for(part, filled), autocommit=True) as connection:
        for other in {*PARTS} - {part}:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"set role {role_of(other)}".encode())


def test_audit_entries_can_only_be_added(filled: str) -> None:
    with psycopg.connect(url_for("api", filled)) as connection:
        connection.execute(
            "insert into audit_log (user_name, action, subject, subject_id)"
            " values ('ann', 'export', 'deals', '')"
        )
        found = connection.execute("select action from audit_log order by id").fetchall()
    assert found == [("sign in",), ("export",)]


def test_a_table_that_a_migration_brings_gets_its_rights(filled: str) -> None:
    with psycopg.connect(url_for("migrate", filled)) as connection:
        connection.execute("create table public.notes (id int); create table raw.new_stream ()")
        roles.grant(connection)
        connection.commit()
        with psycopg.connect(url_for("api", filled)) as api:
            api.execute("insert into notes values (1)")
            api.execute("delete from notes")
        with psycopg.connect(url_for("load", filled)) as load:
            load.execute("alter table raw.new_stream add column id int")
        with psycopg.connect(url_for("transform", filled)) as transform:
            transform.execute("select * from raw.new_stream")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                transform.execute("select * from notes")
        connection.execute("drop table public.notes, raw.new_stream")


def test_the_doctor_tells_what_a_role_lacks_or_has_too_much(filled: str) -> None:
    with psycopg.connect(url_for("migrate", filled), autocommit=True) as connection:
        assert roles.differences(connection) == []
        connection.execute("revoke insert on users from oracle_crm_api")
        connection.execute("grant delete on audit_log to oracle_crm_api")
        assert roles.differences(connection) == [
            "oracle_crm_api lacks INSERT on users",
            "oracle_crm_api has DELETE on audit_log, which it does not need",
        ]
        roles.grant(connection)
        assert roles.differences(connection) == []


def test_the_printed_statements_are_what_an_administrator_needs(
    postgres: str, monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline
) -> None:
    """A database of one role, which is no superuser, is handed over to the roles, and syncs."""
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as server:
        server.execute("drop database if exists handed_over with (force)")
        server.execute("drop role if exists one_for_all")
        server.execute("create role one_for_all login password 'of one'")
        server.execute("create database handed_over owner one_for_all")
    administrator = f"{postgres}/handed_over"
    one = administrator.replace(postgres.partition("@")[0], "postgresql://one_for_all:of%20one")
    with monkeypatch.context() as before:
        for part in PARTS:
            before.setenv(PASSWORDS[part], "")
        migrate(one)
        printed_without = roles.statements(one)
    assert "SCRAM-SHA-256$" not in printed_without

    printed = roles.statements(one)
    assert "password of" not in printed
    assert "SCRAM-SHA-256$" in printed
    with psycopg.connect(administrator) as connection:
        connection.execute(printed.encode())
        connection.execute(
            sql.SQL("revoke all on database handed_over from {}").format(
                sql.Identifier("one_for_all")
            )
        )
    migrate(url_for("migrate", administrator))
    migrate_if_needed(administrator)
    sync = pipeline.meltano("run", *PIPELINE, DATABASE_URL=administrator)
    assert sync.returncode == 0, sync.stdout
    check = subprocess.run(
        [sys.executable, "-m", "orchestrate.check"],
        cwd=ROOT,
        env=pipeline.environment | {"DATABASE_URL": administrator},
        text=True,
        capture_output=True,
        check=False,
    )
    assert check.returncode == 0, check.stdout + check.stderr
    with psycopg.connect(administrator) as connection:
        owners = connection.execute(
            """
            select distinct relnamespace::regnamespace::text, relowner::regrole::text
            from pg_class
            where
                relkind in ('r', 'v')
                and relnamespace::regnamespace::text in ('raw', 'staging', 'meltano', 'public')
                and relowner::regrole::text != 'postgres'  -- what an extension brought
            """
        ).fetchall()
    assert {*owners} == {
        ("raw", "oracle_crm_load"),
        ("staging", "oracle_crm_transform"),
        ("meltano", "oracle_crm_run"),
        ("public", "oracle_crm_migrate"),
        ("public", "oracle_crm_transform"),  # its views
    }
