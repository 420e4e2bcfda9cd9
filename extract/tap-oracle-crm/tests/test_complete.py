"""What a read proves: complete ones show what is absent, others do not."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from tap_user import Output, TapUser, select


def complete(catalog: dict[str, Any]) -> dict[str, Any]:
    """The catalog with opportunities read in full, as Meltano's metadata rule changes it."""
    catalog = copy.deepcopy(catalog)
    for entry in catalog["streams"]:
        if entry["stream"] == "opportunities":
            entry["replication_method"] = "FULL_TABLE"
            for item in entry["metadata"]:
                if not item["breadcrumb"]:
                    item["metadata"]["replication-method"] = "FULL_TABLE"
    return catalog


def coverage(output: Output, stream: str = "opportunities") -> list[tuple[int, str, str]]:
    """Rows, coverage and scope of each read."""
    pattern = (
        r'"metric":"coverage","value":(\d+),"tags":{"stream":"'
        + stream
        + r'","coverage":"(\w+)","scope":"(\w+)"'
    )
    return [(int(rows), kind, scope) for rows, kind, scope in re.findall(pattern, output.log)]


def activated(output: Output) -> list[int]:
    """The versions that a run activated."""
    return [item["version"] for item in output.messages if item["type"] == "ACTIVATE_VERSION"]


def test_a_complete_read_has_a_version_that_is_activated_at_the_end(tap: TapUser) -> None:
    lost = tap.crm.create()["OptyId"]
    tap.crm.poison(lost, "missing_id")
    output = tap.sync(catalog=complete(tap.discover()), page_size=100)
    keys = set(tap.expected(["OptyId"]))
    assert set(output.by_key()) == keys - {lost}
    versions = {
        item["version"]
        for item in output.messages
        if item["type"] == "RECORD" and item["stream"] == "opportunities"
    }
    assert {*activated(output)} == versions
    assert len(activated(output)) == 1
    kinds = [item["type"] for item in output.messages if item.get("stream") == "opportunities"]
    assert kinds[-1] == "ACTIVATE_VERSION"
    (read,) = coverage(output)
    assert read[:2] == (len(keys), "complete")


def test_a_complete_read_leaves_the_bookmark_alone_and_its_versions_grow(tap: TapUser) -> None:
    catalog = tap.discover()
    first = tap.sync(catalog=catalog)
    one = tap.sync(first.state, complete(catalog))
    assert len(one.records()) == 1000
    known = one.state
    known["bookmarks"]["opportunities"]["version"] += 10**9  # a clock that was far ahead
    two = tap.sync(known, complete(catalog))
    assert activated(one) < [known["bookmarks"]["opportunities"]["version"]] < activated(two)
    third = tap.sync(two.state, catalog)
    assert len(third.records()) < 100
    assert "INCREMENTAL read" in third.log


def test_a_complete_read_costs_no_more_requests_than_one_of_the_keys(tap: TapUser) -> None:
    tap.crm.reset(records=5000)
    catalog = complete(tap.discover(custom_fields=["Practice_c", "GEO_c"]))
    tap.crm.clear_requests()
    tap.sync(catalog=catalog)
    pages = -(-5000 // 499)
    assert tap.crm.requests()["total"] <= 1 + pages + 4 + pages // 20 + 4


@pytest.mark.parametrize("cause", ["fault", "limit", "nothing"])
def test_a_read_that_is_not_complete_activates_nothing(tap: TapUser, cause: str) -> None:
    catalog = complete(tap.discover())
    if cause == "fault":
        tap.crm.fault("error", status=500, after=6)
        output = tap.sync(catalog=catalog, page_size=100, max_retries=0)
        assert output.error
        assert coverage(output)[0][1] == "partial"
    elif cause == "limit":
        tap.crm.fault("latency", ms=200)
        output = tap.sync(catalog=catalog, page_size=25, concurrency=2, max_runtime_seconds=1)
        assert output.error is None
        assert coverage(output)[0][1] == "partial"
    else:  # a user who sees no rows does not prove that all were deleted
        output = tap.sync(catalog=catalog, filter="OptyId < 0")
        assert output.error is None
    assert activated(output) == []


def test_each_read_says_what_it_covered(tap: TapUser) -> None:
    catalog = tap.discover()
    first = tap.sync(catalog=catalog)
    tap.crm.clock(3600)
    tap.crm.mutate(update=5)
    second = tap.sync(first.state, catalog)
    key = min(tap.expected(["OptyId"]))
    one = tap.sync(catalog=catalog, filter=f"OptyId = {key}")
    (whole,), (changes,), (single,) = coverage(first), coverage(second), coverage(one)
    assert whole[:2] == (1000, "complete")
    assert changes[1:] == ("changes", whole[2])
    assert changes[0] == len(second.records())
    assert single[:2] == (1, "complete")
    assert single[2] != whole[2], "complete for its own scope alone"


@pytest.mark.parametrize(
    "setting",
    [{"start_date": "2020-01-01T00:00:00Z"}, {"finder": "none"}, {"filter": "OptyId > 1"}],
    ids=lambda setting: next(iter(setting)),
)
def test_the_scope_is_all_that_decides_which_rows_are_seen(
    tap: TapUser, setting: dict[str, Any]
) -> None:
    catalog = tap.discover()
    usual = coverage(tap.sync(catalog=catalog))[0][2]
    assert coverage(tap.sync(catalog=catalog, allow_partial=True, **setting))[0][2] != usual
    assert coverage(tap.sync(catalog=catalog, page_size=100, concurrency=1))[0][2] == usual


def test_a_scan_that_goes_on_is_partial(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("error", status=500, after=25)
    broken = tap.sync(catalog=catalog, page_size=25, max_retries=0)
    tap.crm.clear_faults()
    rest = tap.sync(broken.state, catalog, page_size=25)
    assert [kind for _, kind, _ in coverage(rest)] == ["partial"]


def test_rejected_rows_count_as_read(tap: TapUser) -> None:
    tap.crm.poison(min(tap.expected(["OptyId"])), "overflow_1e400")
    output = tap.sync(streams=("opportunities", "rejected_records"))
    assert len(output.records()) == 999
    assert coverage(output)[0][:2] == (1000, "complete")


def test_further_collections_say_what_they_cover(tap: TapUser) -> None:
    output = tap.sync(catalog=select(tap.discover(), "accounts", "opportunities"))
    assert coverage(output, "accounts")[0][:2] == (len(tap.crm.rows("accounts")), "complete")
