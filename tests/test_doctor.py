"""`make doctor` finds each fault, says what to do, and tells no secret."""

import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from database.environment import ROOT
from database.preflight import Purpose, obstacles
from orchestrate.doctor import GIGABYTE, disk
from tests.conftest import Pipeline
from tests.runs import add_run, live_run

PASSWORD = "s3cret:w%rd"
ENCODED = "s3cret%3Aw%25rd"

# What the sandbox's deals have that is not predefined.
DECLARED = """
statuses:
  ON_HOLD: OPEN
stages:
  01 - Qualification: OPEN
  02 - Discovery: OPEN
  03 - Building Vision: OPEN
  04 - Proposal: OPEN
  05 - Negotiation: OPEN
  4. Commit: OPEN
  06 - Closed Won: WON
  07 - Closed Lost: LOST
"""

Findings = dict[str, dict[str, str]]


def examine(pipeline: Pipeline, **environment: str) -> tuple[Findings, int]:
    """Return what the doctor finds, by check, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrate.doctor", "--json"],
        cwd=ROOT,
        env=pipeline.environment | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert not any(secret in printed for secret in (PASSWORD, ENCODED, "sandbox-password")), printed
    assert done.stdout, done.stderr
    return {finding["check"]: finding for finding in json.loads(done.stdout)}, done.returncode


def statuses(findings: Findings) -> dict[str, str]:
    return {check: finding["status"] for check, finding in findings.items()}


def test_a_healthy_system_with_its_secrets_in_files(pipeline: Pipeline, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("DATABASE_URL", "ORACLE_PASS"):
        (secrets / name.lower()).write_text(pipeline.environment.pop(name) + "\n")
    pipeline.environment["SECRETS_DIR"] = str(secrets)
    declared = tmp_path / "crm.yml"
    declared.write_text(DECLARED)
    pipeline.environment["CRM_FILE"] = str(declared)
    pipeline.sync()  # Meltano finds them there too
    pipeline.query(
        """
        insert into schedules (name, job, interval, timezone, next_run_at)
        values
            ('nightly', 'sync', '0 0 * * *', 'UTC', now() + interval '1 hour'),
            ('nightly-reconcile', 'reconcile', '0 3 * * *', 'UTC', now() + interval '4 hours'),
            ('nightly-build', 'build', '30 3 * * *', 'UTC', now() + interval '5 hours'),
            ('weekly-housekeeping', 'housekeeping', '0 4 * * 0', 'UTC', now() + interval '1 day')
        """
    )
    findings, code = examine(pipeline)
    assert set(statuses(findings).values()) <= {"ok"} | {findings["disk"]["status"]}
    assert "1,000 rows" in findings["record set"]["detail"]
    assert "next is nightly" in findings["scheduler"]["detail"]
    assert "1,000 read" in findings["last sync"]["detail"]
    assert code == int(findings["disk"]["status"] == "error")

    done = subprocess.run(
        [sys.executable, "-m", "orchestrate.doctor"],
        cwd=ROOT,
        env=pipeline.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "✓ credentials" in done.stdout


@pytest.mark.usefixtures("synced")
def test_what_went_stale_and_what_does_not_fit(pipeline: Pipeline) -> None:
    columns = ("started_at", "ended_at", "heartbeat_at", "transform_completed_at")
    for column in columns:
        pipeline.query(f"update sync_runs set {column} = now() - interval '3 days'")  # noqa: S608
    add_run(pipeline.database, "-2 hours", kind="reconcile")
    pipeline.query(
        """
        insert into schedules (name, job, interval, timezone, heartbeat_at)
        values ('nightly', 'sync', '0 0 * * *', 'UTC', now() - interval '2 hours')
        """
    )
    pipeline.crm.clock(3600)
    pipeline.crm.settings(visible="StatusCode = 'NO_SALE'")
    findings, code = examine(
        pipeline, ORACLE_GEO_FIELD="Nowhere_c", SCHEDULE_TIMEZONE="Europe/Zuerich"
    )
    found = statuses(findings)
    assert found["last sync"] == "error"
    assert found["clock of the runs"] == "warning"
    assert "1 runs are in the database's future" in findings["clock of the runs"]["detail"]
    assert (found["scheduler"], found["clock of the CRM"]) == ("warning", "warning")
    assert "SCHEDULE_TIMEZONE names no time zone" in findings["schedule"]["detail"]
    assert "and the table has 1,000" in findings["record set"]["detail"]
    assert "Nowhere_c" in findings["custom fields"]["detail"]
    assert "ORACLE_GEO_FIELD" in findings["custom fields"]["advice"]
    assert code == 1


def test_deals_that_the_account_sees_only_since_lately(pipeline: Pipeline) -> None:
    pipeline.crm.settings(visible="StatusCode = 'OPEN'")
    here = pipeline.sync()["new_records"]
    pipeline.crm.settings(visible="")
    findings, _ = examine(pipeline)
    assert findings["record set"]["status"] == "warning"
    assert f"1,000 rows, and only {here:,} are here" in findings["record set"]["detail"]
    assert "--full-refresh" in findings["record set"]["advice"]

    # What is rejected has come as far as it can.
    pipeline.query(
        """
        insert into rejected_records (record_key, stream, remote_id, reason, payload,
            first_seen_at, last_seen_at)
        select 'opportunities:' || key, 'opportunities', key, 'Name: too long', '{}', now(), now()
        from generate_series(1, %s) as key
        """,
        1000 - here,
    )
    findings, _ = examine(pipeline)
    assert findings["record set"]["status"] == "ok"


def test_a_failed_sync_and_an_account_that_sees_nothing(pipeline: Pipeline) -> None:
    pipeline.crm.settings(forbidden=["opportunities"])
    assert pipeline.meltano("run", "sync").returncode != 0
    findings, code = examine(pipeline)
    assert findings["last sync"]["status"] == "error"
    assert "403" in findings["last sync"]["detail"]
    assert (findings["crm"]["status"], findings["credentials"]["status"]) == ("ok", "error")
    assert "administrator" in findings["credentials"]["advice"]
    assert code == 1

    pipeline.crm.settings(forbidden=[], visible="OptyId < 0")
    findings, code = examine(pipeline)
    assert findings["record set"]["status"] == "error"
    assert "TAP_ORACLE_CRM_FINDER" in findings["record set"]["advice"]
    assert code == 1


@pytest.mark.parametrize(
    ("changed", "check", "detail"),
    [
        ({"ORACLE_PASS": PASSWORD}, "credentials", "refused the user name or password"),
        ({"ORACLE_BASE_URL": "http://127.0.0.1:9"}, "crm", "cannot be reached"),
        ({"ORACLE_BASE_URL": ""}, "crm", "base_url is not set"),
        ({"ORACLE_PASS": ""}, "crm", "No credentials"),
    ],
)
def test_a_crm_that_cannot_be_used(
    pipeline: Pipeline, changed: dict[str, str], check: str, detail: str
) -> None:
    # Without a database the rest of the checks still run; and sooner.
    unreachable = f"postgresql://sync:{ENCODED}@127.0.0.1:9/crm"
    findings, code = examine(pipeline, DATABASE_URL=unreachable, **changed)
    assert findings["database"]["status"] == "error"
    assert findings[check]["status"] == "error"
    assert detail in findings[check]["detail"]
    assert findings[check]["advice"]
    assert code == 1


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        (f"mysql://sync:{ENCODED}@127.0.0.1/crm", "must look like postgresql://"),
        (f"postgresql://sync:{PASSWORD}@127.0.0.1/crm", "is no URL"),
    ],
)
def test_a_database_that_cannot_be_used(pipeline: Pipeline, url: str, detail: str) -> None:
    findings, code = examine(pipeline, DATABASE_URL=url)
    assert detail in findings["database"]["detail"]
    assert findings["credentials"]["status"] == "ok"
    assert code == 1


def test_a_setting_that_is_wrong(pipeline: Pipeline) -> None:
    findings, code = examine(pipeline, API_PORT="web")
    assert findings["settings"]["status"] == "error"
    assert findings["settings"]["detail"].startswith("API_PORT: ")
    assert code == 1


def test_a_refused_role_and_a_database_without_tables(pipeline: Pipeline) -> None:
    postgres = pipeline.database.rsplit("/", 1)[0]
    pipeline.query("create database empty_one")
    findings, code = examine(pipeline, DATABASE_URL=f"{postgres}/empty_one")
    assert findings["migrations"]["status"] == "error"
    assert findings["migrations"]["advice"] == "Run make setup."
    assert code == 1

    with psycopg.connect(f"{postgres}/empty_one", autocommit=True) as connection:
        connection.execute("create table tokens (id int)")
    findings, code = examine(pipeline, DATABASE_URL=f"{postgres}/empty_one")
    (obstacle,) = obstacles(f"{postgres}/empty_one", Purpose.MIGRATE)
    assert findings[obstacle.check]["detail"] == obstacle.detail
    assert findings[obstacle.check]["advice"] == obstacle.remedy
    assert "migrations" not in findings  # its advice would lead in a circle
    assert code == 1

    at = postgres.split("@")[1]
    findings, _ = examine(pipeline, DATABASE_URL=f"postgresql://postgres:{ENCODED}@{at}/empty_one")
    assert "authentication failed" in findings["database"]["detail"]
    assert "user and password" in findings["database"]["advice"]


def test_what_is_under_way_is_told(pipeline: Pipeline) -> None:
    with live_run(pipeline.database, kind="reconcile"):
        findings, _ = examine(pipeline)
    assert findings["run"]["detail"].startswith("a reconcile is under way since ")


def test_a_disk_that_fills() -> None:
    assert [disk(free).status for free in (0, GIGABYTE, 100 * GIGABYTE)] == [
        "error",
        "warning",
        "ok",
    ]
