"""Conditions on what can change are refused: who leaves them would look deleted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_oracle_crm.conditions import FIXED, check_filter, check_finder
from tap_oracle_crm.errors import ConfigError
from tap_user import TapUser

SAFE = "CreationDate >= '2024-01-01T00:00:00Z'"


@pytest.mark.parametrize(
    ("version", "condition"),
    [
        (4, SAFE),
        (4, "PrimaryOrganizationId = 300000001234567"),
        (4, "PrimaryOrganizationId in (1, 2) and not (OptyNumber like 'OPP%' or OptyId < 5)"),
        (4, "CreationDate between '2024-01-01' and '2025-01-01' and CreatedBy is not null"),
        (4, "upper(CreatedBy) = upper('StatusCode')"),
        (4, "CreatedBy = 'it''s StatusCode = OPEN'"),
        (4, 'CreatedBy <> "StatusCode"'),
        (4, "Imported_c = 'Y'"),
        (4, "IMPORTED_C = 'Y' and OptyId > -1.5E+3"),
        (1, "CreatedBy=StatusCode"),
        (1, "CreatedBy=OPEN or 'WON';CreationDate>2020-01-01T00:00Z and <=2021-01-01T00:00Z"),
        (1, "OptyNumber=OPP 1 StatusCode"),
    ],
)
def test_conditions_on_what_never_changes_pass(version: int, condition: str) -> None:
    check_filter(condition, version, ["Imported_c"])


@pytest.mark.parametrize(
    ("version", "condition", "named"),
    [
        (4, "StatusCode = 'OPEN'", "StatusCode"),
        (4, f"{SAFE} and (OptyId > 1 or SalesStage <> 'Won')", "SalesStage"),
        (4, "OptyId = 1 or upper(Name) like 'X%'", "Name"),
        (4, "'OPEN' = StatusCode", "StatusCode"),
        (4, "StatusCode in('OPEN')", "StatusCode"),
        (4, "not StatusCode is null", "StatusCode"),
        (4, "WinProb between 1 and Revenue", "WinProb and Revenue"),
        (4, "ChildRevenue.StatusCode = 'OPEN'", "ChildRevenue.StatusCode"),
        (4, "LastUpdateDate >= '2024-01-01'", "LastUpdateDate"),
        (4, "CreationDate >= sysdate", "sysdate"),
        (4, "CreatedBy = 'a''b'and\tStatusCode='x'", "StatusCode"),
        (1, "StatusCode=OPEN", "StatusCode"),
        (1, "CreatedBy=a;StatusCode=OPEN", "StatusCode"),
        (1, "CreatedBy=a and StatusCode=OPEN", "StatusCode"),
        (1, "CreatedBy='x' ; SalesStage != null", "SalesStage"),
        (1, "upper(Name)=X", "Name"),
    ],
)
def test_conditions_on_what_changes_are_refused(version: int, condition: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_filter(condition, version, ["Imported_c"])
    assert f"filter: {named} can change" in str(caught.value)
    assert SAFE in str(caught.value)
    assert "fixed_attributes" in str(caught.value)


@pytest.mark.parametrize("condition", ["CreatedBy = 'open", 'CreatedBy = "', "OptyId = 1 !"])
def test_what_cannot_be_read_is_refused(condition: str) -> None:
    with pytest.raises(ConfigError, match="filter cannot be read from"):
        check_filter(condition, 4, [])


names = st.sampled_from([*FIXED, "StatusCode", "SalesStage", "Name", "Flag_c"])
texts = st.text("aO'\" ;=()", max_size=5)
literals = st.one_of(
    st.integers(-(10**18), 10**18).map(str),
    texts.map(lambda text: "'" + text.replace("'", "''") + "'"),
    texts.map(lambda text: '"' + text.replace('"', '""') + '"'),
)
comparisons = st.one_of(
    st.tuples(names, st.sampled_from(["=", " <> ", "!=", " >="]), literals),
    st.tuples(names, st.sampled_from([" is null", " IS NOT NULL"])),
    st.tuples(names, st.just(" not in ("), literals, st.just(","), literals, st.just(")")),
    st.tuples(names, st.just(" between "), literals, st.just(" and "), literals),
    names.map(lambda name: (name, " like upper('x')")),
)


@given(parts=st.lists(comparisons, min_size=1, max_size=5), data=st.data())
def test_all_attributes_of_a_condition_are_found(
    parts: list[tuple[str, ...]], data: st.DataObject
) -> None:
    written = ""
    for number, part in enumerate(parts):
        text = "".join(part)
        if data.draw(st.booleans()):
            text = text.replace(part[0], f"upper( {part[0]} )", 1)
        if data.draw(st.booleans()):
            text = f"not ({text})"
        written += data.draw(st.sampled_from([" and ", " OR "])) + text if number else text
    changing = {part[0] for part in parts} - set(FIXED)
    try:
        check_filter(written, 4, [])
    except ConfigError as error:
        listed = str(error).removeprefix("filter: ").split(" can change")[0].split(" and ")
        assert set(listed) == changing != set()
    else:
        assert changing == set()


@pytest.mark.parametrize(
    "finder",
    [
        "none",
        "MyOpportunitiesFinder",
        "MyOpportunitiesFinder;RecordSet='ALLOPTIES'",
        "MyOpportunitiesFinder;RecordSet=ALLOPTIES",
        "PrimaryKey;OptyId=300000000000001",
        "MyFinder;Imported_c='Y, StatusCode=OPEN',RecordSet='ALLOPTIES'",
    ],
)
def test_finders_that_keep_what_they_show_pass(finder: str) -> None:
    check_finder(finder, ["Imported_c"])


@pytest.mark.parametrize(
    "variable", ["OptyStatusCode=OPEN", "EffectiveBeginDate=2016-01-01", "LookupCategory='WON'"]
)
def test_finders_that_lose_rows_are_refused(variable: str) -> None:
    name = variable.partition("=")[0]
    with pytest.raises(ConfigError, match=f"finder: {name} can change"):
        check_finder(f"MyOpportunitiesFinder;RecordSet='ALLOPTIES',{variable}", [])
    check_finder(f"MyOpportunitiesFinder;RecordSet='ALLOPTIES',{variable}", [name])


@pytest.mark.parametrize(
    "setting", [{"filter": "StatusCode = 'OPEN'"}, {"finder": "X;OptyStatusCode=OPEN"}]
)
def test_a_run_is_refused_before_it_asks_for_anything(
    tap: TapUser, setting: dict[str, Any]
) -> None:
    done = tap.cli(config=tap.config(**setting))
    assert done.code == 1
    assert "can change" in done.log
    assert "Traceback" not in done.log
    assert tap.crm.requests()["total"] == 0


def test_fixed_attributes_of_the_customers_own_are_filtered_on(tap: TapUser) -> None:
    tap.crm.add_attribute("Imported_c", values=["Y", "N"])
    output = tap.sync(filter="Imported_c = 'Y'", fixed_attributes="Imported_c")
    rows = tap.expected(["OptyId", "Imported_c"])
    assert set(output.by_key()) == {key for key, row in rows.items() if row["Imported_c"] == "Y"}
