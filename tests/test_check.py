"""`make check` says what the next sync would change, and changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Pipeline

pytestmark = pytest.mark.commands

STANDARD = ["Name", "Revenue", "SalesStage", "StatusCode"]
BEFORE = [
    {"attribute": "Budget_c", "type": "text"},
    "GoLive_c",
    {"attribute": "Margin_c", "name": "profit"},
]
TABLES = (
    "declared_fields",
    "declared_outcomes",
    "status_outcomes",
    "crm_attributes",
    "opportunities",
)


def check(pipeline: Pipeline, **environment: str) -> tuple[dict[str, str], int]:
    """Return the status of each finding by what it says, and the exit code."""
    done = pipeline.module("orchestrate.check", "--json", **environment)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    return {f"{one['about']}: {one['detail']}": one["status"] for one in found}, done.returncode


def content(pipeline: Pipeline) -> dict[str, Any]:
    """All that a check could have changed."""
    return {
        table: pipeline.query(f"select * from {table} order by 1")  # noqa: S608
        for table in TABLES
    }


@pytest.fixture
def file(pipeline: Pipeline, tmp_path: Path) -> Path:
    """The file that the pipeline reads."""
    pipeline.environment["CRM_FILE"] = str(tmp_path / "crm.yml")
    return tmp_path / "crm.yml"


def test_what_the_next_sync_would_change(pipeline: Pipeline, file: Path) -> None:
    crm = pipeline.crm
    crm.add_attribute("Budget_c", "string", values=["100", "much", None, "7"])
    crm.add_attribute("GoLive_c", "date", values=["2026-12-01"])
    file.write_text(yaml.safe_dump({"fields": STANDARD + BEFORE}))
    found, code = check(pipeline)  # before the first sync
    assert code == 0, found
    pipeline.sync()
    found, code = check(pipeline)
    assert code == 0
    assert set(found.values()) == {"ok"}
    assert "crm.yml: the next sync changes nothing because of it" in found

    crm.add_attribute("Products_c", "array", values=[["Cloud"]])
    crm.add_attribute("Size_c", "number", values=[5], resource="accounts")
    before = content(pipeline)
    (won,) = pipeline.query(
        """
        select
            count(*) filter (where custom ->> 'budget' is distinct from 'much') as fit,
            count(*) filter (where custom ->> 'budget' = 'much') as unfit
        from opportunities where crm_outcome = 'WON'
        """
    )
    assert min(won.values()) > 0
    (values,) = pipeline.query(
        """
        select
            count(*) filter (where currency in ('EUR', 'USD')) as convertible,
            count(*) filter (where currency = 'GBP') as gbp,
            count(*) filter (where currency not in ('EUR', 'USD') or currency is null) as others
        from opportunities where deal_value is not null
        """
    )
    file.write_text(
        yaml.safe_dump(
            {
                "statuses": {"WON": "LOST"},
                "currency": {"reporting": "EUR", "rates": {"USD": 0.92}},
                "fields": [
                    *STANDARD,
                    {"attribute": "Budget_c", "type": "number"},
                    {"attribute": "GoLive_c", "name": "start"},
                    {"attribute": "Products_c", "filter": True},
                    "Prodcts_c",
                    "Account.Size_c",
                    "Account.Sise_c",
                ],
            }
        )
    )
    found, code = check(pipeline)
    assert code == 1
    misfits = 'deals whose Budget_c is no number: 250, such as "much"; the sync rejects them'
    expected = {
        "fields: of another type: budget was text, is number": "change",
        "fields: renamed: go_live is start; the history of go_live stays": "change",
        "fields: new: products, the list Products_c": "change",
        "fields: new: prodcts, the text Prodcts_c": "change",
        "fields: new: account_size, the number Account.Size_c": "change",
        "fields: the CRM has no attribute Account.Sise_c: account_sise is empty": "error",
        "fields: removed: profit; deals keep its values and its history": "change",
        "fields: the CRM has no attribute Prodcts_c: prodcts is empty": "error",
        f"values: {misfits}": "error",
        f"outcomes: deals that become LOST: {won['fit']}, now WON": "change",
        "crm.yml: the next sync merges all 1,000 deals again": "change",
    }
    expected[f"currency: deals to convert into EUR: {values['convertible']}"] = "change"
    assert {detail: found.get(detail) for detail in expected} == expected
    (lacking,) = [detail for detail in found if "without a rate into EUR" in detail]
    assert f": {values['others']} (" in lacking
    assert f"GBP {values['gbp']}" in lacking
    assert found[lacking] == "warning"
    assert content(pipeline) == before

    # What it has said comes true.
    pipeline.sync()
    assert pipeline.query("select count(*) from opportunities where crm_outcome = 'WON'") == [
        {"count": won["unfit"]}
    ]
    assert pipeline.query(
        "select count(*) from opportunities where reporting_value is not null"
    ) == [{"count": values["convertible"]}]
    rejected = "select count(*) from rejected_records where reason like 'Budget_c%%'"
    assert pipeline.query(rejected) == [{"count": 250}]


def test_what_is_wrong_is_said(pipeline: Pipeline, file: Path) -> None:
    file.write_text("fields:\n- Name\n- {attribute: A_c, tipe: text}\n")
    found, code = check(pipeline)
    assert code == 1
    (wrong,) = found
    assert "crm.yml, line 3: a field has no 'tipe'" in wrong

    file.write_text("fields:\n- Name\n")
    pipeline.crm.fault("error", path="/describe$", status=403)
    found, code = check(pipeline)
    assert code == 0
    assert "warning" in found.values()

    found, code = check(pipeline, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert code == 1
    assert "error" in found.values()
