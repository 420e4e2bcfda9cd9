"""The outcomes of the CRM's statuses, with any customer's codes."""

import json
import random
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from database import roles
from database.address import sqlalchemy_url
from database.migrate import migrate
from database.preflight import MIGRATIONS
from declared.file import DeclarationError, declare, read_declared
from tests.conftest import Pipeline
from tests.test_doctor import examine
from tests.warehouse import Warehouse
from tests.warm import WarmProject

DEALS = """
    select remote_id, crm_outcome, workflow_status, unknown_status_code
    from opportunities order by remote_id::bigint
"""


class Statuses:
    """A database and the customer's `crm.yml`, to merge."""

    def __init__(self, warehouse: Warehouse, crm_yml: Path) -> None:
        self.warehouse, self.crm_yml = warehouse, crm_yml

    def declare(self, text: str) -> None:
        """Write `crm.yml`, and store it in the database, like a run at its start."""
        self.crm_yml.write_text(text)
        with psycopg.connect(self.warehouse.url, autocommit=True) as connection:
            declare(connection, read_declared())

    def list(self, **categories: str | None) -> None:
        """Load the CRM's list of status codes."""
        for code, category in categories.items():
            self.warehouse.query(
                'insert into raw.opportunity_statuses ("LookupCode", "LookupCategory")'
                ' values (%s, %s) on conflict ("LookupCode") do update'
                ' set "LookupCategory" = excluded."LookupCategory"',
                code,
                category,
            )

    def load(self, **codes: str | None) -> None:
        """Load deals d1, d2, ... with a StatusCode."""
        self.warehouse.load(
            *({"OptyId": int(name[1:]), "StatusCode": code} for name, code in codes.items())
        )

    def merge(self) -> dict[str, tuple[str | None, str]]:
        """Merge, and return the outcome and the workflow status of each deal."""
        self.warehouse.merge()
        return {
            f"d{row['remote_id']}": (row["crm_outcome"], row["workflow_status"])
            for row in self.warehouse.query(DEALS)
        }

    def move(self, deal: str, state: str) -> None:
        """Set a deal's workflow status, like the bid team."""
        self.warehouse.query(
            "update opportunities set workflow_status = %s where remote_id = %s", state, deal[1:]
        )

    def outcomes(self) -> dict[str, tuple[str | None, str]]:
        """Return the outcome of each code and its source."""
        rows = self.warehouse.query("select * from status_outcomes")
        return {row["code"]: (row["outcome"], row["source"]) for row in rows}


@pytest.fixture
def statuses(
    postgres: str,
    migrated: str,
    parsed: Path,
    warm: WarmProject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Statuses:
    """An empty database, and an empty file."""
    crm_yml = tmp_path / "crm.yml"
    crm_yml.touch()
    monkeypatch.setenv("CRM_FILE", str(crm_yml))
    return Statuses(Warehouse(postgres, migrated, parsed, warm), crm_yml)


def test_a_deal_is_recoded_again_and_again(statuses: Statuses) -> None:
    statuses.list(LOST_TO_COMPETITOR="LOST", LOST_REVIEWED="LOST", SUSPENDED=None)
    statuses.load(d1="OPEN", d2="OPEN", d3="OPEN", d4="MYSTERY")
    assert statuses.merge() == {
        "d1": ("OPEN", "NEW"),
        "d2": ("OPEN", "NEW"),
        "d3": ("OPEN", "NEW"),
        "d4": (None, "NEW"),
    }
    for deal in ("d1", "d2", "d3", "d4"):
        statuses.move(deal, "UNDER_ASSESSMENT")

    statuses.load(d1="LOST_TO_COMPETITOR", d2="LOST", d3="MYSTERY", d4="SUSPENDED")
    assert statuses.merge() == {
        "d1": ("LOST", "LOST"),
        "d2": ("LOST", "LOST"),
        "d3": ("OPEN", "UNDER_ASSESSMENT"),
        "d4": (None, "UNDER_ASSESSMENT"),
    }

    # A code of the same category, and an unknown code.
    statuses.load(d1="LOST_REVIEWED", d2="MYSTERY", d3="OPEN", d4="won")
    assert statuses.merge() == {
        "d1": ("LOST", "LOST"),
        "d2": ("LOST", "LOST"),
        "d3": ("OPEN", "UNDER_ASSESSMENT"),
        "d4": ("WON", "WON"),
    }

    statuses.load(d1="OPEN", d2="OPEN", d4="OPEN")
    assert set(statuses.merge().values()) == {("OPEN", "UNDER_ASSESSMENT")}


def test_changed_rules_judge_all_deals_again(statuses: Statuses) -> None:
    statuses.load(d1="ON_HOLD", d2="LOST", d3="OPEN", d4="GESCHLOSSEN", d5="NIE")
    assert statuses.merge()["d1"] == (None, "NEW")
    statuses.move("d1", "ASSIGNED")
    statuses.move("d5", "ASSIGNED")

    statuses.declare("statuses: {ON_HOLD: OPEN, LOST: CLOSED, NIE: NO_SALE}")
    statuses.list(GESCHLOSSEN="NOSALE", NIE="OPEN")
    assert statuses.merge() == {
        "d1": ("OPEN", "ASSIGNED"),
        "d2": ("CLOSED", "CLOSED"),
        "d3": ("OPEN", "NEW"),
        "d4": ("CLOSED", "CLOSED"),
        "d5": ("CLOSED", "CLOSED"),
    }
    assert statuses.outcomes() == {
        "ON_HOLD": ("OPEN", "declared"),
        "LOST": ("CLOSED", "declared"),
        "NIE": ("CLOSED", "declared"),
        "GESCHLOSSEN": ("CLOSED", "crm"),
        "OPEN": ("OPEN", "predefined"),
    }

    # Without the declaration, codes get the outcome of the list, the predefined codes, or the last.
    statuses.declare("")
    assert statuses.merge() == {
        "d1": ("OPEN", "ASSIGNED"),
        "d2": ("LOST", "LOST"),
        "d3": ("OPEN", "NEW"),
        "d4": ("CLOSED", "CLOSED"),
        "d5": ("OPEN", "ASSIGNED"),
    }
    assert statuses.outcomes()["ON_HOLD"] == (None, "unknown")

    # Unchanged rules cost nothing: records that were merged before are not read again.
    statuses.warehouse.query(
        # Without the triggers, so that it does not count as loaded.
        "set session_replication_role = replica;"
        " update raw.opportunities set \"StatusCode\" = 'WON'"
    )
    statuses.declare("stages:\nstatuses:  # nothing\n")
    assert statuses.merge()["d2"] == ("LOST", "LOST")


# Longer than a key in PostgreSQL can be.
ENDLESS = "".join(random.Random(1).choices("ABCÄ€💶", k=20_000))


def test_without_a_code_the_stage_decides_only_if_it_is_declared(statuses: Statuses) -> None:
    stages = ["Won't bid", "Not yet won", "Gewonnen", "07 - Closed Lost", None]
    for number, stage in enumerate(stages, 1):
        statuses.warehouse.load({"OptyId": number, "StatusCode": None, "SalesStage": stage})
    statuses.warehouse.load(
        {"OptyId": 6, "StatusCode": " ", "StageStatusCd": "LOST", "SalesStage": "Gewonnen"},
        {"OptyId": 7, "StatusCode": None, "StageStatusCd": "WEG", "SalesStage": "Gewonnen"},
        {"OptyId": 8, "StatusCode": ENDLESS, "SalesStage": "Gewonnen"},
    )
    assert statuses.merge() == {
        **{f"d{number}": (None, "NEW") for number in range(1, 6)},
        "d6": ("LOST", "LOST"),
        "d7": (None, "NEW"),
        "d8": (None, "NEW"),
    }
    unknown = statuses.warehouse.query("select * from unknown_statuses")
    assert {(row["section"], row["name"], row["deals"]) for row in unknown} == {
        *(("stages", stage, 1) for stage in stages if stage),
        ("statuses", "WEG", 1),
        ("statuses", ENDLESS, 1),
    }

    statuses.declare("""
        stages: {Gewonnen: WON, "Won't bid": CLOSED, Not yet won: OPEN}
        statuses: {WEG: LOST}
    """)
    assert statuses.merge() == {
        "d1": ("CLOSED", "CLOSED"),
        "d2": ("OPEN", "NEW"),
        "d3": ("WON", "WON"),
        "d4": (None, "NEW"),
        "d5": (None, "NEW"),
        "d6": ("LOST", "LOST"),
        "d7": ("LOST", "LOST"),
        "d8": (None, "NEW"),
    }


CODES = [
    "OPEN",
    "WON",
    "LOST",
    "NO_SALE",
    "No-Sale",
    " open ",
    "CLOSED",
    "LISTED_LOST",
    "LISTED_WON",
    "DECLARED",
    "NIEMAND",
    "LISTED-LOST",
    "declared",
    "",
    " ",
    None,
]


def test_at_random_each_deal_follows_the_rule(statuses: Statuses) -> None:
    seed = random.randrange(10_000)
    print(f"seed {seed}")
    dice = random.Random(seed)
    own = {
        "OPEN": "OPEN",
        "WON": "WON",
        "LOST": "LOST",
        "NO_SALE": "CLOSED",
        "No-Sale": "CLOSED",
        " open ": "OPEN",
        "CLOSED": "CLOSED",
    }
    codes: dict[str, str | None] = {}
    expected: dict[str, tuple[str | None, str]] = {}
    waiting: dict[str, str] = {}
    listed: dict[str, str | None] = {}
    for _ in range(3):
        declared = dice.choice([{}, {"DECLARED": "WON"}, {"DECLARED": "OPEN", "LOST": "CLOSED"}])
        listed |= dice.choice([{}, {"LISTED_LOST": "LOST", "LISTED_WON": "WON", "NO_SALE": None}])
        changed = {f"d{n}": dice.choice(CODES) for n in range(1, 61) if dice.random() < 0.6}
        codes |= changed
        for deal, (outcome, _status) in expected.items():
            if outcome in (None, "OPEN") and dice.random() < 0.5:
                state = dice.choice(["ASSIGNED", "UNDER_ASSESSMENT", "REJECTED"])
                statuses.move(deal, state)
                expected[deal] = (outcome, state)
        statuses.declare(f"statuses: {json.dumps(declared)}")
        statuses.list(**listed)
        statuses.load(**changed)

        rules = own | {code: outcome for code, outcome in listed.items() if outcome} | declared
        for deal, code in codes.items():
            before, status = expected.get(deal, (None, "NEW"))
            outcome = rules.get(code or "", before)
            if outcome in ("WON", "LOST", "CLOSED"):
                waiting.setdefault(deal, status)
                status = outcome
            elif deal in waiting:
                status = waiting.pop(deal)
            expected[deal] = (outcome, status)
        assert statuses.merge() == expected


def test_an_upgrade_applies_the_rules_to_existing_deals(statuses: Statuses) -> None:
    """An earlier release knew four codes, and looked for words in stage names."""
    warehouse = statuses.warehouse
    warehouse.query(
        "drop schema public, raw, staging cascade; create schema public; create schema raw"
    )
    with create_engine(sqlalchemy_url(warehouse.url, "test")).begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "0018")
    warehouse.query(
        """
        insert into opportunities
            (remote_id, status_code, workflow_status, workflow_status_before_close)
        values
            ('1', 'LOST_TO_COMPETITOR', 'UNDER_ASSESSMENT', null),
            ('2', 'LOST_REVIEWED', 'UNDER_ASSESSMENT', null),
            ('3', 'WON', 'WON', 'APPROVED'),
            ('4', 'OPEN', 'ASSIGNED', null),
            ('5', null, 'WON', 'ASSIGNED'),
            ('6', 'ON_HOLD', 'ASSIGNED', null)
        """
    )
    warehouse.query(
        """
        create table raw.opportunities as
        select remote_id::bigint as "OptyId", status_code as "StatusCode",
            localtimestamp - interval '1 year' as _sdc_batched_at
        from opportunities;
        insert into sync_runs (run_id, transform_succeeded, loaded_until)
        values (gen_random_uuid(), true, now() - interval '1 hour')
        """
    )
    migrate(warehouse.url)
    roles.apply(warehouse.url)
    before_the_sync = warehouse.query(DEALS)
    assert [(row["crm_outcome"], row["workflow_status"]) for row in before_the_sync] == [
        (None, "UNDER_ASSESSMENT"),
        (None, "UNDER_ASSESSMENT"),
        ("WON", "WON"),
        ("OPEN", "ASSIGNED"),
        ("WON", "WON"),
        (None, "ASSIGNED"),
    ]
    statuses.list(LOST_TO_COMPETITOR="LOST", LOST_REVIEWED="LOST")
    assert statuses.merge() == {
        "d1": ("LOST", "LOST"),
        "d2": ("LOST", "LOST"),
        "d3": ("WON", "WON"),
        "d4": ("OPEN", "ASSIGNED"),
        "d5": ("WON", "WON"),
        "d6": (None, "ASSIGNED"),
    }
    history = "select new_value from opportunity_changes where field = 'crm_outcome'"
    assert warehouse.query(history) == [{"new_value": "LOST"}] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("statuses: {A: OPEN}\nstatus: {B: WON}", "line 2: there is no section 'status'"),
        ("statuses:\n  A: OPEN\n  B: PAUSED", "line 3: 'B' must be OPEN, WON, LOST or CLOSED"),
        ("statuses:\n  A:\n", "line 2: 'A' must be"),
        ("statuses:\n  A: OPEN\n  B: WON\n  A: OPEN", "line 4: 'A' stands in line 2 too; remove"),
        ("statuses: {}\nstages: {}\nstatuses: {}", "line 3: 'statuses' stands in line 1 too"),
        ("statuses:\n- ON_HOLD", "line 2: statuses must consist of lines like 'name: value'"),
        ("ON_HOLD", "line 1: the file must consist of lines"),
        ("statuses:\n  A: [OPEN\n", "line 3: this is not YAML"),
        ("statuses:\n\tA: OPEN", "line 2: this is not YAML"),
        ("statuses:\n  A\x07: OPEN", "line 2: remove the control character"),
        (f"stages:\n  ? {'x' * 201}\n  : OPEN", "line 2: a name can't have"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "crm.yml").write_text(text)
    monkeypatch.setenv("CRM_FILE", str(tmp_path / "crm.yml"))
    with pytest.raises(DeclarationError) as error:
        read_declared()
    assert str(error.value).startswith("crm.yml, line ")
    assert message in str(error.value)


def test_names_are_text_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crm.yml").write_text(
        "statuses: {NO: NOSALE, 007: NO_SALE, on: WON, 'Ende ': LOST}\nstages: {Größe: OPEN}"
    )
    monkeypatch.setenv("CRM_FILE", str(tmp_path / "crm.yml"))
    declared = read_declared()
    assert declared.statuses == {"NO": "CLOSED", "007": "CLOSED", "on": "WON", "Ende ": "LOST"}
    assert declared.stages == {"Größe": "OPEN"}


def test_a_file_that_a_setting_names_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_FILE", "/nowhere/crm.yml")
    with pytest.raises(DeclarationError, match="correct CRM_FILE"):
        read_declared()


def test_the_file_of_the_repository_declares_nothing_yet() -> None:
    assert read_declared().rows() == set()


def test_through_the_whole_pipeline(pipeline: Pipeline, tmp_path: Path) -> None:
    crm_yml = tmp_path / "crm.yml"
    crm_yml.touch()
    pipeline.environment["CRM_FILE"] = str(crm_yml)
    lost, held = [row["OptyId"] for row in pipeline.crm.rows() if row["StatusCode"] == "OPEN"][:2]
    pipeline.query(
        """
        insert into raw.opportunity_statuses ("LookupCode", "LookupCategory")
        values ('LOST_TO_COMPETITOR', 'LOST'), ('ON_HOLD', 'OPEN')
        """
    )
    pipeline.sync()

    def deal(key: int) -> dict[str, Any]:
        (row,) = pipeline.query(
            "select crm_outcome, workflow_status, unknown_status_code from opportunities"
            " where remote_id = %s",
            str(key),
        )
        return row

    pipeline.query(
        "update opportunities set workflow_status = 'APPROVED' where remote_id = any(%s)",
        [str(lost), str(held)],
    )
    pipeline.crm.update(lost, StatusCode="LOST_TO_COMPETITOR", SalesStage="08 - Closed Won")
    pipeline.crm.update(held, StatusCode="EINGEFROREN", SalesStage="07 - Closed Lost")
    done = pipeline.meltano("run", "sync")
    assert done.returncode == 0, done.stdout
    assert deal(lost) == {
        "crm_outcome": "LOST",
        "workflow_status": "LOST",
        "unknown_status_code": None,
    }
    assert deal(held) == {
        "crm_outcome": "OPEN",
        "workflow_status": "APPROVED",
        "unknown_status_code": "EINGEFROREN",
    }
    assert 'nothing tells what the status code "EINGEFROREN" means (deals: 1)' in done.stdout
    findings, _ = examine(pipeline)
    assert '"EINGEFROREN" (deals: 1)' in findings["statuses"]["detail"]
    assert '"EINGEFROREN": OPEN' in findings["statuses"]["advice"]

    # The next sync applies the declaration, even if nothing has changed in the CRM.
    crm_yml.write_text("statuses:\n  EINGEFROREN: CLOSED\n")
    findings, _ = examine(pipeline)
    assert "the next sync applies it" in findings["crm.yml"]["detail"]
    done = pipeline.meltano("run", "sync")
    assert done.returncode == 0, done.stdout
    assert deal(held) == {
        "crm_outcome": "CLOSED",
        "workflow_status": "CLOSED",
        "unknown_status_code": None,
    }
    assert "EINGEFROREN" not in done.stdout
    findings, _ = examine(pipeline)
    assert findings["statuses"]["status"] == "ok"
    assert findings["crm.yml"]["detail"] == "1 statuses, 0 stages"

    # dbt alone applies it, too.
    crm_yml.write_text("statuses:\n  EINGEFROREN: OPEN\n")
    done = pipeline.meltano("invoke", "dbt-postgres:run")
    assert done.returncode == 0, done.stdout
    assert deal(held)["workflow_status"] == "APPROVED"

    # An error in the file stops a run before it begins, and the doctor names it, too.
    crm_yml.write_text("statuses:\n  EINGEFROREN: MAYBE\n")
    done = pipeline.meltano("run", "sync")
    assert done.returncode != 0
    assert "crm.yml, line 2: 'EINGEFROREN' must be OPEN, WON, LOST or CLOSED" in done.stdout
    findings, code = examine(pipeline)
    assert findings["crm.yml"]["status"] == "error"
    assert "line 2" in findings["crm.yml"]["detail"]
    assert code == 1
    assert len(pipeline.syncs()) == 4
    failed = pipeline.last_sync()
    assert (failed["status"], failed["total_fetched"]) == ("FAILED", 0)
    assert failed["error_message"].startswith("crm.yml, line 2: 'EINGEFROREN' must be")
