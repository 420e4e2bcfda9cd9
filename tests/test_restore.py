"""The commands of docs/restore.md, in their order, on a real database and a CRM that goes on."""

import re
import subprocess
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

from database.environment import ROOT
from tests.conftest import Pipeline

SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
COMMANDS = re.compile(r"^```sh\n(.+?)^```", re.MULTILINE | re.DOTALL)


def commands() -> dict[str, str]:
    """The commands of each section; those before the first section are needed by all."""
    start, *rest = SECTION.split((ROOT / "docs" / "restore.md").read_text())
    first = "".join(COMMANDS.findall(start))
    return {
        title: first + "".join(COMMANDS.findall(text))
        for title, text in zip(rest[::2], rest[1::2], strict=True)
    }


def run(script: str, environment: dict[str, str]) -> str:
    """Run commands until one fails, which none may, and return what they print."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.usefixtures("synced")
def test_a_restored_database_goes_on_where_the_backup_was(
    pipeline: Pipeline, postgres: str, tmp_path: Path
) -> None:
    pipeline.query(
        """
        update opportunities set workflow_status = 'ASSIGNED'
        where workflow_status = 'NEW' and id < 99
        """
    )
    environment = pipeline.environment | {"BACKUP": str(tmp_path / "backup")}
    run(commands()["Back up"], environment)
    before = everything(pipeline)
    pipeline.crm.mutate(update=20, create=5)

    name = f"restored_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    environment["RESTORED_URL"] = f"{postgres}/{name}"
    run(commands()["Restore"], environment)

    restored = Pipeline(environment["RESTORED_URL"], pipeline.crm, tmp_path)
    assert everything(restored) == before

    environment |= restored.environment
    printed = run(commands()["Go on"], environment)
    assert "WARN=0 ERROR=0 SKIP=0" in printed
    sync = restored.last_sync()
    assert (sync["sync_type"], sync["status"]) == ("INCREMENTAL", "SUCCESS")
    assert (sync["new_records"], sync["updated_records"]) == (5, 20)
    assert sync["total_fetched"] < 100

    known = work_of_the_bid_team(restored)
    run(commands()["If only the copy of the CRM is damaged"], environment)
    assert restored.last_sync()["sync_type"] == "FULL"
    assert work_of_the_bid_team(restored) == known


def everything(pipeline: Pipeline) -> list[list[dict[str, Any]]]:
    """All that a backup must hold."""
    return [
        pipeline.query(f"select * from {table} order by 1")  # noqa: S608
        for table in (
            "opportunities", "opportunity_changes", "rejected_records", "sync_logs",
            "raw.opportunities", "meltano.state",
        )
    ]  # fmt: skip


def work_of_the_bid_team(pipeline: Pipeline) -> list[dict[str, Any]]:
    """What a reload from nothing must leave alone."""
    return pipeline.query(
        "select id, remote_id, workflow_status, first_synced_at from opportunities order by id"
    )
