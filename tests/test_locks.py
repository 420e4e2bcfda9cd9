"""A sync waits for a lock a bounded time, and says who holds it; no server's time-out ends it."""

import threading
from contextlib import closing

import psycopg
import pytest

from database.locks import naming_holder
from tests.conftest import PIPELINE, Pipeline, assert_equal_to_crm


@pytest.mark.parametrize(
    ("table", "who"),
    [("public.opportunities", "dbt"), ("raw.opportunities", "target-postgres")],
)
def test_a_sync_that_waits_for_a_lock_fails_and_names_its_holder(
    synced: Pipeline, table: str, who: str
) -> None:
    synced.crm.update(synced.crm.rows()[0]["OptyId"], Name="Another")
    holder = psycopg.connect(synced.database, application_name="report")
    with closing(holder):
        holder.execute(f"lock table {table}".encode())
        done = synced.meltano("run", *PIPELINE, SYNC_LOCK_TIMEOUT="4")
        assert done.returncode == 1
        pid = holder.info.backend_pid
        assert f"{who} waits for a lock that process {pid} (report, role " in done.stdout
        assert f"To end that: select pg_terminate_backend({pid})" in done.stdout
    failed = synced.last_sync()
    assert failed["status"] == "FAILED"
    assert "due to lock timeout" in failed["error_message"]
    assert f". It waited for a lock that process {pid} (report, " in failed["error_message"]
    assert synced.sync()["status"] == "SUCCESS"
    assert_equal_to_crm(synced)


def test_a_sync_that_can_not_register_names_the_holder_too(synced: Pipeline) -> None:
    holder = psycopg.connect(synced.database, application_name="report")
    with closing(holder):
        holder.execute("lock table load_fence")
        done = synced.meltano("run", *PIPELINE, SYNC_LOCK_TIMEOUT="1")
        assert done.returncode == 1
        last = done.stdout.strip().splitlines()[-1]
        pid = holder.info.backend_pid
        assert last.startswith("The database did not give a lock within 1 s: process ")
        assert last.endswith(f"holds it. To end that: select pg_terminate_backend({pid})")
        with psycopg.connect(synced.database, autocommit=True) as other:
            other.execute(last.rpartition(": ")[2].encode())
        assert synced.sync()["status"] == "SUCCESS"


def test_a_server_that_ends_idle_transactions(synced: Pipeline) -> None:
    # Meltano's session is idle in a transaction for as long as the tap and dbt work.
    synced.query("alter database test set idle_in_transaction_session_timeout = '500ms'")
    synced.crm.fault("latency", ms=1000)
    assert synced.sync()["status"] == "SUCCESS"


def test_who_looks_for_the_holder_has_ended_when_the_work_has(postgres: str) -> None:
    """The C library has no protection for threads that read variables that another one sets."""
    with psycopg.connect(f"{postgres}/postgres") as connection:
        for _ in range(300):
            with naming_holder(connection, 60):
                pass
            assert "locks" not in {thread.name for thread in threading.enumerate()}
