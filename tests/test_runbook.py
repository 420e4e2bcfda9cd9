"""The commands of docs/runbook.md, section by section, with real parts."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from database.environment import ROOT
from tests.conftest import Pipeline, assert_equal_to_crm

SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
COMMANDS = re.compile(r"^( *)```sh\n(.+?)^ *```", re.MULTILINE | re.DOTALL)

Run = Callable[[str], str]


def commands() -> dict[str, str]:
    """The commands of each section; the text before the first has an empty name."""
    start, *rest = SECTION.split((ROOT / "docs" / "runbook.md").read_text())
    texts = {"": start} | dict(zip(rest[::2], rest[1::2], strict=True))
    return {
        title: "".join(script for _, script in COMMANDS.findall(text))
        for title, text in texts.items()
    }


@pytest.fixture
def run(pipeline: Pipeline, tmp_path: Path) -> Run:
    """Runs a section's commands, checks that all succeed, and returns their output."""
    places = {"STATES": str(tmp_path / "states.json"), "STATE_URI": f"file://{tmp_path}/states"}

    def run_section(title: str) -> str:
        script = commands()[title]
        assert script, title
        done = pipeline.shell(f"set -u\n{script}", **places)
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run_section


@pytest.mark.commands
def test_the_first_load_and_the_daily_and_weekly_tasks(run: Run, pipeline: Pipeline) -> None:
    run("First load")
    assert pipeline.last_sync()["new_records"] == 1000
    assert "✓ credentials" in run("")
    assert "Practice_c" in run("Environments")
    run("Upgrade")
    assert re.search(r"WON +\| WON +\| crm", run("Statuses of the CRM"))
    printed = run("Tasks")
    assert "SUCCESS" in printed
    assert "ERROR=0" in printed
    assert re.search(r"^[\w.-]{20,}$", run("Rotate credentials"), re.MULTILINE)


@pytest.mark.commands
@pytest.mark.usefixtures("synced")
def test_back_fills_and_state_elsewhere(run: Run, pipeline: Pipeline) -> None:
    # As if the account had not seen these deals before.
    pipeline.query('delete from raw.opportunities where mod("OptyId", 2) = 0')
    run("Back-fill")
    full, since = pipeline.syncs()[1:]
    assert (full["sync_type"], full["total_fetched"]) == ("FULL", 1000)
    assert since["sync_type"] == "INCREMENTAL"
    (rows,) = pipeline.query("select count(*) as n from raw.opportunities")
    assert rows["n"] == 1000

    pipeline.crm.mutate(update=20, create=5)
    run("State")
    sync = pipeline.last_sync()
    assert (sync["sync_type"], sync["new_records"]) == ("INCREMENTAL", 5)
    assert_equal_to_crm(pipeline)


@pytest.mark.commands
def test_two_crms_in_two_databases(run: Run, pipeline: Pipeline) -> None:
    names = {"DATABASE_URL", *pipeline.crm.env}
    settings = "".join(f"{name}='{pipeline.environment[name]}'\n" for name in names)
    pipeline.shell(f"cat > .env.second <<'END'\n{settings}END")
    pipeline.environment |= dict.fromkeys(names, "")
    run("Two CRMs")
    assert pipeline.query("select count(*) from opportunities") == [{"count": 1000}]


def test_all_links_have_a_target() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert targets
    assert all((ROOT / "docs" / target).exists() for target in targets)
