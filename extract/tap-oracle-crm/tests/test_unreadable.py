"""A deal that the CRM cannot show, as if a formula divided by zero in it, stops no read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tap_user import Output, TapUser
from test_complete import activated, complete, coverage

KINDS = {"error_500": ("Revenue", "HTTP 500"), "divided_by_zero": ("WinProb", "ORA-01476")}
"""The attribute that the CRM does not show, and what it answers instead."""
PAGE = 100
SLOWLY: dict[str, Any] = {"page_size": PAGE, "concurrency": 1, "max_retries": 2}
SCAN = "orderBy=OptyId:asc"
MOST_REQUESTS = 60


@pytest.fixture
def keys(tap: TapUser) -> list[int]:
    """The keys of a CRM of a few pages."""
    tap.crm.reset(records=250)
    return sorted(tap.expected(["OptyId"]))


def rejected(output: Output) -> dict[int, str]:
    """The reason of each rejected deal."""
    found = output.records("rejected_records")
    assert {record["stream"] for record in found} <= {"opportunities"}
    return {int(record["remote_id"]): record["reason"] for record in found}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, PAGE, PAGE + 1, PAGE + 50, 2 * PAGE - 1, -1])
def test_a_first_read_rejects_it_and_brings_all_others(
    tap: TapUser, keys: list[int], kind: str, place: int
) -> None:
    catalog = tap.discover()
    tap.crm.poison(keys[place], kind, touch=False)
    tap.crm.clear_requests()
    output = tap.sync(catalog=catalog, **SLOWLY)
    assert output.error is None
    assert set(output.by_key()) == {*keys} - {keys[place]}
    assert len(output.records()) == len(keys) - 1
    attribute, words = KINDS[kind]
    (told,) = output.records("rejected_records")
    assert told["remote_id"] == str(keys[place])
    assert told["reason"].startswith(f"{attribute}: asked for it in this record, the CRM answers")
    assert words in told["reason"]
    shown = tap.crm.row(keys[place])
    payload = json.loads(told["payload"])
    assert attribute not in payload
    assert (payload["OptyNumber"], payload["Name"]) == (shown["OptyNumber"], shown["Name"])
    assert output.bookmark["scan"] == ""
    assert output.bookmark["replication_key_value"]
    assert coverage(output)[0][:2] == (len(keys), "complete")
    assert tap.crm.requests()["total"] < MOST_REQUESTS


@pytest.mark.parametrize("others", [0, 3])
def test_a_read_of_changes_goes_past_it(tap: TapUser, keys: list[int], others: int) -> None:
    catalog = tap.discover()
    first = tap.sync(catalog=catalog)
    tap.crm.clock(3600)
    for key in keys[: 2 * others : 2]:
        tap.crm.update(key, Name="Changed")
    tap.crm.poison(keys[3], "error_500")
    second = tap.sync(first.state, catalog, **SLOWLY)
    assert second.error is None
    assert {*rejected(second)} == {keys[3]}
    assert {*keys[: 2 * others : 2]} <= set(second.by_key())
    assert keys[3] not in second.by_key()
    assert second.bookmark["scan"] == ""
    before = first.bookmark["replication_key_value"]
    assert second.bookmark["replication_key_value"] > before
    tap.crm.clock(4 * 3600)
    tap.crm.update(keys[9], Name="Changed later")
    third = tap.sync(second.state, catalog, **SLOWLY)
    assert third.error is None
    assert third.by_key()[keys[9]]["Name"] == "Changed later"
    tap.crm.clock(8 * 3600)
    tap.crm.heal(keys[3])
    assert tap.sync(third.state, catalog, **SLOWLY).by_key()[keys[3]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_complete_read_is_complete_with_it(tap: TapUser, keys: list[int], kind: str) -> None:
    catalog = complete(tap.discover())
    tap.crm.poison(keys[7], kind)
    output = tap.sync(catalog=catalog, page_size=PAGE, max_retries=2)
    assert output.error is None
    assert {*rejected(output)} == {keys[7]}
    assert set(output.by_key()) == {*keys} - {keys[7]}
    assert len(activated(output)) == 1
    assert coverage(output)[0][:2] == (len(keys), "complete")
    tap.crm.heal(keys[7], touch=False)
    again = tap.sync(output.state, catalog)
    assert rejected(again) == {}
    assert set(again.by_key()) == {*keys}


@pytest.mark.parametrize("places", [(10, 90), (10, 11), (0, 99), (40, 41, 42, 43), (0, 249)])
@pytest.mark.parametrize("sorts", [True, False])
def test_several_of_them(
    tap: TapUser, keys: list[int], places: tuple[int, ...], sorts: bool
) -> None:
    catalog = tap.discover()
    bad = {keys[place] for place in places}
    for key in bad:
        tap.crm.poison(key, "divided_by_zero", touch=False)
    if not sorts:
        tap.crm.settings(refused={"orderBy": 400})
    output = tap.sync(catalog=catalog, **SLOWLY)
    assert output.error is None
    assert {*rejected(output)} == bad
    assert set(output.by_key()) == {*keys} - bad
    assert output.bookmark["scan"] == ""


@pytest.mark.parametrize("place", [0, 50, 51, 99])
def test_one_beside_a_deal_without_a_key(tap: TapUser, keys: list[int], place: int) -> None:
    catalog = tap.discover()
    tap.crm.poison(keys[place], "error_500", touch=False)
    tap.crm.poison(keys[place + 1], "null_id", touch=False)
    output = tap.sync(catalog=catalog, **SLOWLY)
    assert output.error is None
    assert {item["remote_id"] for item in output.records("rejected_records")} == {
        str(keys[place]),
        None,
    }
    assert set(output.by_key()) == {*keys} - {keys[place], keys[place + 1]}


def test_a_server_that_ignores_the_limit_ends_the_read(tap: TapUser, keys: list[int]) -> None:
    catalog = tap.discover()
    tap.crm.poison(keys[30], "error_500", touch=False)
    tap.crm.settings(refused={"limit": 400})
    output = tap.sync(catalog=catalog, **SLOWLY)
    assert "HTTP 500" in str(output.error)
    assert rejected(output) == {}


def test_new_ones_may_be_all_that_changed(tap: TapUser, keys: list[int]) -> None:
    catalog = tap.discover()
    first = tap.sync(catalog=catalog)
    tap.crm.clock(7200)
    bad = {tap.crm.create()["OptyId"] for _ in range(5)}
    for key in {*bad, keys[0]}:
        tap.crm.poison(key, "error_500")
    second = tap.sync(first.state, catalog, lookback_seconds=0, **SLOWLY)
    assert second.error is None
    assert {*rejected(second)} == {*bad, keys[0]}


def test_two_attributes_of_one_deal(tap: TapUser, keys: list[int]) -> None:
    for kind in KINDS:
        tap.crm.poison(keys[30], kind)
    output = tap.sync(**SLOWLY)
    assert {*rejected(output)} == {keys[30]}
    assert set(output.by_key()) == {*keys} - {keys[30]}


def test_a_read_of_that_deal_alone_rejects_it(tap: TapUser, keys: list[int]) -> None:
    tap.crm.poison(keys[30], "error_500")
    output = tap.sync(filter=f"OptyId = {keys[30]}", **SLOWLY)
    assert output.error is None
    assert {*rejected(output)} == {keys[30]}
    assert output.records() == []


def test_children_of_the_others_are_read(tap: TapUser, keys: list[int]) -> None:
    tap.crm.poison(keys[30], "error_500")
    output = tap.sync(streams=("opportunities", "revenue_lines", "rejected_records"), **SLOWLY)
    assert output.error is None
    assert {*rejected(output)} == {keys[30]}
    parents = {row["OptyId"] for row in output.records("revenue_lines")}
    assert len(parents) > 100
    assert keys[30] not in parents


def test_an_error_that_passes_late_costs_no_record(tap: TapUser, keys: list[int]) -> None:
    catalog = tap.discover()
    tap.crm.fault("error", status=500, next=3, query=SCAN)
    output = tap.sync(catalog=catalog, **SLOWLY)
    assert output.error is None
    assert rejected(output) == {}
    assert set(output.by_key()) == {*keys}


def test_a_deal_that_is_deleted_meanwhile_is_no_record(tap: TapUser, keys: list[int]) -> None:
    catalog = tap.discover()
    tap.crm.poison(keys[0], "error_500", touch=False)
    tap.crm.after_request(
        1, f"opportunities/{keys[0]}", method="DELETE", query=f"{SCAN}.*fields=OptyId&limit=1$"
    )
    output = tap.sync(catalog=catalog, **SLOWLY)
    assert output.error is None
    assert rejected(output) == {}
    assert set(output.by_key()) == {*keys[1:]}


@pytest.mark.parametrize(
    ("query", "most_requests"),
    [("", 12), ("fields=.*Revenue", 40)],
    ids=["of all", "of an attribute"],
)
@pytest.mark.parametrize("concurrency", [1, 8])
def test_an_outage_ends_the_read_as_ever(
    tap: TapUser, keys: list[int], query: str, most_requests: int, concurrency: int
) -> None:
    catalog = tap.discover()
    tap.crm.clear_requests()
    tap.crm.fault("error", status=500, query=query, after=2)
    output = tap.sync(catalog=catalog, **{**SLOWLY, "concurrency": concurrency})
    assert "HTTP 500" in str(output.error)
    assert "3 attempts" in str(output.error)
    assert "the next run continues from there" in str(output.error)
    assert rejected(output) == {}
    assert 0 < len(output.records()) < len(keys)
    assert tap.crm.requests()["total"] < most_requests * concurrency
    assert output.bookmark["scan"]
    tap.crm.clear_faults()
    rest = tap.sync(output.state, catalog, **SLOWLY)
    assert output.by_key().keys() | rest.by_key().keys() == {*keys}


def test_very_many_of_them_end_the_read_and_the_next_one_goes_on(
    tap: TapUser, keys: list[int]
) -> None:
    catalog = tap.discover()
    bad = set(keys[3:240:9])
    for key in bad:
        tap.crm.poison(key, "error_500", touch=False)
    first = tap.sync(catalog=catalog, **SLOWLY)
    assert "cannot show more than 20 opportunities" in str(first.error)
    assert "administrator to correct Revenue" in str(first.error)
    assert len(rejected(first)) == 20
    second = tap.sync(first.state, catalog, **SLOWLY)
    assert second.error is None
    assert {*rejected(first), *rejected(second)} == bad
    assert first.by_key().keys() | second.by_key().keys() == {*keys} - bad
