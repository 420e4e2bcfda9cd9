"""Discovery, custom fields, and the streams beside opportunities."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from tap_user import TapUser, select

ALL = (
    "accounts", "opportunities", "opportunity_keys", "opportunity_team", "rejected_records",
    "resources", "revenue_lines",
)  # fmt: skip


def stream(catalog: dict[str, Any], name: str) -> dict[str, Any]:
    """One stream of a catalog."""
    return next(entry for entry in catalog["streams"] if entry["stream"] == name)


def inclusion(catalog: dict[str, Any], attribute: str) -> str | None:
    """How an attribute of opportunities is included; None where it is missing."""
    for item in stream(catalog, "opportunities")["metadata"]:
        if item["breadcrumb"] == ["properties", attribute]:
            found: str = item["metadata"]["inclusion"]
            return found
    return None


def test_attributes_are_discovered_with_their_types(tap: TapUser) -> None:
    catalog = tap.discover()
    properties = stream(catalog, "opportunities")["schema"]["properties"]
    assert properties["OptyId"]["type"] == "integer"
    assert properties["LegacyDealId_c"]["type"] == ["integer", "null"]
    assert properties["Margin_c"]["type"] == ["number", "null"]
    assert properties["GoNoGo_c"]["type"] == ["boolean", "null"]
    assert properties["BidDueDate_c"] == {"type": ["string", "null"], "format": "date"}
    assert properties["LastUpdateDate"]["format"] == "date-time"
    assert properties["Practice_c"] == {"type": ["string", "null"]}
    assert tuple(sorted(entry["stream"] for entry in catalog["streams"])) == ALL


def test_discovery_takes_one_request(tap: TapUser) -> None:
    tap.discover()
    assert tap.crm.requests()["total"] == 1


@pytest.mark.parametrize(
    "configured", [["geo_C", "Practice_c"], "GEO_C, practice_c ,,", '["Geo_c","PRACTICE_c"]']
)
def test_custom_fields_are_selected_whatever_their_case(tap: TapUser, configured: Any) -> None:
    catalog = tap.discover(custom_fields=configured)
    assert inclusion(catalog, "GEO_c") == "automatic"
    assert inclusion(catalog, "Practice_c") == "automatic"
    assert inclusion(catalog, "Sector_c") == "available"
    records = tap.sync(catalog=catalog).records()
    assert {"GEO_c", "Practice_c"} <= set(records[0])


def test_a_custom_field_that_does_not_exist_is_a_warning_with_what_is_alike(tap: TapUser) -> None:
    output = tap.sync(custom_fields=["Practise_c"])
    (warning,) = [line for line in output.log.splitlines() if "Practise_c" in line]
    assert "Practice_c" in warning
    assert len(output.records()) == 1000


@pytest.mark.parametrize("status", [403, 404])
def test_without_describe_the_standard_attributes_do(tap: TapUser, status: int) -> None:
    tap.crm.fault("error", status=status, path="/describe$")
    output = tap.sync(custom_fields=["Practice_c", "Nowhere_c"])
    assert output.error is None
    records = output.by_key()
    assert len(records) == 1000
    row = next(iter(tap.expected().values()))
    assert records[row["OptyId"]]["Practice_c"] == row["Practice_c"]
    assert records[row["OptyId"]]["Name"] == row["Name"]
    assert "The CRM has no Nowhere_c: null" in output.log


@pytest.mark.parametrize("words", ["Attribute Name Practice_c is not valid.", ""])
@pytest.mark.parametrize("with_describe", [True, False])
def test_only_what_is_refused_counts_as_gone(tap: TapUser, words: str, with_describe: bool) -> None:
    # Whatever describe lists and whatever the words of an error name.
    if not with_describe:
        tap.crm.fault("error", status=404, path="/describe$")
    tap.crm.fault("error", status=400, body="structured", detail=words, query="fields=.*Practice_c")
    output = tap.sync(custom_fields=["Practice_c", "Sector_c"])
    assert output.error is None
    assert "The CRM has no Practice_c: null" in output.log
    expected = tap.expected(["OptyId", "Name", "Sector_c"])
    for key, record in output.by_key().items():
        assert record["Practice_c"] is None
        assert {name: record[name] for name in ("OptyId", "Name", "Sector_c")} == expected[key]


def test_a_burst_of_refusals_makes_no_attribute_gone(tap: TapUser) -> None:
    catalog = tap.discover()
    burst = {"status": 400, "body": "structured", "path": "/opportunities$"}
    tap.crm.fault("error", **burst, next=1)
    tap.crm.fault("error", **burst, after=2, next=5)
    output = tap.sync(catalog=catalog)
    assert "refused the query" in str(output.error)
    assert "no longer has" not in output.log


@pytest.mark.parametrize("discover_again", [True, False])
def test_a_field_that_disappears_becomes_null_in_all_records(
    tap: TapUser, discover_again: bool
) -> None:
    options: dict[str, Any] = {"custom_fields": ["Practice_c", "Sector_c"]}
    catalog = tap.discover(**options)
    first = tap.sync(catalog=catalog, **options)
    tap.crm.remove_attribute("Sector_c")
    tap.crm.clock(3600)
    tap.crm.mutate(update=10)
    if discover_again:
        catalog = tap.discover(**options)
    second = tap.sync(first.state, catalog, **options)
    assert second.error is None
    assert {record["Sector_c"] for record in second.records()} == {None}
    assert len(second.by_key()) == 1000
    assert ("no longer has Sector_c" in second.log) is not discover_again
    third = tap.sync(second.state, catalog, **options)
    assert len(third.records()) < 100, "once is enough"


def test_a_field_that_appears_is_read_for_all_records(tap: TapUser) -> None:
    first = tap.sync(custom_fields=["Tier_c"])
    tap.crm.add_attribute("Tier_c", values=["gold", "silver"])
    second = tap.sync(first.state, custom_fields=["Tier_c"])
    assert {record["Tier_c"] for record in second.by_key().values()} == {"gold", "silver"}
    assert len(second.by_key()) == 1000


def test_a_field_that_changes_its_type_does_not_stop_the_sync(tap: TapUser) -> None:
    options: dict[str, Any] = {"custom_fields": ["LegacyDealId_c"]}
    catalog = tap.discover(**options)
    first = tap.sync(catalog=catalog, **options)
    tap.crm.retype_attribute("LegacyDealId_c", "string")
    tap.crm.clock(3600)
    key = min(tap.expected(["OptyId"]))
    tap.crm.update(key, LegacyDealId_c="now a text")
    second = tap.sync(first.state, catalog, **options)
    assert second.error is None
    assert [item["remote_id"] for item in second.records("rejected_records")] == [str(key)]
    third = tap.sync(first.state, **options)
    assert third.by_key()[key]["LegacyDealId_c"] == "now a text"


def test_keys_are_complete_and_activated_only_at_the_end(tap: TapUser) -> None:
    lost = tap.crm.create()["OptyId"]
    tap.crm.poison(lost, "missing_id")
    output = tap.sync(streams=("opportunity_keys",), page_size=100)
    assert set(output.by_key("opportunity_keys")) == set(tap.expected(["OptyId"])) - {lost}
    assert output.records("rejected_records") == []
    versions = {item["version"] for item in output.messages if item["type"] == "RECORD"}
    kinds = [item["type"] for item in output.messages if item["type"] != "STATE"]
    activation = output.messages[-1 - (output.messages[-1]["type"] == "STATE")]
    assert (activation["type"], {activation["version"]}) == ("ACTIVATE_VERSION", versions)
    assert kinds.count("ACTIVATE_VERSION") == 1
    assert all(set(record) == {"OptyId"} for record in output.records("opportunity_keys"))
    scans = [item for item in tap.requests() if "fields=OptyId&" in item["query"]]
    assert scans


def test_a_later_pass_over_the_keys_has_a_later_version(tap: TapUser) -> None:
    one = tap.sync(streams=("opportunity_keys",))
    two = tap.sync(one.state, streams=("opportunity_keys",))
    assert len(two.records("opportunity_keys")) == 1000
    versions = [
        next(item["version"] for item in output.messages if item["type"] == "ACTIVATE_VERSION")
        for output in (one, two)
    ]
    assert versions[0] < versions[1]


@pytest.mark.parametrize("fault", [{"kind": "error", "status": 500, "after": 6}, None])
def test_a_pass_over_the_keys_that_is_not_complete_activates_nothing(
    tap: TapUser, fault: dict[str, Any] | None
) -> None:
    if fault:
        tap.crm.fault(**fault)
        output = tap.sync(streams=("opportunity_keys",), page_size=100, max_retries=0)
        assert output.error
    else:  # that a user sees nothing at all is no proof that all was deleted
        output = tap.sync(streams=("opportunity_keys",), filter="OptyId < 0")
        assert output.error is None
    assert "ACTIVATE_VERSION" not in {item["type"] for item in output.messages}


@pytest.mark.parametrize("name", ["accounts", "resources"])
def test_further_collections_are_read_by_the_same_machinery(tap: TapUser, name: str) -> None:
    first = tap.sync(streams=(name,), page_size=25)
    rows = {row["PartyId"]: row for row in tap.crm.rows(name)}
    assert set(first.by_key(name, "PartyId")) == set(rows)
    key = max(rows)
    tap.crm.clock(3600)
    tap.crm.update(key, name)
    second = tap.sync(first.state, streams=(name,), page_size=25)
    assert key in second.by_key(name, "PartyId")
    assert len(second.records(name)) < len(rows)


@pytest.mark.parametrize(
    ("name", "child", "key"),
    [
        ("revenue_lines", "ChildRevenue", "RevnId"),
        ("opportunity_team", "OpportunityTeam", "OptyResourceId"),
    ],
)
@pytest.mark.parametrize("with_parent", [True, False])
def test_children_are_read_for_what_changed(
    tap: TapUser, name: str, child: str, key: str, with_parent: bool
) -> None:
    tap.crm.reset(records=60)
    streams = ("opportunities", name) if with_parent else (name,)
    first = tap.sync(streams=streams)
    keys = set(tap.expected(["OptyId"]))
    assert {record["OptyId"] for record in first.records(name)} <= keys
    assert set(first.by_key(name, key)) == {row[key] for row in tap.crm.rows(child)}
    assert len(first.records()) == (60 if with_parent else 0)
    tap.crm.clock(3600)
    changed = tap.crm.mutate(update=3)["updated"]
    second = tap.sync(first.state, streams=streams)
    assert set(changed) <= {record["OptyId"] for record in second.records(name)}
    assert len(second.records(name)) < len(first.records(name))


def test_children_selected_later_are_read_for_all_opportunities(tap: TapUser) -> None:
    tap.crm.reset(records=60)
    first = tap.sync()
    both = ("opportunities", "revenue_lines")
    second = tap.sync(first.state, streams=both)
    keys = set(tap.expected(["OptyId"]))
    assert {record["OptyId"] for record in second.records("revenue_lines")} == keys
    assert len(tap.sync(second.state, streams=both).records("revenue_lines")) < 60
    assert len(tap.sync(second.state).records()) < 30, "fewer is no reason to read all again"


def test_an_attribute_of_a_child_that_is_gone_is_null(tap: TapUser) -> None:
    tap.crm.reset(records=60)
    tap.crm.fault("error", status=400, path="/child/", query="fields=.*Quantity")
    output = tap.sync(streams=("revenue_lines",))
    assert output.error is None
    assert set(output.by_key("revenue_lines", "RevnId")) == {
        row["RevnId"] for row in tap.crm.rows("ChildRevenue")
    }
    assert {row["Quantity"] for row in output.records("revenue_lines")} == {None}
    assert output.log.count("The CRM has no Quantity") == 1


def test_children_that_this_crm_does_not_have_end_the_run(tap: TapUser) -> None:
    tap.crm.reset(records=60)
    first = tap.sync(streams=("opportunities", "revenue_lines"))
    tap.crm.fault("error", status=404, path="/child/ChildRevenue$")
    output = tap.sync(streams=("opportunities", "revenue_lines"))
    assert "child/ChildRevenue" in str(output.error)
    tap.crm.clock(3600)
    tap.crm.mutate(update=2)
    streams = ("opportunities", "revenue_lines", "rejected_records")
    few = tap.sync(first.state, streams=streams, lookback_seconds=0)
    assert few.error is None
    assert len(few.records("rejected_records")) == len(few.records()) > 0


def test_deals_that_are_deleted_before_their_children_are_read_end_no_run(tap: TapUser) -> None:
    tap.crm.reset(records=60)
    rows = tap.expected(["OptyId", "LastUpdateDate"])
    newest = sorted(rows, key=lambda key: str(rows[key]["LastUpdateDate"]))[-14:]
    gone = [{"method": "DELETE", "path": f"opportunities/{key}"} for key in newest]
    catalog = select(tap.discover(), "opportunities", "revenue_lines")
    tap.crm.command("POST", "hooks", {"next": 1, "commands": gone})
    output = tap.sync(catalog=catalog, concurrency=1)
    assert output.error is None
    assert "14 opportunities were deleted before their ChildRevenue could be read" in output.log
    assert len({row["OptyId"] for row in output.records("revenue_lines")}) == 46


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 400, "body": "structured", "query": "fields=.*Quantity"}, "injected"),
        ({"status": 403}, "HTTP 403"),
        ({"status": 500}, "HTTP 500 (after 2 attempts)"),
    ],
    ids=lambda value: str(value.get("status")) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_deal_whose_children_cannot_be_had_is_told_of_and_the_rest_goes_on(
    tap: TapUser, fault: dict[str, Any], reason: str, alone: bool
) -> None:
    tap.crm.reset(records=20)
    streams = ("opportunities", "revenue_lines", "rejected_records")
    first = tap.sync(streams=streams)
    rows = tap.expected(["OptyId", "LastUpdateDate"])
    key = max(rows, key=lambda key: str(rows[key]["LastUpdateDate"]))  # none but it is read then
    tap.crm.clock(3600)
    tap.crm.update(key)
    if not alone:
        tap.crm.mutate(update=10)
    number = tap.crm.row(key)["OptyNumber"]
    tap.crm.fault("error", **fault, path=f"/{number}/child/")
    second = tap.sync(first.state, streams=streams, max_retries=1, lookback_seconds=0)
    assert second.error is None
    assert "no longer has" not in second.log
    (told,) = second.records("rejected_records")
    assert (told["stream"], told["remote_id"]) == ("revenue_lines", str(key))
    assert reason in told["reason"]
    assert key not in {row["OptyId"] for row in second.records("revenue_lines")}
    assert (len(second.records("revenue_lines")) > 0) is not alone
    assert second.bookmark["replication_key_value"] > first.bookmark["replication_key_value"]


def test_a_crm_that_goes_down_under_the_children_is_no_fault_of_a_deal(tap: TapUser) -> None:
    tap.crm.reset(records=20)
    catalog = select(tap.discover(), "opportunities", "revenue_lines", "rejected_records")
    tap.crm.fault("error", status=500, after=15)
    output = tap.sync(catalog=catalog, max_retries=1)
    assert "HTTP 500" in str(output.error)
    assert output.records("rejected_records") == []
    assert "replication_key_value" not in output.bookmark
    tap.crm.clear_faults()
    rest = tap.sync(output.state, catalog)
    assert {row["OptyId"] for row in rest.records("revenue_lines")} == set(tap.expected(["OptyId"]))


def test_opportunities_without_a_number_are_told_of(tap: TapUser) -> None:
    tap.crm.reset(records=20)
    tap.crm.update(min(tap.expected(["OptyId"])), OptyNumber=None)
    output = tap.sync(streams=("opportunities", "revenue_lines"))
    assert len(output.records()) == 20
    assert len({row["OptyId"] for row in output.records("revenue_lines")}) == 19
    assert "1 opportunities have no OptyNumber" in output.log


def test_children_that_change_while_they_are_read_cost_no_other(tap: TapUser) -> None:
    tap.crm.reset(records=10)
    tap.crm.settings(page_cap=1)
    lines = tap.crm.rows("ChildRevenue")
    parent = next(row["OptyId"] for row in lines if row["RevnId"] % 10 == 2)
    keys = [row["RevnId"] for row in lines if row["OptyId"] == parent]
    number = tap.expected(["OptyId", "OptyNumber"])[parent]["OptyNumber"]
    where = {"path": f"/{number}/child/ChildRevenue$", "next": 1}
    gone = {"method": "DELETE", "path": f"ChildRevenue/{keys[0]}"}
    tap.crm.command("POST", "hooks", where | {"commands": [gone]})
    output = tap.sync(streams=("opportunities", "revenue_lines"))
    read = [row["RevnId"] for row in output.records("revenue_lines") if row["OptyId"] == parent]
    assert read == keys


def test_streams_off_by_default_are_not_read(tap: TapUser) -> None:
    output = tap.sync(catalog=copy.deepcopy(tap.discover()))
    assert {item["stream"] for item in output.messages if "stream" in item} == {
        "opportunities", "rejected_records",
    }  # fmt: skip


def test_a_catalog_makes_describe_needless(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.clear_requests()
    tap.sync(catalog=catalog)
    assert "opportunities/describe" not in tap.crm.requests()["by_kind"]


def test_reads_are_announced_for_people_and_for_the_run_recorder(tap: TapUser) -> None:
    first = tap.sync()
    assert "FULL read: the CRM claims 1,000 records visible to this user" in first.log
    assert (
        '{"type":"gauge","metric":"records_claimed","value":1000,'
        '"tags":{"stream":"opportunities","sync_type":"FULL"}}' in first.log
    )
    assert '"metric":"record_count","value":1000,"tags":{"stream":"opportunities"' in first.log
    assert '"metric":"http_request_count"' in first.log
    second = tap.sync(first.state)
    assert '"tags":{"stream":"opportunities","sync_type":"INCREMENTAL"}}' in second.log


def test_the_version_is_shown_without_loading_the_sdk() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--version']; from tap_oracle_crm.__main__ import main; "
        "main(); print(sorted(name for name in sys.modules if name in ('singer_sdk', 'requests')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tap-oracle-crm v")
    assert done.stdout.endswith("[]\n")
