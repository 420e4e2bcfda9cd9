"""The CRM's list of status codes: a help that never stops a run."""

from __future__ import annotations

from typing import Any

import pytest
from tap_user import Output, TapUser

STREAMS = ("opportunities", "opportunity_statuses")
PLAIN = {"path": "/optyStatusesLOV$", "query": "^(?!.*finder)"}
OWN: list[dict[str, Any]] = [
    {"LookupCode": "OPEN", "Meaning": "Open", "LookupCategory": "OPEN"},
    {"LookupCode": "WON", "Meaning": "Gewonnen", "LookupCategory": "WON"},
    {"LookupCode": "LOST", "Meaning": "Lost", "LookupCategory": "LOST"},
    {"LookupCode": "NO_SALE", "Meaning": "No sale", "LookupCategory": "NO_SALE"},
    {"LookupCode": "ON_HOLD", "Meaning": "On hold", "LookupCategory": "OPEN"},
    {"LookupCode": "CLOSED", "Meaning": "It's off", "LookupCategory": "LOST"},
    {"LookupCode": "UNUSED", "Meaning": "Never", "LookupCategory": "WON"},
]
CATEGORIES = {status["LookupCode"]: status["LookupCategory"] for status in OWN}


def statuses(output: Output) -> dict[str, str | None]:
    """The category of each code that a run wrote."""
    return {
        record["LookupCode"]: record["LookupCategory"]
        for record in output.records("opportunity_statuses")
    }


def test_the_list_is_read_whole_in_one_request(tap: TapUser) -> None:
    tap.crm.settings(statuses=OWN)
    output = tap.sync(streams=STREAMS)
    assert statuses(output) == CATEGORIES
    assert output.records("opportunity_statuses")[1]["Meaning"] == "Gewonnen"
    assert tap.crm.requests()["by_kind"]["optyStatusesLOV"] == 1
    tap.crm.settings(page_cap=2)
    assert statuses(tap.sync(streams=STREAMS)) == CATEGORIES


@pytest.mark.parametrize("version", [1, 4, 9])
def test_where_it_is_refused_each_business_unit_is_asked_for(tap: TapUser, version: int) -> None:
    units = {row["PrimaryOrganizationId"] for row in tap.crm.rows()}
    other = 300000000000999
    tap.crm.create(PrimaryOrganizationId=other)
    own = [
        *OWN[:-1],
        {"LookupCode": "THEIRS", "LookupCategory": "WON", "business_unit": other},
        {"LookupCode": "UNSEEN", "LookupCategory": "WON", "business_unit": 1},
    ]
    tap.crm.settings(statuses=own, statuses_by_business_unit=True)
    output = tap.sync(streams=STREAMS, framework_version=version)
    assert {"THEIRS", "ON_HOLD"} <= set(statuses(output))
    assert "UNSEEN" not in statuses(output)
    assert tap.crm.requests()["by_kind"]["optyStatusesLOV"] <= 2 + len(units) + 1


def test_a_code_with_two_categories_has_none(tap: TapUser) -> None:
    other = 300000000000999
    tap.crm.create(PrimaryOrganizationId=other, StatusCode="ON_HOLD")
    (unit,) = {row["PrimaryOrganizationId"] for row in tap.crm.rows()} - {other}
    own = [
        {"LookupCode": "MOVED", "LookupCategory": "WON", "business_unit": unit},
        {"LookupCode": "MOVED", "LookupCategory": "LOST", "business_unit": other},
    ]
    tap.crm.settings(statuses=own, statuses_by_business_unit=True)
    assert statuses(tap.sync(streams=STREAMS)) == {"MOVED": None}


def test_the_list_may_have_a_code_more_than_once(tap: TapUser) -> None:
    hold = {"LookupCode": "HOLD", "LookupCategory": "OPEN"}
    moved = {"LookupCode": "MOVED", "LookupCategory": "WON"}
    old = {"LookupCode": "OLD", "LookupCategory": "LOST", "EnabledFlag": "N"}
    tap.crm.settings(
        statuses=[
            hold,
            {**hold, "LookupCategory": "LOST", "SetId": 300000001},
            moved,
            {**moved, "SetId": 300000001, "Meaning": "Moved"},
            {**moved, "LookupCategory": "LOST", "EnabledFlag": "N", "SetId": 300000002},
            {**moved, "LookupCategory": "LOST", "LookupType": "LEAD_STATUS"},
            old,
            {"LookupCode": "LEAD", "LookupCategory": "OPEN", "LookupType": "LEAD_STATUS"},
            {"LookupCode": "BEHIND", "LookupCategory": "OPEN"},
        ],
        page_cap=2,  # the third page has no code that is new
    )
    for row in tap.crm.rows()[:2]:
        tap.crm.update(row["OptyId"], StatusCode="HOLD")  # what they are does not settle it
    output = tap.sync(streams=STREAMS)
    expected = {"HOLD": None, "MOVED": "WON", "OLD": "LOST", "BEHIND": "OPEN"}
    assert statuses(output) == expected
    assert len(output.records("opportunity_statuses")) == len(expected)
    assert output.log.count("HOLD has not one category") == 1


@pytest.mark.parametrize("version", [1, 4])
def test_categories_are_learnt_from_the_deals_where_the_list_has_none(
    tap: TapUser, version: int
) -> None:
    tap.crm.settings(statuses=OWN, status_categories=False)
    output = tap.sync(streams=STREAMS, framework_version=version)
    assert statuses(output) == {**CATEGORIES, "UNUSED": None}


@pytest.mark.parametrize("status", [400, 200])
def test_a_finder_without_categories_teaches_nothing(tap: TapUser, status: int) -> None:
    tap.crm.settings(statuses=OWN, status_categories=False)
    if status == 400:
        tap.crm.fault("error", status=400, body="structured", query="LookupCategory")
    else:  # the CRM ignores the variable: all deals of any category
        same = [{**row, "LookupCategory": "OPEN"} for row in OWN]
        every = [{**row, "LookupCategory": "WON"} for row in OWN]
        tap.crm.settings(statuses=[*same, *every])
    output = tap.sync(streams=STREAMS)
    assert output.error is None
    assert set(statuses(output).values()) == {None}


def test_predefined_codes_need_no_category(tap: TapUser) -> None:
    tap.crm.settings(statuses=OWN[:4], status_categories=False)
    output = tap.sync(streams=STREAMS)
    assert set(statuses(output).values()) == {None}
    assert not [item for item in tap.requests() if "LookupCategory" in item["query"]]


@pytest.mark.parametrize("status", [400, 403, 404, 500, "empty"])
def test_without_the_list_the_run_goes_on(tap: TapUser, status: int | str) -> None:
    if status == "empty":
        tap.crm.settings(statuses=[])
    else:
        tap.crm.fault("error", status=status, path="/optyStatusesLOV$")
    output = tap.sync(streams=STREAMS, max_retries=0)
    assert output.error is None
    assert len(output.by_key()) == 1000
    assert statuses(output) == {}
    assert output.log.count("does not list its status codes") == 1


def test_refused_credentials_end_the_run(tap: TapUser) -> None:
    tap.crm.fault("error", status=401, path="/optyStatusesLOV$")
    assert "user name or password" in str(tap.sync(streams=STREAMS).error)
