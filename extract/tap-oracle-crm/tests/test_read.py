"""Reading opportunities: all of them, in few requests, and then only what changed."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qs

import pytest
from tap_user import TapUser

MAPPED = [
    "OptyId",
    "OptyNumber",
    "Name",
    "TargetPartyName",
    "CurrencyCode",
    "SalesStage",
    "StatusCode",
    "EffectiveDate",
    "OwnerResourcePartyId",
    "Practice_c",
    "GEO_c",
]
CUSTOM: dict[str, Any] = {"custom_fields": ["Practice_c", "GEO_c"]}


def test_a_first_run_reads_every_opportunity_as_the_crm_holds_it(tap: TapUser) -> None:
    output = tap.sync(**CUSTOM)
    got = {key: {name: record[name] for name in MAPPED} for key, record in output.by_key().items()}
    assert got == tap.expected(MAPPED)
    assert len(output.records()) == 1000


def test_a_run_without_changes_costs_one_request_after_discovery(tap: TapUser) -> None:
    catalog = tap.discover()
    first = tap.sync(catalog=catalog)
    tap.crm.clear_requests()
    again = tap.sync(first.state, catalog)
    assert tap.crm.requests()["total"] == 1
    assert len(again.records()) < 100
    assert again.bookmark["replication_key_value"] == first.bookmark["replication_key_value"]


def test_only_selected_attributes_are_asked_for(tap: TapUser) -> None:
    catalog = tap.discover()
    for entry in catalog["streams"]:
        for item in entry["metadata"]:
            if item["breadcrumb"] and item["metadata"]["inclusion"] == "available":
                item["metadata"]["selected"] = item["breadcrumb"][-1] == "Revenue"
    output = tap.sync(catalog=catalog)
    assert {tuple(record) for record in output.records()} == {
        ("OptyId", "OptyNumber", "Revenue", "LastUpdateDate")
    }
    wanted = "fields=OptyId%2COptyNumber%2CRevenue%2CLastUpdateDate&"
    pages = [item for item in tap.requests() if "limit=1&" not in item["query"] + "&"]
    assert all(wanted in item["query"] for item in pages)


def test_the_next_run_brings_what_changed_and_nothing_else(tap: TapUser) -> None:
    first = tap.sync(lookback_seconds=0)
    tap.crm.clock(3600)
    changed = tap.crm.mutate(create=5, update=20)
    second = tap.sync(first.state, lookback_seconds=0)
    new = set(changed["created"] + changed["updated"])
    assert new <= set(second.by_key())
    assert len(second.records()) < 40, "the overlap is a few records"
    assert second.bookmark["replication_key_value"] > first.bookmark["replication_key_value"]
    assert "INCREMENTAL read" in second.log


def test_thousands_of_records_with_one_timestamp_are_read_once_each(tap: TapUser) -> None:
    first = tap.sync()
    tap.crm.clock(7200)
    touched = tap.crm.mass_update(900)
    second = tap.sync(first.state)
    keys = [record["OptyId"] for record in second.records()]
    assert set(touched) <= set(keys)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("cap", [25, 100, 499, 500])
def test_pages_follow_the_limit_in_force(tap: TapUser, cap: int) -> None:
    tap.crm.settings(page_cap=cap)
    catalog = tap.discover()
    tap.crm.clear_requests()
    output = tap.sync(catalog=catalog, page_size=500)
    assert set(output.by_key()) == set(tap.expected(["OptyId"]))
    assert len(output.records()) == 1000
    pages = math.ceil(1000 / cap)
    assert tap.crm.requests()["total"] <= 1.1 * pages + 6


@pytest.mark.parametrize("version", [1, 4])
def test_every_request_has_a_q(tap: TapUser, version: int) -> None:
    # Without `q`, some CRMs show only a part of the rows.
    for page_size in (100, 500):
        tap.crm.reset(records=400)
        assert len(tap.sync(framework_version=version, page_size=page_size).by_key()) == 400
        asked = tap.requests()
        assert asked
        assert [item for item in asked if not parse_qs(item["query"]).get("q")] == []


def test_offsets_are_not_used(tap: TapUser) -> None:
    tap.sync(page_size=50)
    assert not [item for item in tap.requests() if "offset" in item["query"]]


@pytest.mark.parametrize(
    "lie",
    [
        {"kind": "has_more", "value": True},
        {"kind": "has_more", "value": False},
        {"kind": "total_results", "value": "page_cap"},
        {"kind": "total_results", "value": 3},
        {"kind": "total_results", "value": 1_000_000},
        {"kind": "short_page", "by": 30, "every": 2},
        {"kind": "repeat_rows", "count": 3},
    ],
)
def test_pages_that_lie_cost_no_record(tap: TapUser, lie: dict[str, object]) -> None:
    catalog = tap.discover(page_size=100)
    kind = str(lie.pop("kind"))
    tap.crm.fault(kind, **lie)
    output = tap.sync(catalog=catalog, page_size=100)
    assert set(output.by_key()) == set(tap.expected(["OptyId"]))


def test_a_condition_of_the_users_own_narrows_what_is_read(tap: TapUser) -> None:
    rows = tap.expected(["OptyId", "CreatedBy"])
    one, other, *_ = sorted({row["CreatedBy"] for row in rows.values()})
    output = tap.sync(filter=f"CreatedBy = '{one}' or CreatedBy = '{other}'", page_size=100)
    theirs = {key for key, row in rows.items() if row["CreatedBy"] in {one, other}}
    assert set(output.by_key()) == theirs


def test_framework_version_1_has_its_own_query_language(tap: TapUser) -> None:
    first = tap.sync(framework_version=1, page_size=100)
    assert set(first.by_key()) == set(tap.expected(["OptyId"]))
    tap.crm.clock(3600)
    changed = tap.crm.mutate(create=150, update=150)
    second = tap.sync(first.state, framework_version=1, page_size=100)
    assert {*changed["created"], *changed["updated"]} <= set(second.by_key())


def test_framework_version_9_sends_numbers_as_text(tap: TapUser) -> None:
    records = tap.sync(framework_version=9).by_key()
    assert records == tap.sync().by_key()
    assert all(isinstance(key, int) for key in records)


def test_a_record_stamped_in_the_future_does_not_stall_the_sync(tap: TapUser) -> None:
    key = min(tap.expected(["OptyId"]))
    tap.crm.update(key, at="2099-01-01T00:00:00+00:00")
    first = tap.sync()
    assert first.bookmark["replication_key_value"] < "2098"
    new = tap.crm.create(Name="Later")
    assert new["OptyId"] in tap.sync(first.state).by_key()


def test_records_without_a_change_time_are_read_each_time(tap: TapUser) -> None:
    keys = sorted(tap.expected(["OptyId"]))[:3]
    for key in keys:
        tap.crm.poison(key, "null_timestamp", touch=False)
    first = tap.sync(page_size=100)
    assert set(keys) <= set(first.by_key())
    assert first.bookmark["replication_key_value"] is not None


def test_the_bookmark_is_found_behind_pages_without_change_times(tap: TapUser) -> None:
    keys = sorted(tap.expected(["OptyId"]))[:40]
    for key in keys:
        tap.crm.update(key, LastUpdateDate=None)
    rows = tap.expected(["OptyId", "LastUpdateDate"])
    newest = max(row["LastUpdateDate"] for row in rows.values() if row["LastUpdateDate"])
    first = tap.sync(page_size=25, clock_margin_seconds=30 * 86_400)
    assert set(first.by_key()) == set(rows)
    assert first.bookmark["replication_key_value"] == newest
    assert set(keys) <= set(tap.sync(first.state, page_size=25).by_key())


def test_a_start_date_leaves_older_records_out(tap: TapUser) -> None:
    rows = tap.expected(["OptyId", "LastUpdateDate"])
    middle = sorted(row["LastUpdateDate"] for row in rows.values())[500]
    output = tap.sync(start_date=middle)
    assert set(output.by_key()) == {
        key for key, row in rows.items() if row["LastUpdateDate"] >= middle
    }


def test_another_filter_or_attribute_makes_the_next_run_read_all(tap: TapUser) -> None:
    first = tap.sync(filter="CreationDate >= '2024-01-01T00:00:00Z'")
    wider = tap.sync(first.state)
    assert len(wider.records()) == 1000
    assert len(tap.sync(wider.state).records()) < 100
    fuller = tap.sync(wider.state, **CUSTOM)
    assert len(fuller.records()) == 1000


def test_a_user_who_sees_nothing_is_told_why(tap: TapUser) -> None:
    for key in tap.expected(["OptyId"]):
        tap.crm.delete(key)
    output = tap.sync()
    assert output.error is not None
    assert "record set" in output.error
    assert "RecordSet='ALLOPTIES'" in output.error
    assert "visibility" in output.error
    assert "replication_key_value" not in output.bookmark
    assert tap.sync(allow_partial=True).error is None


def test_a_record_set_that_shows_a_part_is_taken_for_a_mistake(tap: TapUser) -> None:
    output = tap.sync(finder="MyOpportunitiesFinder;RecordSet='MYOPTIES'")
    assert output.error is not None
    assert "1,000" in output.error
    assert "setting finder" in output.error
    assert not output.records()
    assert len(tap.sync(finder="none", allow_partial=True).records()) < 20


def test_a_filter_explains_that_nothing_is_found(tap: TapUser) -> None:
    output = tap.sync(filter="OptyId < 0")
    assert output.error is None
    assert "no opportunities at all" in output.log


def test_stream_maps_apply(tap: TapUser) -> None:
    maps = {"opportunities": {"OptyId": "OptyId", "Won": "StatusCode == 'WON'", "__else__": None}}
    records = tap.sync(stream_maps=maps).records()
    assert len(records) == 1000
    assert {tuple(record) for record in records} == {("OptyId", "Won")}


def test_more_attributes_than_an_address_holds_are_asked_for_without_naming_them(
    tap: TapUser,
) -> None:
    for number in range(150):
        tap.crm.add_attribute(f"AnAttributeWithQuiteALongNameOfAField{number:03}_c", values=["x"])
    catalog = tap.discover()
    for entry in catalog["streams"]:
        for item in entry["metadata"]:
            item["metadata"]["selected"] = entry["stream"] == "opportunities"
    output = tap.sync(catalog=catalog)
    assert len(output.by_key()) == 1000
    assert {
        record["AnAttributeWithQuiteALongNameOfAField149_c"] for record in output.records()
    } == {"x"}
    assert max(len(item["query"]) for item in tap.requests()) < 4_000


def test_a_state_changed_by_hand_is_named(tap: TapUser) -> None:
    state = {"bookmarks": {"opportunities": {"scan": "junk"}}}
    assert "full refresh" in str(tap.sync(state).error)


def test_a_dry_run_reads_a_few_records_of_each_stream(tap: TapUser) -> None:
    done = tap.cli("--test", "all")
    assert done.code == 0, done.log
    assert len(done.records()) == 1
    assert len(done.records("accounts")) == 1


def test_stream_maps_hide_what_may_be_null(tap: TapUser) -> None:
    maps = {"opportunities": {"TargetPartyName": "md5(TargetPartyName or '')"}}
    output = tap.sync(stream_maps=maps)
    assert output.error is None
    hidden = {record["TargetPartyName"] for record in output.records()}
    assert {len(text) for text in hidden} == {32}
