"""`make schedule`: run what Meltano's schedules say is due.

Meltano declares schedules and has nothing that runs them. APScheduler keeps the time; what is
due goes through Meltano, one after the other. `public.schedules` remembers when each is due
next: one that was missed, since the machine slept or the scheduler was down, runs once on
return. A job that fails is tried again after growing pauses.

Settings: SCHEDULE_TIMEZONE (UTC), SCHEDULE_RETRY_MINUTES (1,5,15).
"""

import json
import logging
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.cron import CronTrigger
from psycopg.rows import dict_row

from orchestrate import sync
from orchestrate.migrate import migrate_if_needed
from orchestrate.postgres import database_url
from orchestrate.settings import ROOT, setting

HEARTBEAT_SECONDS = 15
MELTANO = str(Path(sys.executable).with_name("meltano"))

log = logging.getLogger("scheduler")


class Scheduler:
    """The schedules of `meltano.yml`, on the clock of one time zone."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._timezone = setting("SCHEDULE_TIMEZONE") or "UTC"
        pauses = setting("SCHEDULE_RETRY_MINUTES") or "1,5,15"
        self._pauses = [timedelta(minutes=float(pause)) for pause in pauses.split(",")]
        self._scheduler = BlockingScheduler(
            timezone=self._timezone,
            # One thread: what is due at once runs one after the other.
            executors={"default": ThreadPoolExecutor(1), "heartbeat": ThreadPoolExecutor(1)},
            # However often it was missed, and however late it is: once.
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )

    def run(self) -> None:
        """Run until SIGTERM or Ctrl-C; a job that runs then is waited for."""
        schedules = declared_schedules()
        missed = self._remember(schedules)
        for schedule in schedules:
            name, job = schedule["name"], schedule["job"]["name"]
            self._scheduler.add_job(
                self._run_job, self._trigger(schedule), args=[name, job], id=name,
                **({"next_run_time": datetime.now(UTC)} if name in missed else {}),
            )  # fmt: skip
        self._scheduler.add_job(
            self._beat, "interval", seconds=HEARTBEAT_SECONDS, executor="heartbeat",
            next_run_time=datetime.now(UTC),
        )  # fmt: skip
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self._scheduler.start()

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        log.info("stopping (%s)", signal.Signals(number).name)
        self._scheduler.shutdown(wait=False)

    def _trigger(self, schedule: dict[str, Any]) -> CronTrigger:
        return CronTrigger.from_crontab(schedule["cron_interval"], timezone=self._timezone)

    def _remember(self, schedules: list[dict[str, Any]]) -> set[str]:
        """Write the schedules to the database; returns those that were missed."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            names = [schedule["name"] for schedule in schedules]
            connection.execute("delete from schedules where name != all(%s)", [names])
            missed = connection.execute(
                "select name from schedules where next_run_at < now()"
            ).fetchall()
            for schedule in schedules:
                connection.execute(
                    """
                    insert into schedules (name, job, interval, timezone)
                    values (%s, %s, %s, %s)
                    on conflict (name) do update set
                        job = excluded.job,
                        interval = excluded.interval,
                        timezone = excluded.timezone
                    """,
                    [schedule["name"], schedule["job"]["name"], schedule["cron_interval"],
                     self._timezone],
                )  # fmt: skip
        for (name,) in missed:
            log.info("%s was missed: it runs now", name)
        return {name for (name,) in missed}

    def _beat(self) -> None:
        """Tell the database that the scheduler lives, and when what runs next."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            for job in self._scheduler.get_jobs():
                connection.execute(
                    "update schedules set next_run_at = %s, heartbeat_at = now() where name = %s",
                    [job.next_run_time, job.id],
                )

    def _run_job(self, name: str, job: str, attempt: int = 1) -> None:
        log.info("%s: meltano run %s (attempt %d)", name, job, attempt)
        succeeded = self._run_sync(job) if job == "sync" else self._run_meltano(job)
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(
                """
                update schedules
                set last_run_at = now(), last_succeeded = %s, attempt = %s
                where name = %s
                """,
                [succeeded, attempt, name],
            )
        if succeeded:
            log.info("%s: done", name)
        elif attempt > len(self._pauses):
            log.error("%s: failed %d times; it is not tried again before it is due", name, attempt)
        else:
            pause = self._pauses[attempt - 1]
            log.warning("%s: failed, next attempt in %s", name, pause)
            self._scheduler.add_job(
                self._run_job, "date", run_date=datetime.now(UTC) + pause,
                args=[name, job, attempt + 1],
            )  # fmt: skip

    def _run_meltano(self, job: str) -> bool:
        return subprocess.run([MELTANO, "run", job], cwd=ROOT, check=False).returncode == 0

    def _run_sync(self, job: str) -> bool:
        try:
            run = sync.start(self._url, False, "schedule", argv=[MELTANO, "run", job])
        except sync.SyncRunningError as running:
            log.info("a sync is under way already: %s", running)
            run = running.run
        with psycopg.connect(self._url, autocommit=True, row_factory=dict_row) as connection:
            while True:
                sync.settle(connection)
                (now,) = connection.execute(
                    "select status, error_message from syncs where run_id = %s", [run["run_id"]]
                ).fetchall()
                if now["status"] != "RUNNING":
                    break
                time.sleep(1)
        if now["status"] == "FAILED":
            log.error("sync failed: %s", now["error_message"])
        return bool(now["status"] == "SUCCESS")


def declared_schedules() -> list[dict[str, Any]]:
    """Return the schedules that `meltano.yml` declares."""
    listed = subprocess.run(
        [MELTANO, "schedule", "list", "--format=json"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    schedules: list[dict[str, Any]] = json.loads(listed)["schedules"]["job"]
    return schedules


def main() -> None:
    """Run the scheduler in the foreground."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    url = database_url()
    migrate_if_needed(url)
    Scheduler(url).run()


if __name__ == "__main__":
    main()
