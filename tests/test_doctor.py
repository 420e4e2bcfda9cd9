"""`make doctor` finds each fault, says what to do, and tells no secret."""

import json
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from database.address import url_for
from database.migrate import migrate
from database.preflight import Purpose, obstacles
from orchestrate import doctor
from orchestrate.doctor import GIGABYTE, Check, Examination, Finding, checks, disk
from runs import registry
from runs.registry import Job
from tests.conftest import Pipeline, wait_until
from tests.receiver import Receiver
from tests.runs import add_run, live_run

pytestmark = pytest.mark.commands

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
    done = pipeline.module("orchestrate.doctor", "--json", "--within", "300", **environment)
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
    pipeline.environment["NOTIFY_URLS"] = "json://127.0.0.1:9/ops"  # called with --notify alone
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

    done = pipeline.module("orchestrate.doctor")
    assert "✓ credentials" in done.stdout


@pytest.mark.usefixtures("synced")
def test_what_went_stale_and_what_does_not_fit(pipeline: Pipeline) -> None:
    columns = ("started_at", "ended_at", "heartbeat_at", "transform_completed_at")
    for column in columns:
        pipeline.query(f"update sync_runs set {column} = now() - interval '3 days'")  # noqa: S608
    add_run(pipeline.database, "-2 hours", kind="reconcile")
    pipeline.query(
        """
        insert into schedules (name, job, interval, timezone, heartbeat_at, paused_at, paused_by)
        values ('nightly', 'sync', '0 0 * * *', 'UTC', now() - interval '2 hours', now(), 'olga')
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
    assert findings["paused schedule"]["detail"].startswith("nightly, by olga since ")
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


def look(url: str, *names: str) -> dict[str, Finding]:
    """Make some of the checks in this process; return what they find, by its lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        patch.setattr("orchestrate.doctor.database_url", lambda: url)
        made = [check for check in checks() if check.name in names]
        return {finding.check: finding for finding in doctor.examine(made)}


def apply(url: str, remedy: str) -> None:
    """Run the SQL at the end of a finding's advice, as a person would paste it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(remedy.rpartition(": ")[2].encode())


def test_checks_for_which_no_time_is_left_are_named() -> None:
    def wait(_: Examination) -> list[Finding]:
        time.sleep(5)
        return []

    made = [Check("slow", wait), Check("other", lambda _: [Finding("other", "ok", "looked at")])]
    slow, other = doctor.examine(made, seconds=0.1)
    assert (slow.check, slow.status) == ("slow", "error")
    assert slow.detail.startswith("no answer within")
    assert (other.check, other.status) == ("other", "warning")
    assert "not looked at" in other.detail


def test_a_setting_that_is_wrong(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "web")
    found = look(database, "settings")["settings"]
    assert found.status == "error"
    assert found.detail.startswith("API_PORT: ")


def test_a_database_without_tables(postgres: str, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("drop database if exists empty_one")
        connection.execute("create database empty_one owner oracle_crm_migrate")
    found = look(f"{postgres}/empty_one", "database", "migrations", "objects", "last sync")
    assert found["migrations"] == Finding(
        "migrations", "error", "the database has no tables yet", "Run make setup."
    )
    assert found.keys() == {"database", "migrations"}

    with psycopg.connect(f"{postgres}/empty_one", autocommit=True) as connection:
        connection.execute("create table tokens (id int)")
    found = look(f"{postgres}/empty_one", "database", "fitness", "migrations")
    (obstacle,) = obstacles(url_for("migrate", f"{postgres}/empty_one"), Purpose.MIGRATE)
    assert found[obstacle.check].detail == obstacle.detail
    assert found[obstacle.check].advice == obstacle.remedy
    assert "migrations" not in found  # its advice would lead in a circle


def test_what_is_under_way_is_told(database: str) -> None:
    with live_run(database, kind="reconcile"):
        found = look(database, "database", "migrations", "objects", "runs")
    assert found["run"].detail.startswith("a reconcile is under way since ")


def test_who_holds_the_lock_that_a_sync_waits_for(database: str) -> None:
    names = ("database", "locks", "migrations", "objects", "last sync", "deals")
    with (
        closing(psycopg.connect(database, application_name="report")) as holder,
        ThreadPoolExecutor() as threads,
    ):
        holder.execute("lock table opportunities, sync_runs")
        job = Job.of(["tap-oracle-crm", "target-postgres"])
        sync = threads.submit(registry.register, database, str(uuid.uuid4()), job, None)
        wait_until(lambda: look(database, "database", "locks")["locks"].status == "error")
        began = time.monotonic()
        found = look(database, *names)
        assert time.monotonic() - began < 15
        process = f"process {holder.info.backend_pid} (report, role postgres, since 20"
        assert found["locks"].detail.startswith("process ")
        assert f"(runs) waits for a lock that {process}" in found["locks"].detail
        for check in ("last sync", "deals"):
            assert found[check].status == "error"
            assert found[check].detail.startswith(process)
        apply(database, found["deals"].advice)
        assert sync.result(timeout=60) == 1
    assert look(database, *names)["locks"] == Finding("locks", "ok", "nobody waits for one")


def test_who_has_forgotten_a_transaction(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_LOCK_TIMEOUT", "1")
    with closing(psycopg.connect(database, application_name="shell")) as shell:
        shell.execute("update sync_wanted set events = events")
        wait_until(lambda: look(database, "database", "locks")["locks"].status == "warning")
        found = look(database, "database", "locks")["locks"]
        assert found.detail.startswith(f"process {shell.info.backend_pid} (shell, role postgres")
        apply(database, found.advice)
    assert look(database, "database", "locks")["locks"].status == "ok"


@pytest.mark.usefixtures("one_role")
def test_a_server_that_lets_no_more_sessions_in(postgres: str, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("drop role if exists crowded")
        connection.execute("create role crowded login password 'secret' connection limit 0")
        url = f"postgresql://crowded:secret@{postgres.split('@')[1]}/test"
        found = look(url, "database")["database"]
        assert found.status == "error"
        assert "lets no more sessions in" in found.advice
        assert "connection limit" in found.advice
        connection.execute("alter role crowded connection limit 1")
        assert look(url, "database")["database"].status == "ok"
        connection.execute("drop role crowded")


@pytest.mark.usefixtures("one_role")
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("postgresql://{user}@{server}/no_such_database", "Correct the database's name"),
        (f"postgresql://postgres:{ENCODED}@{{server}}/postgres", "Check user and password"),
        ("postgresql://postgres@127.0.0.1:9/postgres", "Check host and port"),
    ],
)
def test_a_server_that_refuses_and_one_that_is_not_there(
    postgres: str, address: str, words: str
) -> None:
    user, server = postgres.removeprefix("postgresql://").split("@")
    found = look(address.format(user=user, server=server), "database")["database"]
    assert found.status == "error"
    assert words in found.advice


def test_a_check_that_gets_no_answer_ends_at_its_deadline(database: str) -> None:
    def hang(_: Examination) -> Iterator[Finding]:
        yield Finding("first", "ok", "there")
        time.sleep(5)

    def fail(_: Examination) -> Iterator[Finding]:
        raise ValueError("a fault")

    hanging = Check("crm", hang, seconds=0.2)
    first, finding, failed = doctor.examine([hanging, Check("next", fail)])
    assert first.check == "first"
    assert (finding.check, finding.status) == ("crm", "error")
    assert finding.detail == "no answer within 0.2 s"
    assert (failed.status, failed.detail) == ("error", "ValueError: a fault")


@pytest.mark.usefixtures("one_role")
def test_the_servers_disk_where_it_can_be_seen(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = look(database, "database", "size")["server's disk"]
    assert re.fullmatch(r"the database has \d+ (kB|MB), [\d,.]+ GB free", seen.detail)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("drop role if exists blind")
        connection.execute("create role blind login password 'secret'")
        url = database.replace(database.split("//")[1].split("@")[0], "blind:secret")
        assert "can't be seen from here" in look(url, "database", "size")["server's disk"].detail
        connection.execute("drop role blind")


def test_many_deals_are_not_counted_one_by_one(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrate.doctor.MANY", 100)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "insert into opportunities (remote_id, deleted_at)"
            " select n, case when n % 4 = 0 then now() end from generate_series(1, 400) as n"
        )
        connection.execute("analyze opportunities")
        connection.execute("delete from opportunities where remote_id::int > 200")
    examination = Examination()
    monkeypatch.setattr("orchestrate.doctor.database_url", lambda: database)
    for check in checks():
        if check.name in {"database", "deals"}:
            list(check.look(examination))
    assert examination.held is not None
    assert examination.held.rows == 300  # as the statistics still say


def test_whether_anybody_is_told(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_URLS", raising=False)
    found = look(database, "notifications")["notifications"]
    assert (found.status, found.advice) == ("warning", "Set NOTIFY_URLS.")
    monkeypatch.setenv("NOTIFY_URLS", "nonsense")
    assert look(database, "notifications")["notifications"].status == "error"
    with Receiver() as receiver:
        receiver.refusing["second"] = 500
        monkeypatch.setenv("NOTIFY_URLS", f"{receiver.url('first')} {receiver.url('second')}")
        assert look(database, "notifications")["notifications"].status == "ok"
        assert receiver.received == []
        sent = list(doctor.examine([Check("notification", doctor.sent_test)]))
        assert [finding.status for finding in sent] == ["ok", "error"]
        assert [service for service, _ in receiver.received] == ["first"]


def test_a_vote_that_nobody_can_give_is_named(database: str) -> None:
    names = ("database", "migrations", "objects", "approvals")
    assert look(database, *names)["approvals"].detail == "a manager decides"
    decisions = """
        {"functions": {"head": {"label": "Practice head", "by": "practice"}}, "approvals": ["head"]}
    """
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "insert into declarations (section, content) values ('decisions', %s)", [decisions]
        )
        found = look(database, *names)["approvals"]
        assert (found.status, found.detail) == (
            "warning",
            "nobody can give the vote of: Practice head (deals that wait: 0)",
        )
        connection.execute(
            """
            insert into users (name, role) values ('ada', 'viewer'), ('bob', 'assessor');
            insert into user_functions values (1, 'head', 'Data');
            insert into opportunities (remote_id) values ('1');
            insert into assessments (
                opportunity_id, version, criteria_id, status, submitted_by, submitted_at, approvals
            )
            select 1, 1, min(id), 'SUBMITTED', 2, now(),
                '[{"function": "head", "label": "Practice head", "value": "Cloud"}]'
            from declarations
            """
        )
        found = look(database, *names)["approvals"]
        assert "Practice head for Cloud (deals that wait: 1)" in found.detail
        connection.execute("insert into user_functions values (1, 'head', 'Cloud')")
        assert look(database, *names)["approvals"].status == "ok"


def test_deals_that_were_written_without_the_triggers(database: str) -> None:
    names = ("database", "migrations", "objects", "totals")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "insert into opportunities (remote_id, stage, deal_value)"
            " select n, n % 2, 1.50 from generate_series(1, 4) as n"
        )
        # A transaction that is open leaves a group in two rows.
        with psycopg.connect(database) as other:
            other.execute("update opportunities set deal_value = 2 where remote_id = '1'")
            connection.execute("update opportunities set deal_value = 3 where remote_id = '3'")
        assert look(database, *names)["totals"].status == "ok"
        connection.execute(
            """
            alter table opportunities disable trigger user;
            update opportunities set stage = '3' where remote_id = '1';
            alter table opportunities enable trigger user;
            """
        )
    found = look(database, *names)["totals"]
    assert (found.status, found.advice) == ("warning", "Run make setup: it counts again.")
    assert ": 2 sums are not" in found.detail
    migrate(database)
    assert look(database, *names)["totals"].status == "ok"


def test_runs_in_the_future_are_named_until_the_clock_is_right(database: str) -> None:
    names = ("database", "migrations", "objects", "runs")
    add_run(database, "-2 hours", kind="reconcile")
    found = look(database, *names)["clock of the runs"]
    assert found.status == "warning"
    assert "correct it (NTP)" in found.advice
    with psycopg.connect(database, autocommit=True) as connection:  # two hours later
        connection.execute(
            """
            update sync_runs set
                started_at = started_at - interval '3 hours',
                ended_at = ended_at - interval '3 hours',
                heartbeat_at = heartbeat_at - interval '3 hours'
            """
        )
    assert "clock of the runs" not in look(database, *names)


def test_a_disk_that_fills() -> None:
    assert [disk(free).status for free in (0, GIGABYTE, 100 * GIGABYTE)] == [
        "error",
        "warning",
        "ok",
    ]


@pytest.mark.parametrize(("mode", "found"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o644, 1)])
def test_a_settings_file_that_others_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, found: int
) -> None:
    file = tmp_path / ".env"
    file.write_text("ORACLE_PASS=secret\n")
    file.chmod(mode)
    monkeypatch.setenv("ORACLE_CRM_SYNC_ENV_FILE", str(file))
    findings = list(doctor.secret_file(Examination()))
    assert [finding.status for finding in findings] == ["warning"] * found
    assert all(f"chmod 600 {file}" in finding.advice for finding in findings)


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        ("db.example.com/crm", 1),
        ("db.example.com/crm?sslmode=prefer", 1),
        ("db.example.com/crm?sslmode=require", 0),
        ("db.example.com/crm?sslmode=verify-full", 0),
        ("127.0.0.1/crm", 0),
        ("localhost/crm", 0),
        ("/crm?host=/run/postgresql", 0),
    ],
)
def test_a_database_elsewhere_without_encryption(
    monkeypatch: pytest.MonkeyPatch, rest: str, found: int
) -> None:
    monkeypatch.delenv("DATABASE_DIRECT_URL", raising=False)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://user:{ENCODED}@{rest}")
    findings = list(doctor.encryption(Examination()))
    assert [finding.status for finding in findings] == ["warning"] * found
    assert not any(ENCODED in finding.detail + finding.advice for finding in findings)
