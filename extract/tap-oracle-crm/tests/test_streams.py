"""Discovery, custom fields, and the collections beside opportunities."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
from oracle_crm_sandbox import CLIENT_ID, CLIENT_SECRET
from tap_oracle_crm.discovery import attributes_of
from tap_user import TapUser, select

ALL = (
    "accounts",
    "opportunities",
    "opportunity_attributes",
    "opportunity_statuses",
    "opportunity_team",
    "rejected_records",
    "resources",
    "revenue_lines",
)


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
    assert properties["BidDueDate_c"]["type"] == ["string", "null"]
    assert properties["BidDueDate_c"]["format"] == "date"
    assert properties["LastUpdateDate"]["format"] == "date-time"
    assert properties["Practice_c"] == {
        "type": ["string", "null"],
        "title": "Practice",
        "description": "string",
    }
    assert tuple(sorted(entry["stream"] for entry in catalog["streams"])) == ALL


def test_the_attributes_that_the_crm_describes_are_one_record(tap: TapUser) -> None:
    tap.crm.add_attribute("Products_c", "array", values=[["Cloud"]])
    output = tap.sync(streams=("opportunities", "opportunity_attributes"))
    (record,) = output.records("opportunity_attributes")
    assert record["resource"] == "opportunities"
    described = {attribute["name"]: attribute for attribute in json.loads(record["attributes"])}
    assert described["Products_c"] == {"name": "Products_c", "label": "Products", "type": "array"}
    assert described["WinProb"]["type"] == "number"
    assert tap.crm.requests()["by_kind"]["opportunities/describe"] == 1


@pytest.mark.parametrize("refusal", [{"status": 403}, {"status": 500}])
def test_what_the_crm_does_not_describe_is_no_record(tap: TapUser, refusal: dict[str, int]) -> None:
    tap.crm.fault("error", path="/describe$", **refusal)
    output = tap.sync(streams=("opportunities", "opportunity_attributes"), max_retries=0)
    assert output.records("opportunity_attributes") == []
    assert len(output.records()) == 1000


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
    # Independent of what describe lists and what an error message names.
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


def test_further_attributes_of_accounts_are_read_where_they_are_named(tap: TapUser) -> None:
    tap.crm.add_attribute("Industry_c", "string", ["Bank", "Energy"], "accounts")
    options: dict[str, Any] = {
        "account_fields": "Industry_c, Country,Nowhere_c",
        "extra_property": "custom",
    }
    streams = ("opportunities", "accounts", "opportunity_attributes")
    output = tap.sync(streams=streams, **options)
    rows = {row["PartyId"]: row for row in tap.crm.rows("accounts")}
    found = output.by_key("accounts", "PartyId")
    assert found.keys() == rows.keys()
    for key, record in found.items():
        assert record["OrganizationName"] == rows[key]["OrganizationName"]
        assert record["custom"] == {
            "Industry_c": rows[key]["Industry_c"],
            "Country": rows[key]["Country"],
            "Nowhere_c": None,
        }
    lists = {
        record["resource"]: {one["name"]: one["type"] for one in json.loads(record["attributes"])}
        for record in output.records("opportunity_attributes")
    }
    assert lists.keys() == {"opportunities", "accounts"}
    assert lists["accounts"]["Industry_c"] == "string"
    assert "Nowhere_c" not in lists["accounts"]

    # Another attribute: all accounts are read again, and no opportunity.
    options["account_fields"] += ",City"
    again = tap.sync(output.state, streams=streams, lookback_seconds=0, **options)
    assert len(again.by_key("accounts", "PartyId")) == len(rows)
    assert len(again.records()) < 10


def test_accounts_that_are_not_shown_leave_opportunities_alone(tap: TapUser) -> None:
    tap.crm.settings(forbidden=["accounts", "accounts/describe"])
    options: dict[str, Any] = {"account_fields": ["Country"], "extra_property": "custom"}
    output = tap.sync(streams=("opportunities", "accounts", "opportunity_attributes"), **options)
    assert output.error is None
    assert len(output.records()) == 1000
    assert output.records("accounts") == []
    assert len(output.records("opportunity_attributes")) == 1
    assert output.log.count("Could not be read (HTTP 403") == 1


BROKEN: list[dict[str, Any]] = [
    {"status": 400, "body": "structured", "query": "LastUpdateDate"},  # it has no such attribute
    {"status": 403},
    {"status": 404},
    {"status": 500},
]


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: str(fault["status"]))
@pytest.mark.parametrize("name", ["accounts", "resources"])
def test_a_further_collection_that_cannot_be_read_leaves_opportunities_alone(
    tap: TapUser, name: str, fault: dict[str, Any]
) -> None:
    streams = ("opportunities", name)
    first = tap.sync(streams=streams, page_size=25, lookback_seconds=0)
    tap.crm.clock(3600)
    changed = tap.crm.mutate(update=3)["updated"]
    key = max(row["PartyId"] for row in tap.crm.rows(name))
    tap.crm.update(key, name)
    tap.crm.fault("error", **fault, path=f"/{name}$")
    second = tap.sync(first.state, streams=streams, max_retries=0, lookback_seconds=0)
    assert second.error is None
    assert set(changed) <= set(second.by_key())
    assert second.log.count("Could not be read (HTTP") == 1
    assert second.state["bookmarks"][name] == first.state["bookmarks"][name]
    tap.crm.clear_faults()
    third = tap.sync(second.state, streams=streams, lookback_seconds=0)
    assert key in third.by_key(name, "PartyId")


def test_refused_credentials_end_the_run_under_any_stream(tap: TapUser) -> None:
    catalog = select(tap.discover(), "opportunities", "resources")
    tap.crm.fault("error", status=401, path="/resources$")
    assert "user name or password" in str(tap.sync(catalog=catalog).error)
    tap.crm.clear_faults()
    oauth: dict[str, Any] = {
        "token_url": f"{tap.crm.url}/oauth2/v1/token",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    tap.crm.fault("error", status=401, path="/resources$")
    tap.crm.fault("error", status=401, path="/token$", after=1)
    output = tap.sync(catalog=catalog, **oauth)
    assert len(output.records()) == 1000
    assert "refused the client" in str(output.error)


def test_names_that_cannot_be_asked_for_are_left_out() -> None:
    names = ["Name", "a,b", "\ud800_c", "1st", "Größe_c", "O$1_c", "", None]
    described = [{"name": name, "type": "attachment"} for name in names]
    answer = {"Resources": {"opportunities": {"attributes": described}}}
    assert set(attributes_of(answer, "opportunities")) == {"Name", "Größe_c", "O$1_c"}


def test_streams_off_by_default_are_not_read(tap: TapUser) -> None:
    output = tap.sync(catalog=copy.deepcopy(tap.discover()))
    assert {item["stream"] for item in output.messages if "stream" in item} == {
        "opportunities",
        "rejected_records",
    }


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
