"""`make adopt` takes over the tables of the hand-written system, and loses nothing of them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api.adopt import adopt
from database.environment import ROOT
from database.migrate import migrate
from tests.api.conftest import DefaultSettings, calling
from tests.conftest import Pipeline
from tests.warehouse import create_database

pytestmark = [pytest.mark.commands, pytest.mark.usefixtures("one_role")]

DUMP = (Path(__file__).parent / "releases" / "hand_written.sql").read_bytes()
Rows = list[dict[str, Any]]


def load(url: str, schema: str = "public") -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"create schema if not exists {schema}; set search_path = {schema}")
        connection.execute(DUMP)


def add(pipeline: Pipeline, schema: str, *rows: tuple[int, str, str | None]) -> None:
    """Add deals to the old table: their id, their key in the CRM and their status."""
    for number, key, status in rows:
        pipeline.query(
            f"insert into {schema}.opportunities (id, remote_id, name, workflow_status)"  # noqa: S608
            " values (%s, %s, 'Old', %s)",
            number,
            key,
            status,
        )


def deals(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    return {row["remote_id"]: row for row in pipeline.query("select * from opportunities")}


def everything(pipeline: Pipeline) -> dict[str, Rows]:
    """All rows of all tables."""
    tables = pipeline.query(
        "select oid::regclass::text as name from pg_class"
        " where relkind = 'r' and relnamespace::regnamespace::text !~ '^(pg_|information_)'"
    )
    return {
        row["name"]: pipeline.query(f"select t::text from {row['name']} as t order by 1")  # noqa: S608
        for row in tables
    }


def of_status(pipeline: Pipeline, code: str) -> list[str]:
    """The keys of the CRM's deals with a status code."""
    return [str(row["OptyId"]) for row in pipeline.crm.rows() if row["StatusCode"] == code]


def make_adopt(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.adopt"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


REPORT = """\
Moved to schema legacy, where they stay: alembic_version, assessments, opportunities, sync_logs, \
users.
opportunities: 6 of 9 taken over (1 APPROVED, 1 ASSIGNED, 1 NEW, 1 UNDER_ASSESSMENT, 1 WON, \
1 Waiting for legal)
assessments: 2 of 4 taken over (1 APPROVED, 1 DRAFT)
users: 3 of 5 taken over (1 assessor, 1 manager, 1 viewer)
Not taken over (each row is in legacy.not_adopted):
  assessments: a newer one of the deal is open (1)
  assessments: column risk_level
  assessments: its opportunity was not taken over (1)
  assessments: status In review: made a draft (1)
  assessments: text cut to 10,000 characters (1)
  assessments: without assessor dave: no such user (1)
  assessments: without recommendation (1)
  assessments: without the score mood (1)
  assessments: without the score win_chance (1)
  opportunities: another row has the same remote_id (1)
  opportunities: remote_id is not a key of the CRM (2)
  opportunities: status Waiting for legal is not in the workflow: it stays until a manager changes \
it (1)
  users: column hashed_password
  users: no name (1)
  users: role superuser: made a viewer (1)
  users: the name exists already (1)
Next: make sync. A deal is marked as deleted until a sync finds it in the CRM.
Users have no password: an admin sets one in the console. To make the first admin: \
.venv/bin/python -m api.users NEW_NAME --role admin
"""


def test_the_old_tables_are_taken_over(pipeline: Pipeline, postgres: str) -> None:
    url = create_database(postgres, "test", "template0")
    load(url)
    known, waiting, new, won = of_status(pipeline, "OPEN")[:4]
    closed = of_status(pipeline, "LOST")[0]
    add(pipeline, "public", (10, known, "under assessment"), (11, known, "NEW"))
    add(pipeline, "public", (12, waiting, " Waiting for legal"), (13, new, None))
    add(pipeline, "public", (14, won, "Won"), (15, closed, "Approved"))
    before = everything(pipeline)
    with pytest.raises(SystemExit, match="make adopt"):
        migrate(url)
    assert everything(pipeline) == before

    done = make_adopt(url)
    assert (done.returncode, done.stdout, done.stderr) == (0, REPORT, "")
    after = everything(pipeline)
    for table, rows in before.items():
        assert after[table if table == "notes" else f"legacy.{table}"] == rows
    assert pipeline.query("select id from large_deals order by id") == [{"id": 2}, {"id": 3}]

    again = make_adopt(url)
    assert again.stdout == f"Nothing is changed: it was done before.\n{REPORT}"
    assert everything(pipeline) == after

    assert all(row["deleted_at"] for row in deals(pipeline).values())
    run = pipeline.sync()
    assert (run["new_records"], run["updated_records"]) == (995, 5)
    ours = deals(pipeline)
    assert {
        key: (row["id"], row["workflow_status"], row["workflow_status_before_close"])
        for key, row in ours.items()
        if row["id"] <= 15
    } == {
        "300000000000001": (3, "ASSIGNED", None),
        known: (10, "UNDER_ASSESSMENT", None),
        waiting: (12, "Waiting for legal", None),
        new: (13, "NEW", None),
        won: (14, "NEW", None),  # the CRM shows it open
        closed: (15, "LOST", "APPROVED"),
    }
    assert [key for key, row in ours.items() if row["deleted_at"]] == ["300000000000001"]
    history = pipeline.query("select distinct field from opportunity_changes")
    assert {row["field"] for row in history} <= {"workflow_status"}

    with calling(url, DefaultSettings()) as caller:
        people = {one["name"]: one for one in caller.get("/api/users").json()}
        assert people["Anna Schmidt"]["role"] == "manager"
        assert [people[name]["active"] for name in ("Anna Schmidt", "bob", "carol")] == [
            True,
            False,
            True,
        ]
        first, second = reversed(caller.get("/api/assessments").json())
    assert (first["status"], first["version"], first["recommendation"]) == ("APPROVED", 1, "BID")
    assert {key: one["score"] for key, one in first["scores"].items()} == {
        "win_chance": 5,
        "risk": 2,
    }
    assert first["weighted_score"] == 80.0
    assert first["created_by"] == people["Anna Schmidt"]["id"]
    assert (second["status"], second["version"], second["recommendation"]) == (
        "DRAFT",
        2,
        "NO_BID",
    )
    assert second["created_by"] == people["bob"]["id"]


def test_statuses_are_taken_over_after_a_sync(synced: Pipeline) -> None:
    """What somebody has set here meanwhile stays."""
    load(synced.database, "legacy")
    edited, taken = of_status(synced, "OPEN")[:2]
    closed = of_status(synced, "WON")[0]
    synced.query(
        "update opportunities set workflow_status = 'ASSIGNED' where remote_id = %s", edited
    )
    add(
        synced,
        "legacy",
        (10, edited, "APPROVED"),
        (11, taken, "REJECTED"),
        (12, closed, "REJECTED"),
    )
    before = deals(synced)
    report = adopt(synced.database)
    assert report.startswith("Moved to schema legacy, where they stay: none.")
    after = deals(synced)
    assert after.pop("300000000000001")["workflow_status"] == "ASSIGNED"
    changed = {
        key: (after[key]["workflow_status"], after[key]["workflow_status_before_close"])
        for key in after
        if after[key] != before[key]
    }
    assert changed == {taken: ("REJECTED", None), closed: ("WON", "REJECTED")}
    assert {key: row["id"] for key, row in after.items()} == {
        key: row["id"] for key, row in before.items()
    }


def test_nothing_is_changed_where_it_cannot_be_done(pipeline: Pipeline, postgres: str) -> None:
    with pytest.raises(SystemExit, match="nothing to adopt"):
        adopt(pipeline.database)
    url = create_database(postgres, "test", "template0")
    load(url)
    pipeline.query("create schema legacy; create table legacy.users ()")
    before = everything(pipeline)
    with pytest.raises(SystemExit, match='as it was: relation "users" already exists'):
        adopt(url)
    assert everything(pipeline) == before
