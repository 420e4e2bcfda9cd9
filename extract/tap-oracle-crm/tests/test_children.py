"""The streams that belong to opportunities: what is read, and what happens where it cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from tap_user import TapUser, select


@pytest.mark.parametrize(
    ("name", "child", "key"),
    [
        ("revenue_lines", "ChildRevenue", "RevnId"),
        ("opportunity_team", "OpportunityResource", "OptyResourceId"),
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


BOTH = ("opportunities", "revenue_lines", "rejected_records")


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_children_that_cannot_be_had_leave_the_opportunities_alone(
    tap: TapUser, status: int
) -> None:
    tap.crm.reset(records=60)
    catalog = select(tap.discover(), *BOTH)
    tap.crm.fault("error", status=status, path="/child/ChildRevenue$")
    # Requests under way when a run skips the stream would count for the next run: only one is.
    first = tap.sync(catalog=catalog, max_retries=0, concurrency=1)
    assert first.error is None
    assert len(first.by_key()) == 60
    assert first.records("rejected_records") == []
    assert first.log.count("ChildRevenue of opportunities cannot be read (HTTP") == 1
    assert "replication_key_value" in first.bookmark
    # The next run only checks once whether they can be read now; after a 400, it also checks
    # whether a part of the request can be left out.
    second = first
    for _ in range(2):
        tap.crm.clear_requests()
        second = tap.sync(second.state, catalog, max_retries=0, concurrency=1)
        assert second.error is None
        assert second.log.count("cannot be read") == 1
        assert len(second.records()) < 30
    assert tap.crm.requests()["total"] <= (16 if status == 400 else 8)
    # The children of unchanged deals are read, too.
    tap.crm.clear_faults()
    third = tap.sync(second.state, catalog)
    expected = {row["RevnId"] for row in tap.crm.rows("ChildRevenue")}
    assert set(third.by_key("revenue_lines", "RevnId")) == expected
    assert len(tap.sync(third.state, catalog).records("revenue_lines")) < len(expected)


def test_children_that_failed_for_a_while_are_read_from_there_on(tap: TapUser) -> None:
    tap.crm.reset(records=60)
    catalog = select(tap.discover(), *BOTH)
    first = tap.sync(catalog=catalog, lookback_seconds=0)
    tap.crm.fault("error", status=403, path="/child/ChildRevenue$")
    states, changed = [first.state], set()
    for hour in (1, 2):
        tap.crm.clock(3600 * hour)
        changed |= set(tap.crm.mutate(update=3)["updated"])
        states.append(tap.sync(states[-1], catalog, lookback_seconds=0).state)
    tap.crm.clear_faults()
    last = tap.sync(states[-1], catalog, lookback_seconds=0)
    read = {row["OptyId"] for row in last.records("revenue_lines")}
    assert changed <= read
    assert len(read) < 20, "those before were read already"


def test_children_that_fail_in_the_middle_are_read_later(tap: TapUser) -> None:
    tap.crm.reset(records=300)
    catalog = select(tap.discover(), *BOTH)
    tap.crm.fault("error", status=403, path="/child/ChildRevenue$", after=100)
    first = tap.sync(catalog=catalog, page_size=25)
    assert first.error is None
    assert set(first.by_key()) == set(tap.expected(["OptyId"]))
    assert first.records("rejected_records") == []
    tap.crm.clear_faults()
    second = tap.sync(first.state, catalog)
    read = {**first.by_key("revenue_lines", "RevnId"), **second.by_key("revenue_lines", "RevnId")}
    assert set(read) == {row["RevnId"] for row in tap.crm.rows("ChildRevenue")}


def test_refused_credentials_end_the_run_under_the_children_too(tap: TapUser) -> None:
    tap.crm.reset(records=20)
    tap.crm.fault("error", status=401, path="/child/ChildRevenue$")
    output = tap.sync(streams=BOTH)
    assert "refused the user name or password" in str(output.error)


def test_a_scan_that_goes_on_knows_whose_children_were_read(tap: TapUser) -> None:
    tap.crm.reset(records=300)
    catalog = select(tap.discover(), *BOTH)
    tap.crm.fault("error", status=500, path="/opportunities$", after=8)
    broken = tap.sync(catalog=catalog, page_size=25, max_retries=0)
    assert broken.error
    assert broken.bookmark["scan"]
    tap.crm.clear_faults()
    both = select(catalog, *BOTH, "opportunity_team")
    rest = tap.sync(broken.state, both, page_size=25)
    for name, child, key in (
        ("revenue_lines", "ChildRevenue", "RevnId"),
        ("opportunity_team", "OpportunityResource", "OptyResourceId"),
    ):
        read = {**broken.by_key(name, key), **rest.by_key(name, key)}
        assert set(read) == {row[key] for row in tap.crm.rows(child)}


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
    key = max(rows, key=lambda key: str(rows[key]["LastUpdateDate"]))  # then only this one is read
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


def test_children_that_are_still_down_cost_no_second_read_of_all(tap: TapUser) -> None:
    tap.crm.reset(records=300)
    catalog = select(tap.discover(), *BOTH)
    tap.crm.fault("error", status=403, path="/child/ChildRevenue$")
    tap.crm.fault("error", status=500, path="/opportunities$", after=12)
    broken = tap.sync(catalog=catalog, page_size=25, max_retries=0)
    assert broken.error
    tap.crm.clear_faults()
    tap.crm.fault("error", status=403, path="/child/ChildRevenue$")
    rest = tap.sync(broken.state, catalog, page_size=25)
    assert rest.error is None
    assert set(broken.by_key()) | set(rest.by_key()) == set(tap.expected(["OptyId"]))
    assert len(rest.records()) <= 330, "not twice"


def test_an_attribute_that_only_one_deal_shows_missing_is_found_with_another(
    tap: TapUser,
) -> None:
    tap.crm.reset(records=20)
    catalog = select(tap.discover(), *BOTH)
    first = tap.sync(catalog=catalog)
    rows = tap.expected(["OptyId", "LastUpdateDate"])
    key = max(rows, key=lambda key: str(rows[key]["LastUpdateDate"]))
    tap.crm.clock(3600)
    tap.crm.update(key)
    tap.crm.fault("error", status=400, path="/child/", query="fields=.*Quantity")
    second = tap.sync(first.state, catalog, lookback_seconds=0)
    assert second.error is None
    assert second.records("rejected_records") == []
    assert {row["Quantity"] for row in second.records("revenue_lines")} == {None}
    assert "no longer has Quantity" in second.log
