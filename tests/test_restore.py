"""The commands of docs/restore.md, in their order, on a real database and a CRM that changes."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from database.environment import ROOT
from tests.conftest import Pipeline
from tests.warehouse import create_database
from tests.warm import WarmProject

pytestmark = pytest.mark.commands

SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
COMMANDS = re.compile(r"^```sh\n(.+?)^```", re.MULTILINE | re.DOTALL)


def commands() -> dict[str, str]:
    """The commands of each section; all need those before the first section."""
    start, *rest = SECTION.split((ROOT / "docs" / "restore.md").read_text())
    first = "".join(COMMANDS.findall(start))
    return {
        title: first + "".join(COMMANDS.findall(text))
        for title, text in zip(rest[::2], rest[1::2], strict=True)
    }


def run(script: str, environment: dict[str, str]) -> str:
    """Run commands, check that all succeed, and return their output."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.usefixtures("synced")
def test_a_restored_database_continues_from_the_backup(
    pipeline: Pipeline, postgres: str, tmp_path: Path, warm: WarmProject
) -> None:
    pipeline.query(
        """
        update opportunities set workflow_status = 'ASSIGNED'
        where workflow_status = 'NEW' and id < 99
        """
    )
    environment = pipeline.environment | {"BACKUP": str(tmp_path / "backup")}
    printed = run(commands()["Back up"], environment)
    before = everything(pipeline)
    assert f"{tmp_path / 'backup'}: 1,000 opportunities, " in printed
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    pipeline.crm.mutate(update=20, create=5)

    name = f"restored_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    environment["RESTORED_URL"] = f"{postgres}/{name}"
    run(commands()["Restore"], environment)

    restored = Pipeline(environment["RESTORED_URL"], pipeline.crm, tmp_path, warm=warm)
    assert everything(restored) == before

    done = restored.shell(commands()["After the restore"])
    assert done.returncode == 0, done.stdout
    assert "WARN=0 ERROR=0 SKIP=0" in done.stdout
    sync = restored.last_sync()
    assert (sync["sync_type"], sync["status"]) == ("INCREMENTAL", "SUCCESS")
    assert (sync["new_records"], sync["updated_records"]) == (5, 20)
    assert sync["total_fetched"] < 100

    known = work_of_the_bid_team(restored)
    done = restored.shell(commands()["If only the copy of the CRM is damaged"])
    assert done.returncode == 0, done.stdout
    assert restored.last_sync()["sync_type"] == "FULL"
    assert work_of_the_bid_team(restored) == known


def command(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "database.backup", *arguments],
        cwd=ROOT,
        check=False,
        text=True,
        env=os.environ | {"DATABASE_URL": url} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture
def empty(postgres: str) -> str:
    """The URL of an empty database."""
    return create_database(postgres, "empty", "template0")


@pytest.fixture
def saved(database: str, tmp_path: Path) -> Path:
    """A backup of a database with one deal."""
    with psycopg.connect(database) as connection:
        connection.execute("insert into opportunities (remote_id, name) values ('1', 'One')")
    file = tmp_path / "backup"
    done = command(database, "backup", str(file))
    assert done.returncode == 0, done.stdout
    assert done.stdout == f"{file}\n"
    return file


def test_only_an_empty_database_is_restored_into(database: str, saved: Path) -> None:
    done = command(database, "restore", str(saved))
    assert done.returncode == 1
    assert "The database is not empty" in done.stdout


def test_no_session_comes_back_and_tokens_are_listed(
    database: str, empty: str, tmp_path: Path
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            """
            insert into users (name, role, active)
            values ('ada', 'viewer', true), ('bob', 'viewer', false);
            insert into tokens (user_id, kind, name, secret_hash, created_at, expires_at)
            select users.id, kind, kind, (users.name || kind)::bytea, '2026-01-02', '2126-01-02'
            from users, unnest(array['session', 'personal']) as kind;
            insert into password_links (user_id, secret_hash, expires_at)
            values (1, 'x', now() + interval '1 day')
            """
        )
    file = tmp_path / "backup"
    assert command(database, "backup", str(file)).returncode == 0
    done = command(empty, "restore", str(file))
    assert done.returncode == 0, done.stdout
    *_, sessions, count, token = done.stdout.splitlines()
    assert sessions.startswith("All sessions are ended, ")
    assert count.startswith("1 API tokens are valid")
    assert token.endswith("'personal' of ada, made 2026-01-02, valid until 2126-01-02")
    with psycopg.connect(empty) as connection:
        kinds = connection.execute("select kind from tokens where revoked_at is null").fetchall()
        assert connection.execute("select from password_links").fetchall() == []
    assert kinds == [("personal",), ("personal",)]


def test_half_a_backup_restores_nothing(empty: str, saved: Path) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2])
    done = command(empty, "restore", str(saved))
    assert done.returncode == 1
    assert "the database is as empty as before" in done.stdout
    saved.write_bytes(whole)
    done = command(empty, "restore", str(saved))
    assert done.returncode == 0, done.stdout
    assert f"{saved}: 1 opportunities, " in done.stdout


def test_a_backup_that_fails_leaves_no_file_and_shows_no_password(
    database: str, tmp_path: Path
) -> None:
    program = tmp_path / "pg_dump"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec echo pg_dump 99.1\n'
        'echo "called as: $*" >&2\necho half\nexit 1\n'
    )
    program.chmod(0o755)
    file = tmp_path / "backups/today"
    done = command(database, "backup", str(file), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert done.stdout == (
        "called as: --format=custom --lock-wait-timeout=60s\nThe backup failed: see above.\n"
    )
    assert list(file.parent.iterdir()) == []


OLDER = [Path(f"/usr/lib/postgresql/{major}/bin") for major in (15, 16, 17)]


@pytest.mark.parametrize("programs", OLDER, ids=lambda folder: folder.parent.name)
def test_older_servers_are_backed_up_and_restored(programs: Path, saved: Path) -> None:
    if not programs.exists():
        pytest.skip("this version is not installed here")
    with older_server(programs) as url:
        # First with the embedded programs, then with the server's own.
        for name in ("first", "second"):
            with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
                connection.execute(f"create database {name}")
            done = command(f"{url}/{name}", "restore", str(saved))
            assert done.returncode == 0, done.stdout
            assert ": 1 opportunities, " in done.stdout
            saved = saved.with_name(name)
            done = command(f"{url}/{name}", "backup", str(saved))
            assert done.returncode == 0, done.stdout


@contextmanager
def older_server(programs: Path) -> Iterator[str]:
    """A server of an installed version, and its URL without a database's name."""
    user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        cluster = Path(folder) / "data"
        if user:
            shutil.chown(folder, **user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]

        def call(program: str, *arguments: str) -> None:
            subprocess.run(
                [programs / program, "-D", cluster, *arguments],
                cwd="/",
                check=True,
                stdout=subprocess.DEVNULL,
                **user,
            )

        call("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        call(
            "pg_ctl",
            "start",
            "-w",
            "-l",
            f"{folder}/log",
            "-o",
            f"-p {port} -c unix_socket_directories= -c fsync=off",
        )
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}"
        finally:
            call("pg_ctl", "stop", "-m", "fast")


def everything(pipeline: Pipeline) -> list[list[dict[str, Any]]]:
    """All rows that a backup must contain; the numbers of transactions are another server's."""
    return [
        [
            {name: value for name, value in row.items() if name != "xid"}
            for row in pipeline.query(f"select * from {table} order by 1")  # noqa: S608
        ]
        for table in (
            "opportunities",
            "opportunity_changes",
            "rejected_records",
            "sync_logs",
            "raw.opportunities",
            "meltano.state",
        )
    ]


def work_of_the_bid_team(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The values that a reload from nothing must not change."""
    return pipeline.query(
        "select id, remote_id, workflow_status, first_synced_at from opportunities order by id"
    )


def test_a_backup_waits_for_a_lock_a_bounded_time(database: str, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    with psycopg.connect(database) as holder:
        holder.execute("lock table opportunities")
        done = command(database, "backup", str(file), SYNC_LOCK_TIMEOUT="1")
    assert done.returncode == 1
    assert "Query was: LOCK" in done.stdout
    assert list(tmp_path.iterdir()) == []
