"""`make schedule`: run Meltano's schedules when they are due.

Meltano declares schedules but does not run them. `cron` calculates the due times, APScheduler
waits for them, and Meltano runs the jobs, one after the other. `public.schedules` stores the next
due time of each schedule: if it was missed, because the machine slept or the scheduler was down,
it runs once afterwards. If a job fails, it is retried after growing pauses, even if the scheduler
restarts meanwhile. Until the last retry has failed, `last_succeeded` is null, and no alert is
sent. Only one scheduler works at a time; another waits until it has ended.

Administrators pause and resume schedules and start them now: they write that to `public.schedules`,
and the scheduler looks every few seconds. What is due during a pause does not run later.

Settings: SCHEDULE_TIMEZONE (UTC), SCHEDULE_RETRY_MINUTES (1,5,15).
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any, LiteralString

import psycopg
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from psycopg.rows import dict_row

from database.address import database_url, url_for
from database.environment import ROOT
from database.migrate import migrate_if_needed
from database.settings import read_settings
from notifications.watcher import watching
from orchestrate.cron import CronTrigger, ScheduleError, time_zone
from runs import control, registry
from runs.control import MELTANO
from runs.registry import Job

HEARTBEAT_SECONDS = 15
ORDERS_SECONDS = 3
RETRY, WANTED = " (again)", " (now)"
KEEPALIVES = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

log = logging.getLogger("scheduler")

BEGUN: LiteralString = """
update schedules set last_run_at = now(), last_succeeded = null, attempt = %s where name = %s
"""


TAKE_WANTED: LiteralString = """
with wanted as (
    select name, wanted_by from schedules where wanted_by is not null for update
)

update schedules set wanted_by = null
from wanted
where schedules.name = wanted.name
returning schedules.name, wanted.wanted_by
"""
GIVE_UP: LiteralString = "update schedules set last_succeeded = false where name = %s"


class CancelledError(Exception):
    """A user cancelled the run, so it must not be retried in a minute."""


class Scheduler:
    """Runs the schedules of `meltano.yml` by the clock of one time zone."""

    def __init__(self, url: str) -> None:
        self._url, self._own_url = url, url_for("run", url)
        self._timezone = time_zone()
        minutes = read_settings().schedule_retry_minutes
        self._pauses = [timedelta(minutes=pause) for pause in minutes]
        self._is_stopping = False
        self._jobs: dict[str, Job] = {}
        self._scheduler = BlockingScheduler(
            timezone=self._timezone,
            # One thread: jobs that are due together run one after the other.
            executors={"default": ThreadPoolExecutor(1), "heartbeat": ThreadPoolExecutor(1)},
            # A missed job runs once, however often it was missed and however late it is.
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )

    def run(self) -> None:
        """Run until SIGTERM or Ctrl-C; then wait for the running job."""
        while not self._acquire_lock():
            log.info("another scheduler works on this database: waiting")
            time.sleep(HEARTBEAT_SECONDS)
        schedules = declared_schedules()
        self._jobs = {
            schedule["job"]["name"]: Job.of(" ".join(schedule["job"]["tasks"]).split())
            for schedule in schedules
        }
        known = self._store_schedules(schedules)
        for schedule in schedules:
            self._plan(schedule, known[schedule["name"]])
        self._scheduler.add_job(
            self._write_heartbeat,
            "interval",
            seconds=HEARTBEAT_SECONDS,
            executor="heartbeat",
            next_run_time=datetime.now(UTC),
        )
        self._scheduler.add_job(
            self._take_orders, "interval", seconds=ORDERS_SECONDS, executor="heartbeat"
        )
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self._scheduler.start()

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        log.info("stopping (%s)", signal.Signals(number).name)
        self._is_stopping = True
        self._scheduler.shutdown(wait=False)

    def _acquire_lock(self) -> bool:
        """Connect, and try to lock the database against other schedulers; return the success."""
        self._connection = psycopg.connect(self._own_url, autocommit=True, connect_timeout=10)
        # If this machine dies, PostgreSQL frees the lock after a minute.
        for name, value in KEEPALIVES.items():
            self._connection.execute("select set_config(%s, %s, false)", [name, value])
        row = self._connection.execute(
            "select pg_try_advisory_lock(hashtext('oracle_crm_sync.scheduler'))"
        ).fetchone()
        return bool(row and row[0])

    def _plan(self, schedule: dict[str, Any], known: dict[str, Any]) -> None:
        """Plan a schedule's next run, and a retry or missed run of an earlier scheduler.

        A paused schedule is planned when somebody resumes it.
        """
        name, job = schedule["name"], schedule["job"]["name"]
        trigger = CronTrigger(schedule["cron_interval"], self._timezone)
        now = datetime.now(UTC)
        due, planned = known["next_run_at"], trigger.get_next_fire_time(None, now)
        is_undecided = known["last_run_at"] is not None and known["last_succeeded"] is None
        is_paused = known["paused_at"] is not None
        is_missed = due is not None and due < now and not is_undecided and not is_paused
        self._scheduler.add_job(
            self._run_job,
            trigger,
            args=[name, job],
            id=name,
            **({"next_run_time": now} if is_missed else {}),
            **({"next_run_time": None} if is_paused else {}),
        )
        if is_missed:
            log.info("%s was missed: it runs now", name)
        elif is_undecided and is_paused:
            self._update_schedule(GIVE_UP, [name])
        elif is_undecided:
            # The earlier scheduler ended while it waited for the retry, or during an attempt.
            at = max(due, now) if due is not None and planned and due < planned else now
            self._retry(name, job, known["attempt"], at)

    def _store_schedules(self, schedules: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Write the schedules to the database, and return its row for each name."""
        with psycopg.connect(self._own_url, autocommit=True, row_factory=dict_row) as connection:
            names = [schedule["name"] for schedule in schedules]
            connection.execute("delete from schedules where name != all(%s)", [names])
            for schedule in schedules:
                connection.execute(
                    """
                    insert into schedules (name, job, tasks, interval, timezone)
                    values (%s, %s, %s, %s, %s)
                    on conflict (name) do update set
                        job = excluded.job,
                        tasks = excluded.tasks,
                        interval = excluded.interval,
                        timezone = excluded.timezone
                    """,
                    [
                        schedule["name"],
                        schedule["job"]["name"],
                        " ".join(self._jobs[schedule["job"]["name"]].blocks),
                        schedule["cron_interval"],
                        self._timezone.key,
                    ],
                )
            found = connection.execute("select * from schedules").fetchall()
        return {row["name"]: row for row in found}

    def _write_heartbeat(self) -> None:
        """Write the heartbeat, and the next due time of each schedule."""
        due: dict[str, list[datetime]] = {}
        for job in self._scheduler.get_jobs():
            times = due.setdefault(job.id.removesuffix(RETRY).removesuffix(WANTED), [])
            # One that is wanted now begins at once, and is no plan.
            if job.next_run_time is not None and not job.id.endswith(WANTED):
                times.append(job.next_run_time)
        if self._connection.closed and not self._acquire_lock():
            log.error("another scheduler took over while the database was unreachable: stopping")
            self._scheduler.shutdown(wait=False)
            return
        for name, times in due.items():
            self._connection.execute(
                "update schedules set next_run_at = %s, heartbeat_at = now() where name = %s",
                [min(times, default=None), name],
            )

    def _take_orders(self) -> None:
        """Pause, resume and start schedules as administrators have ordered."""
        if self._connection.closed:
            return  # the heartbeat connects again
        orders = self._connection.execute("select name, job, paused_at is not null from schedules")
        jobs, has_changed = {}, False
        for name, job, is_paused in orders.fetchall():
            jobs[name] = job
            planned = self._scheduler.get_job(name)
            if planned is None:
                continue
            if is_paused and planned.next_run_time is not None:
                log.info("%s is paused", name)
                planned.pause()
                has_changed = True
            elif not is_paused and planned.next_run_time is None:
                log.info("%s is resumed", name)
                planned.resume()
                has_changed = True
            if is_paused and self._scheduler.get_job(name + RETRY):
                self._scheduler.remove_job(name + RETRY)
                self._update_schedule(GIVE_UP, [name])
        for name, wanted_by in self._connection.execute(TAKE_WANTED).fetchall():
            log.info("%s: %s wants it to run now", name, wanted_by)
            self._scheduler.add_job(
                self._run_job,
                args=[name, jobs[name]],
                kwargs={"requested_by": wanted_by},
                id=name + WANTED,
                replace_existing=True,
            )
        if has_changed:
            self._write_heartbeat()

    def _run_job(
        self, name: str, job: str, attempt: int = 1, requested_by: str | None = None
    ) -> None:
        log.info("%s: meltano run %s (attempt %d)", name, job, attempt)
        if attempt == 1 and self._scheduler.get_job(name + RETRY):
            self._scheduler.remove_job(name + RETRY)  # this run replaces the retry
        self._update_schedule(BEGUN, [attempt, name])
        try:
            if self._jobs[job].loads:
                succeeded = self._run_load(job, requested_by)
            else:
                succeeded = self._run_meltano(job)
        except CancelledError as error:
            log.info("%s: %s There is no retry before it is due again", name, error)
            self._update_schedule(GIVE_UP, [name])
            return
        except psycopg.OperationalError as error:
            log.error("%s: the database cannot be used: %s", name, error)
            succeeded = False
        except OSError as error:
            log.error("%s: it can't be started: %s", name, error)
            succeeded = False
        if succeeded:
            log.info("%s: done", name)
            self._update_schedule(
                "update schedules set last_succeeded = true where name = %s", [name]
            )
        else:
            pauses = [*self._pauses, timedelta()]
            at = datetime.now(UTC) + pauses[min(attempt, len(pauses)) - 1]
            self._retry(name, job, attempt, at)

    def _retry(self, name: str, job: str, attempt: int, at: datetime) -> None:
        """Plan a retry after a failed attempt, or give up after the last."""
        if attempt > len(self._pauses):
            log.error("%s: failed %d times; no retry before it is due again", name, attempt)
            self._update_schedule(GIVE_UP, [name])
            return
        log.warning("%s: failed, retry at %s", name, at.isoformat(timespec="seconds"))
        self._scheduler.add_job(
            self._run_job,
            "date",
            run_date=at,
            args=[name, job, attempt + 1],
            id=name + RETRY,
            replace_existing=True,
        )
        self._update_schedule(
            "update schedules set next_run_at = least(next_run_at, %s) where name = %s", [at, name]
        )

    def _update_schedule(self, statement: LiteralString, values: list[object]) -> None:
        """Update a schedule's row; wait for the database if it cannot be reached."""
        while True:
            try:
                with psycopg.connect(self._own_url, autocommit=True) as connection:
                    connection.execute(statement, values)
                return
            except psycopg.OperationalError:
                if self._is_stopping:
                    raise
                log.warning("the database cannot be reached: waiting")
                time.sleep(1)

    def _run_meltano(self, job: str) -> bool:
        environment = os.environ | {"MELTANO_JOB_TRIGGER": "schedule"}
        done = subprocess.run([MELTANO, "run", job], cwd=ROOT, env=environment, check=False)
        return done.returncode == 0

    def _run_load(self, job: str, requested_by: str | None) -> bool:
        """Run a job that loads, after any other load has ended.

        If a run of the same kind is running already, its result counts for this job.
        """
        while True:
            try:
                run_id = control.start(
                    self._url,
                    False,
                    "schedule",
                    requested_by,
                    argv=[MELTANO, "run", job],
                    job=self._jobs[job],
                )["run_id"]
            except control.RunningError as running:
                log.info("%s waits: %s", job, running)
                run_id = running.run_id
                if running.kind != self._jobs[job].kind:
                    self._wait_for(run_id)
                    continue
            ended = self._wait_for(run_id)
            if ended["end_reason"] == "cancelled":
                raise CancelledError(ended["error_message"])
            if ended["status"] == "FAILED":
                log.error("%s failed: %s", job, ended["error_message"])
            return bool(ended["status"] == "SUCCESS")

    def _wait_for(self, run_id: object) -> dict[str, Any]:
        """Wait until a run has ended; return its row of `run_logs`."""
        with psycopg.connect(self._own_url, autocommit=True, row_factory=dict_row) as connection:
            while True:
                registry.settle(connection)
                (run,) = connection.execute(
                    "select * from run_logs where run_id = %s", [run_id]
                ).fetchall()
                if run["status"] != "RUNNING":
                    return run
                time.sleep(1)


def declared_schedules(timeout: float | None = None) -> list[dict[str, Any]]:
    """Return the schedules of `meltano.yml`, except those that are started by hand (`@manual`).

    Raises:
        CalledProcessError: Meltano can't list them.
        TimeoutExpired: it takes longer than the timeout, in seconds.
    """
    listed = subprocess.run(
        [MELTANO, "schedule", "list", "--format=json"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=timeout,
    ).stdout
    return [one for one in json.loads(listed)["schedules"]["job"] if one["cron_interval"]]


def main() -> None:
    """Run the scheduler in the foreground."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    url = database_url()
    try:
        watcher = watching(url, read_settings())
    except ValueError as error:
        sys.exit(str(error))
    with watcher:
        migrate_if_needed(url)
        try:
            Scheduler(url).run()
        except ScheduleError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
