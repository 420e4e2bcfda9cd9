"""Only the database's clock decides anything, even if the hosts' clocks differ much."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from oracle_crm_sandbox import Sandbox

from tests.conftest import PIPELINE, Pipeline, assert_equal_to_crm

pytestmark = pytest.mark.commands
HOURS = {"+1d": 24, "+0": 0, "-1d": -24}


@pytest.fixture
def pipeline(database: str, sandbox: Sandbox, tmp_path: Path, parsed: Path) -> Pipeline:
    """The pipeline on a host whose clock can be wrong: its commands take the time of FAKETIME."""
    faketime = shutil.which("faketime")
    assert faketime, "Debian's faketime is needed: make test-commands installs it"
    environment = subprocess.check_output([faketime, "-f", "+0", "env"], text=True)
    (library,) = re.findall("^LD_PRELOAD=(.+)", environment, re.MULTILINE)
    # Commands of a warm project would have to read FAKETIME again, which is no call for threads.
    pipeline = Pipeline(database, sandbox, tmp_path, parsed)
    pipeline.environment["LD_PRELOAD"] = library
    return pipeline


def at(pipeline: Pipeline, shift: str, *blocks: str) -> dict[str, Any]:
    """Run Meltano on a machine whose clock is wrong by `shift`; return the log's newest run."""
    done = pipeline.meltano("run", *blocks, FAKETIME=shift)
    assert done.returncode == 0, done.stdout
    (printed,) = re.findall(r"^(\S+T\S+Z)", done.stdout, re.MULTILINE)[-1:]
    ahead = datetime.fromisoformat(printed) - datetime.now(UTC)
    assert round(ahead.total_seconds() / 3600) == HOURS[shift]
    (last,) = pipeline.query("select * from run_logs order by id desc limit 1")
    return last


@pytest.mark.usefixtures("synced")
def test_a_day_ahead_then_right_then_a_day_behind(pipeline: Pipeline) -> None:
    chosen = [row["OptyId"] for row in pipeline.crm.rows()[:300]]

    def change(text: str) -> None:
        for key in chosen:
            pipeline.crm.update(key, Name=f"{text} {key}")

    for number, shift in enumerate(("+1d", "+0", "-1d", "+0")):
        change(f"Round {number}")
        run = at(pipeline, shift, *PIPELINE)
        assert (run["status"], run["updated_records"]) == ("SUCCESS", 300), shift
        assert_equal_to_crm(pipeline)
    # The log has the right order, with all clocks; no run ended in the future.
    assert pipeline.last_sync()["run_id"] == run["run_id"]
    assert (
        pipeline.query("select from run_logs where completed_at > now() or started_at > now()")
        == []
    )


@pytest.mark.usefixtures("synced")
@pytest.mark.parametrize(("loading", "merging"), [("+1d", "-1d"), ("-1d", "+1d")])
def test_two_hosts_and_a_run_that_ended_between_load_and_merge(
    pipeline: Pipeline, loading: str, merging: str
) -> None:
    changed = pipeline.crm.mutate(update=40, create=4)
    at(pipeline, loading, "tap-oracle-crm", "target-postgres")
    assert pipeline.last_sync()["status"] == "FAILED"
    pipeline.crm.update(changed["updated"][0], Name="Changed once more")
    run = at(pipeline, merging, *PIPELINE)
    # The records that the run before had loaded are merged and counted now.
    assert (run["status"], run["new_records"], run["updated_records"]) == ("SUCCESS", 4, 40)
    assert_equal_to_crm(pipeline)
    pipeline.crm.delete(changed["created"][0])
    at(pipeline, loading, "reconcile")
    assert_equal_to_crm(pipeline)
