"""The sections of crm.yml that are models, and the way into the database."""

import os
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from database.environment import ROOT
from declared.assessment import Assessment
from declared.currency import Currency
from declared.decisions import Decisions
from declared.file import (
    MODELS,
    DeclarationError,
    declare,
    declare_file,
    differs,
    read_declared,
)


@pytest.fixture
def crm_yml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that CRM_FILE names; it is empty."""
    path = tmp_path / "crm.yml"
    path.touch()
    monkeypatch.setenv("CRM_FILE", str(path))
    return path


def test_the_shipped_file_declares_what_holds_without_it(crm_yml: Path) -> None:
    without = read_declared()
    shutil.copy(ROOT / "crm.yml", crm_yml)
    shipped = read_declared()
    assert shipped.decisions == without.decisions == Decisions()
    assert shipped.currency == Currency()
    assert list(shipped.assessment.criteria.items()) == list(Assessment().criteria.items())


def test_what_is_commented_out_in_the_shipped_file_is_right(crm_yml: Path) -> None:
    lines = (ROOT / "crm.yml").read_text().splitlines()
    shown = [line[1:] if line.startswith(("#  ", '#  "')) else line for line in lines]
    crm_yml.write_text("\n".join(shown))
    assert read_declared().currency.rates == {"USD": Decimal("0.92"), "JPY": Decimal("0.006")}
    decisions = read_declared().decisions
    assert decisions.functions["practice_head"].by == "practice"
    assert decisions.parts == {"architect": "Architect", "sales": "Sales"}
    assert decisions.states["NEW"].days == 5


def test_the_example_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_FILE", "examples/bid-desk/crm.yml")
    declared = read_declared()
    assert len([field for field in declared.fields if field.column is None]) == 8
    assert len(declared.decisions.functions) == 4
    assert len(declared.decisions.approvals) == 3
    assert declared.currency.reporting == "EUR"
    assert declared.assessment.missing({}).keys() == declared.assessment.criteria.keys() - {
        "reference"
    }


def test_functions_are_routed_by_declared_fields(crm_yml: Path) -> None:
    function = "decisions:\n  functions:\n    head: {label: Head, by: deal_source}\n"
    crm_yml.write_text(f"fields: [DealSource_c]\n{function}")
    assert read_declared().decisions.functions["head"].by == "deal_source"
    crm_yml.write_text(function)
    with pytest.raises(DeclarationError, match="no field 'deal_source'"):
        _ = read_declared().decisions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decisions:\n  four_eys: true", "line 2: four_eys: there is no such name"),
        ("decisions:\n  four_eyes: maybe", "line 2: four_eyes: Input should be"),
        (
            "decisions:\n  four_eyes: true\n  approvals: [head]",
            "line 3: approvals: 'head' is",
        ),
        (
            "decisions:\n  functions:\n    head: {label: Head, by: mood}",
            "line 3: functions.head.by: there is no field 'mood'",
        ),
        ("decisions:\n  functions:\n    Head: Head", "line 3: "),
        ("decisions:\n  states:\n    PAUSED: {days: 3}", "line 3: "),
        (
            "decisions:\n  states:\n    NEW: {days: 0}",
            "line 3: states.NEW.days: Input",
        ),
        ("decisions:\n  parts: {a: A, a: B}", "line 2: 'a' stands in line 2 too"),
        ("decisions: yes", "line 1: Input should be"),
        (
            "assessment:\n  criteria:\n    fit:\n      title: Fit",
            "line 4: criteria.fit.weight: is",
        ),
        ("assessment:\n  criteria: {}", "line 2: "),
        (
            "assessment:\n  criteria:\n    a: {title: A, weight: 5}\n    b: {title: B, weight: no}",
            "line 4: criteria.b.weight: Input should be a valid integer",
        ),
        ("currency:\n  reporting: eur", "line 2: reporting: 'eur' is no currency's code: write"),
        ("currency:\n\n  rates: {USD: 1}", "line 3: rates: say into which currency, in a line"),
        (
            "currency:\n  reporting: EUR\n  rates:\n    USD: 0,92",
            "line 4: rates.USD: Input should be a valid decimal",
        ),
        ("currency:\n  reporting: EUR\n  rates: {USD: 0}", "line 3: rates.USD: Input should be gr"),
        (
            "currency:\n  reporting: EUR\n  rates: {EUR: 1}",
            "line 3: rates: EUR is the reporting currency itself: remove its rate",
        ),
        ("currency:\n  reporting: EUR\n  rates: {Yen: 1}", "line 3: rates.Yen: 'Yen' is no curr"),
        ("currency:\n  raporting: EUR", "line 2: raporting: there is no such name"),
        ("assessment:\n  suggest: {bid: 40, no_bid: 60}", "line 2: suggest: no_bid can't be above"),
    ],
)
def test_a_mistake_is_named_with_its_line(crm_yml: Path, text: str, message: str) -> None:
    crm_yml.write_text(text)
    with pytest.raises(DeclarationError) as error:
        [read_declared().model(name) for name in MODELS]
    assert str(error.value).startswith("crm.yml, line ")
    assert message in str(error.value)


def test_the_database_gets_what_has_changed(crm_yml: Path, database: str) -> None:
    def declarations() -> list[tuple[Any, ...]]:
        query = "select section, content::text from declarations order by id"
        return connection.execute(query).fetchall()

    with psycopg.connect(database, autocommit=True) as connection:
        declare_file(database)
        before = declarations()
        declare_file(database)
        assert declarations() == before
        crm_yml.write_text("assessment:\n  criteria:\n    a: {title: A, weight: 1}")
        assert differs(connection, read_declared())
        declare(connection, read_declared())
        assert not differs(connection, read_declared())
        *old, new = declarations()
        assert old == before
        assert '"title": "A"' in new[1]
        crm_yml.write_text("assessment:\n  criteria: [")
        with pytest.raises(SystemExit, match="line 2"):
            declare_file(database)


@pytest.mark.parametrize("module", ["api", "declared"])
def test_nothing_starts_with_a_mistake_in_the_file(
    crm_yml: Path, database: str, module: str
) -> None:
    crm_yml.write_text("decisions:\n  approvals: [nobody]")
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "crm.yml, line 2: approvals: 'nobody' is none of the functions" in done.stderr


@given(st.permutations(list(Assessment().criteria)))
def test_the_order_of_the_criteria_counts(order: list[str]) -> None:
    criteria = Assessment().criteria
    other = Assessment(criteria={key: criteria[key] for key in order})
    same = other.model_dump_json() == Assessment().model_dump_json()
    assert same == (order == list(criteria))


@given(st.dictionaries(st.sampled_from(list(Assessment().criteria)), st.integers(0, 5)))
def test_a_suggestion_needs_all_that_is_mandatory(scores: dict[str, int]) -> None:
    declared = Assessment.model_validate({"suggest": {"bid": 60, "no_bid": 40}})
    score, suggestion = declared.weighted_score(scores), declared.suggestion(scores)
    if declared.missing(scores):
        assert suggestion is None
    else:
        assert score is not None
        expected = "BID" if score >= 60 else "NO_BID" if score < 40 else None
        assert suggestion == expected


def test_scales_and_weights() -> None:
    declared = Assessment.model_validate(
        {
            "criteria": {
                "a": {"title": "A", "weight": 3, "scale": 10},
                "b": {"title": "B", "weight": 1, "scale": 1, "mandatory": False},
            }
        }
    )
    assert declared.weighted_score({"a": 5}) == 50
    assert declared.weighted_score({"a": 5, "b": 1}) == 62.5
    assert declared.missing({}) == {"a": "A"}
