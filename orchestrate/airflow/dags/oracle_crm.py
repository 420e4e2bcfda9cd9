"""The DAGs: one for each schedule of `meltano.yml`, and one for a first load in partitions.

Only `meltano.yml` declares jobs and schedules. Each task is a process in the project's own
environment, which may differ from Airflow's. A worker needs the project's folder, its `.venv`, and
its settings in the environment or `.env`.

Settings: SCHEDULE_TIMEZONE (UTC) and SCHEDULE_RETRY_MINUTES (1,5,15), from Airflow's own
environment, since Airflow does not read `.env`. There is one retry for each pause; the first pause
is doubled each time, up to the last. When a task has failed in all attempts, an alert goes to
NOTIFY_URLS.
"""

# Airflow has its own environment.
# mypy: disable-error-code="import-not-found"

import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param

PROJECT = Path(__file__).resolve().parents[3]
MELTANO, PYTHON = ".venv/bin/meltano", ".venv/bin/python"
FIRST_LOAD = f"{PYTHON} -m orchestrate.airflow.first_load"
MINUTES = os.environ.get("SCHEDULE_RETRY_MINUTES") or "1,5,15"
PAUSES = [float(pause) for pause in MINUTES.split(",")]


def declared_schedules() -> list[dict[str, Any]]:
    """Return Meltano's schedules; ask Meltano only after `meltano.yml` has changed."""
    kept = Path(os.environ.get("AIRFLOW_HOME", Path.home() / "airflow")) / "meltano-schedules.json"
    changed = (PROJECT / "meltano.yml").stat().st_mtime_ns
    if kept.exists():
        known = json.loads(kept.read_text())
        if known["changed"] == changed:
            schedules: list[dict[str, Any]] = known["schedules"]
            return schedules
    listed = subprocess.run(
        [MELTANO, "schedule", "list", "--format=json"],
        cwd=PROJECT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    schedules = json.loads(listed)["schedules"]["job"]
    written = kept.with_suffix(f".{os.getpid()}")
    written.write_text(json.dumps({"changed": changed, "schedules": schedules}))
    written.replace(kept)
    return schedules


def alert(context: Any) -> None:
    """Send an alert about a task that failed in all attempts; Airflow calls it."""
    task = context["task_instance"]
    subprocess.run(
        [
            PYTHON,
            "-m",
            "orchestrate.airflow.alert",
            f"{task.dag_id} failed",
            f"Task {task.task_id} of {task.run_id}, attempt {task.try_number}: "
            f"{context.get('exception')}",
        ],
        cwd=PROJECT,
        check=True,
    )


def warehouse(schema: str, table: str) -> Asset:
    """Return a table for Airflow's lineage, without user and password."""
    url = urlsplit(os.environ.get("DATABASE_DIRECT_URL") or os.environ.get("DATABASE_URL", ""))
    # The first of several hosts.
    server = urlsplit("//" + url.netloc.rpartition("@")[2].partition(",")[0])
    address = f"{server.hostname or 'localhost'}:{server.port or 5432}"
    return Asset(f"postgres://{address}/{url.path.strip('/') or 'oracle_crm'}/{schema}/{table}")


CRM = Asset(
    f"oraclecrm://{urlsplit(os.environ.get('ORACLE_BASE_URL', '')).netloc or 'crm'}/opportunities"
)
RAW, OPPORTUNITIES = warehouse("raw", "opportunities"), warehouse("public", "opportunities")
# The tables that each job reads and writes, for the lineage.
FLOWS: dict[str, tuple[list[Asset], list[Asset]]] = {
    "sync": ([CRM], [RAW, OPPORTUNITIES]),
    "reconcile": ([CRM], [RAW, OPPORTUNITIES]),
    "build": ([RAW], [OPPORTUNITIES]),
    "housekeeping": ([], []),
}

TASKS: dict[str, Any] = {
    "cwd": str(PROJECT),
    "append_env": True,
    "retries": len(PAUSES),
    "retry_delay": timedelta(minutes=PAUSES[0]),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=PAUSES[-1]),
    "on_failure_callback": alert,
    "skip_on_exit_code": None,
}
DAGS: dict[str, Any] = {
    # Without a start_date, the first run waits until it is due. If later runs are missed, one of
    # them runs afterwards.
    "catchup": False,
    "max_active_runs": 1,
    "tags": ["oracle-crm"],
    "default_args": TASKS,
}

for schedule in declared_schedules():
    job = schedule["job"]["name"]
    inlets, outlets = FLOWS.get(job, ([], []))
    with DAG(
        f"oracle-crm.{schedule['name']}",
        description=f"meltano run {job}: {', then '.join(schedule['job']['tasks'])}",
        schedule=CronTriggerTimetable(
            schedule["cron_interval"], timezone=os.environ.get("SCHEDULE_TIMEZONE") or "UTC"
        )
        if schedule["cron_interval"]
        else None,  # @manual
        **DAGS,
    ):
        BashOperator(
            task_id=job,
            bash_command=f"exec {MELTANO} run {job}",
            env={"MELTANO_JOB_TRIGGER": "airflow", **schedule["env"]},
            inlets=inlets,
            outlets=outlets,
        )

with DAG(
    "oracle-crm.first-load",
    description="Loads millions of deals in partitions, on several workers",
    schedule=None,
    params={"partitions": Param(16, type="integer", minimum=1, maximum=500)},
    render_template_as_native_obj=False,
    **DAGS,
):
    planned = BashOperator(
        task_id="plan",
        bash_command=f"exec {FIRST_LOAD} plan $PARTITIONS",
        env={"PARTITIONS": "{{ params.partitions }}"},
        output_processor=json.loads,
        inlets=[CRM],
    )
    # A retried or cleared partition continues, since it has its own state. Airflow runs it once at
    # a time, so a run that Meltano still shows as running is dead: --force.
    loaded = BashOperator.partial(
        task_id="load",
        bash_command=f"exec {MELTANO} run --force tap-oracle-crm-partition target-postgres",
        map_index_template="{{ task.env['TAP_ORACLE_CRM_PARTITION_FILTER'] }}",
        inlets=[CRM],
        outlets=[RAW],
    ).expand(env=planned.output)
    merged = BashOperator(
        task_id="merge",
        bash_command=f"exec {MELTANO} run dbt-postgres:run",
        inlets=[RAW],
        outlets=[OPPORTUNITIES],
    )
    handed_over = BashOperator(
        task_id="hand_over",
        bash_command=f"exec {FIRST_LOAD} hand-over $MARK",
        env={"MARK": "{{ ti.xcom_pull(task_ids='plan')[0]['FIRST_LOAD_MARK'] }}"},
    )
    synced = BashOperator(
        task_id="sync",
        bash_command=f"exec {MELTANO} run sync",
        env={"MELTANO_JOB_TRIGGER": "airflow"},
        inlets=[CRM],
        outlets=[RAW, OPPORTUNITIES],
    )
    tidied = BashOperator(task_id="tidy", bash_command=f"exec {FIRST_LOAD} tidy")
    planned >> loaded >> merged >> handed_over >> synced >> tidied
