"""Any part of a request may be refused: the tap goes on without it, or says what to set."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from tap_user import Output, TapUser

NAMED = ["OptyId", "Name", "StatusCode", "SalesStage"]
DROPPED = [
    {"totalResults": 400},
    {"totalResults+finder": 400},
    {"onlyData": 400},
    {"fields": 400},
    {"fields": 414},
    {"Accept=vnd": 406},
    {"Accept": 406},
    {"orderBy=LastUpdateDate": 400},
    {"orderBy": 400},
    {"limit": 400},
    {"offset": 400},
]


def rows(tap: TapUser, *outputs: Output) -> None:
    """Check that a target that upserts holds what the CRM does."""
    held: dict[int, Any] = {}
    for output in outputs:
        assert output.error is None
        held |= output.by_key()
    got = {key: {name: row[name] for name in NAMED} for key, row in held.items()}
    assert got == tap.expected(NAMED)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("refused", DROPPED, ids=str)
def test_what_is_refused_is_left_out_and_told_of_once(
    tap: TapUser, refused: dict[str, int], named: bool
) -> None:
    tap.crm.reset(records=300)
    catalog = tap.discover()
    tap.sync(catalog=catalog, page_size=100)
    usual = tap.crm.requests()["total"]
    tap.crm.settings(refused=refused, refusals_are_named=named)
    tap.crm.clear_requests()
    output = tap.sync(catalog=catalog, page_size=100)
    rows(tap, output)
    part = re.split("[=+]", next(iter(refused)))[0]
    if part == "limit":
        assert tap.crm.requests()["total"] < 60, "pages are of 25 rows"
    else:
        assert tap.crm.requests()["total"] <= 2 * usual + 25
    warnings = [line for line in output.log.splitlines() if "this CRM refuses" in line]
    assert len(warnings) == (part not in {"orderBy", "offset"}), output.log
    assert all(part in line for line in warnings)
    assert "attempt" not in output.log


@pytest.mark.parametrize("largest", [499, 300, 150, 30])
def test_pages_are_as_large_as_the_crm_lets_them_be(tap: TapUser, largest: int) -> None:
    tap.crm.settings(largest_limit=largest)
    output = tap.sync(page_size=500)
    rows(tap, output)
    limits = {
        int(found) for item in tap.requests() for found in re.findall(r"limit=(\d+)", item["query"])
    }
    assert max(limits - {500}) <= 499
    assert output.log.count("this CRM refuses limit") == 1


@pytest.mark.parametrize(("status", "longest"), [(400, 150), (414, 150), (414, 50)])
def test_more_attributes_than_the_crm_takes_at_once_are_not_named(
    tap: TapUser, status: int, longest: int
) -> None:
    tap.crm.fault("error", status=status, body="text", query=f"fields=[^&]{{{longest},}}")
    output = tap.sync(page_size=200)
    rows(tap, output)
    assert "refuses fields" in output.log
    assert "null from now on" not in output.log


def test_two_streams_each_find_out_for_themselves(tap: TapUser) -> None:
    tap.crm.settings(refused={"totalResults+finder": 400})
    output = tap.sync(streams=("opportunities", "accounts"))
    rows(tap, output)
    assert "opportunities: this CRM refuses totalResults" in output.log
    assert '"metric":"records_claimed","value":100,"tags":{"stream":"accounts"' in output.log


def test_a_finder_that_is_refused_is_never_left_out(tap: TapUser) -> None:
    tap.crm.settings(refused={"finder": 400}, refusals_are_named=False)
    output = tap.sync()
    assert "Set finder to one that this CRM has, or to none" in str(output.error)
    assert not output.records()
    tap.crm.settings(default_record_set="ALLOPTIES")
    rows(tap, tap.sync(finder="none"))


def test_a_header_that_is_refused_leads_to_the_setting_that_helps(tap: TapUser) -> None:
    tap.crm.settings(refused={"REST-Framework-Version": 400}, refusals_are_named=False)
    output = tap.sync()
    assert "framework_version" in str(output.error)
    assert "1 instead of 4" in str(output.error)
    rows(tap, tap.sync(framework_version=1))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"filter": "StatusKode = 'OPEN'"}, {}),
        (
            {"timestamp_format": "%d/%m/%Y", "start_date": "2001-01-01"},
            {"start_date": "2001-01-01"},
        ),
        ({"finder": "NoSuchFinder"}, {}),
    ],
    ids=lambda given: next(iter(given), ""),
)
def test_a_400_names_the_setting_that_it_is_about(
    tap: TapUser, wrong: dict[str, Any], right: dict[str, Any]
) -> None:
    output = tap.sync(**wrong)
    name = next(iter(wrong))
    assert name in str(output.error)
    others = {"filter", "finder", "framework_version", "timestamp_format"} - {name}
    assert not [other for other in others if re.search(rf"\b{other}\b", str(output.error))]
    rows(tap, tap.sync(**right))


def test_a_400_without_a_setting_of_its_own_says_what_the_server_named(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("error", status=400, body="structured", detail="The value of Foo is odd.")
    error = str(tap.sync(catalog=catalog).error)
    assert "The value of Foo is odd." in error
    assert "tap-oracle-crm-probe" in error
    assert "timestamp_format" not in error


@pytest.mark.parametrize("status", [401, 403])
def test_an_allow_list_is_mentioned(tap: TapUser, status: int) -> None:
    catalog = tap.discover()
    tap.crm.fault("error", status=status)
    assert "list of allowed addresses" in str(tap.sync(catalog=catalog).error)


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("JBO-27122: SQL error during statement preparation.", True),
        ("JBO-26061: Error while opening JDBC connection.", True),
        ("ORA-01555: snapshot too old", True),
        ("JBO-27122: SQL error. ORA-00904: invalid identifier", False),
        ("ORA-01843: not a valid month", False),
        ("JBO-27014: Attribute Name is required.", False),
    ],
)
@pytest.mark.parametrize("body", ["text", "structured"])
def test_a_400_of_the_database_is_tried_again(
    tap: TapUser, words: str, passes: bool, body: str
) -> None:
    catalog = tap.discover()
    tap.crm.fault("error", status=400, body=body, detail=words, next=2, query="orderBy=OptyId:asc")
    output = tap.sync(catalog=catalog, page_size=100, concurrency=1)
    assert ("attempt 3" in output.log) is passes
    rows(tap, output)  # an error outside the database was gone when the tap searched for its cause
    assert "this CRM refuses" not in output.log


# Describe


@pytest.mark.parametrize("status", [400, 403, 404, 406, 414, 500, 504])
@pytest.mark.parametrize("body", ["empty", "structured"])
def test_no_answer_to_describe_stops_a_run(tap: TapUser, status: int, body: str) -> None:
    tap.crm.fault("error", status=status, body=body, path="/describe$")
    rows(tap, tap.sync())
    assert len(tap.requests("opportunities/describe")) <= 10


def test_a_describe_that_takes_too_long_stops_no_run(tap: TapUser) -> None:
    tap.crm.fault("stall", seconds=30, path="/describe$")
    rows(tap, tap.sync(request_timeout=1))
    assert len(tap.requests("opportunities/describe")) <= 3


def test_describe_is_asked_for_without_parameters(tap: TapUser) -> None:
    tap.discover()
    assert [item["query"] for item in tap.requests("opportunities/describe")] == [""]


@pytest.mark.parametrize("fault", [{"status": 404}, {"status": 500}, None])
def test_without_describe_the_records_show_how_a_name_is_spelled(
    tap: TapUser, fault: dict[str, Any] | None
) -> None:
    tap.crm.rename_attribute("GEO_c", "Geo_c")
    if fault:
        tap.crm.fault("error", **fault, path="/describe$")
    else:
        tap.crm.settings(describe_is_silent=True)
    output = tap.sync(custom_fields=["GEO_c", "Nowhere_c"])
    held = {key: row["Geo_c"] for key, row in output.by_key().items()}
    assert held == {key: row["Geo_c"] for key, row in tap.expected(["OptyId", "Geo_c"]).items()}
    assert "The CRM has no Nowhere_c" in output.log
    assert "GEO_c" not in output.records()[0]


# The page with the newest changes


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "stall", "seconds": 30},
        {"kind": "error", "status": 500},
        {"kind": "error", "status": 504},
        {"kind": "error", "status": 400, "body": "text", "detail": "JBO-27122: SQL error"},
    ],
    ids=lambda fault: str(fault.get("status", fault["kind"])),
)
def test_without_the_newest_changes_all_is_read_by_key(tap: TapUser, fault: dict[str, Any]) -> None:
    catalog = tap.discover()
    tap.crm.fault(**fault, query="orderBy=LastUpdateDate:desc")
    first = tap.sync(catalog=catalog, request_timeout=1, page_size=100)
    assert "are read by OptyId instead" in first.log
    rows(tap, first)
    changed = tap.crm.mutate(update=20, create=5)
    second = tap.sync(first.state, catalog, request_timeout=1, page_size=100)
    assert {*changed["updated"], *changed["created"]} <= set(second.by_key())
    rows(tap, first, second)
    again = tap.sync(second.state, catalog, request_timeout=1, page_size=100)
    assert len(again.by_key()) < 100


def test_only_the_count_that_takes_too_long_is_left_out(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("stall", seconds=30, query="totalResults")
    output = tap.sync(catalog=catalog, request_timeout=1)
    rows(tap, output)
    assert "are read by OptyId" not in output.log


def test_without_an_end_of_the_table_one_open_range_is_read(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("stall", seconds=30, query="orderBy=.*:desc")
    rows(tap, tap.sync(catalog=catalog, request_timeout=1, max_retries=1, page_size=100))


def test_what_changes_during_a_read_by_key_is_read_again(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("error", status=500, query="orderBy=LastUpdateDate:desc")
    for number in range(4, 14):
        tap.crm.after_request(number, "mutate", {"update": 10, "seed": number})
    first = tap.sync(catalog=catalog, page_size=100, lookback_seconds=0)
    tap.crm.clear_hooks()
    rows(tap, first, tap.sync(first.state, catalog, page_size=100, lookback_seconds=0))


def test_a_clock_that_is_ahead_costs_a_read_by_key_no_change(tap: TapUser) -> None:
    tap.crm.settings(date_offset_seconds=86_400)
    catalog = tap.discover()
    tap.crm.fault("error", status=500, query="orderBy=LastUpdateDate:desc")
    first = tap.sync(catalog=catalog, page_size=100)
    tap.crm.mutate(update=30, create=3)
    rows(tap, first, tap.sync(first.state, catalog, page_size=100))


# Mass updates and clocks


def test_a_pile_of_records_with_one_time_is_left_behind(tap: TapUser) -> None:
    tap.crm.reset(records=3500)
    catalog = tap.discover()
    tap.crm.clock(3600)
    tap.crm.mass_update(3000)
    tap.crm.clock(3 * 3600)
    first = tap.sync(catalog=catalog, lookback_seconds=300)
    assert len(first.by_key()) == 3500
    tap.crm.clear_requests()
    second = tap.sync(first.state, catalog, lookback_seconds=300)
    assert second.records() == []
    assert tap.crm.requests()["total"] == 1
    late = tap.crm.create()["OptyId"]
    tap.crm.clock(6 * 3600)
    assert set(tap.sync(second.state, catalog, lookback_seconds=300).by_key()) == {late}


def test_a_late_commit_within_the_lookback_still_arrives(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.clock(3600)
    tap.crm.mass_update(5)
    first = tap.sync(catalog=catalog, lookback_seconds=300)
    stamp = first.bookmark["replication_key_value"]
    late = tap.crm.create(
        at=f"{stamp[:14]}{'00' if stamp[14:16] > '02' else stamp[14:16]}:00+00:00"
    )
    second = tap.sync(first.state, catalog, lookback_seconds=3600)
    assert late["OptyId"] in second.by_key()


@pytest.mark.parametrize("offset", [86_400, -86_400, None])
def test_a_date_that_is_wrong_or_missing_costs_no_change(tap: TapUser, offset: int | None) -> None:
    tap.crm.settings(date_offset_seconds=offset)
    catalog = tap.discover()
    outputs = [tap.sync(catalog=catalog, lookback_seconds=0)]
    for hours in (1, 2, 3, 30):
        tap.crm.clock(hours * 3600)
        tap.crm.mutate(update=20, create=2, seed=hours)
        outputs.append(tap.sync(outputs[-1].state, catalog, lookback_seconds=0))
        rows(tap, *outputs)


def test_without_a_date_a_record_of_the_future_hides_no_change(tap: TapUser) -> None:
    tap.crm.settings(date_offset_seconds=None)
    tap.crm.update(min(tap.expected(["OptyId"])), at="2099-01-01T00:00:00+00:00")
    first = tap.sync()
    tap.crm.mutate(update=20)
    rows(tap, first, tap.sync(first.state))


class Throttled(http.server.BaseHTTPRequestHandler):
    """A CRM that is throttled once, until a moment that is told without a Date."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if type(self).asked == 1:
            self.send_response_only(503)
            self.send_header("Retry-After", "Fri, 31 Dec 2100 23:59:59 GMT")
            body = b""
        else:
            self.send_response_only(200)
            body = b'{"items": [], "count": 0, "limit": 499, "hasMore": false}'
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[type[http.server.BaseHTTPRequestHandler]], str]]:
    """Start a server with a handler and return its address."""
    servers = []

    def start(handler: type[http.server.BaseHTTPRequestHandler]) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


def test_a_moment_to_come_back_says_nothing_without_the_servers_clock(
    tap: TapUser, serve: Callable[[type[http.server.BaseHTTPRequestHandler]], str]
) -> None:
    catalog = tap.discover()
    address = serve(type("Handler", (Throttled,), {}))
    output = tap.sync(catalog=catalog, base_url=address, allow_partial=True)
    assert output.error is None
    assert "attempt 2" in output.log


def test_the_language_of_names_can_be_asked_for(
    tap: TapUser, serve: Callable[[type[http.server.BaseHTTPRequestHandler]], str]
) -> None:
    tap.crm.settings(refused={"Accept-Language=fr": 400})
    assert "refuses Accept-Language" not in tap.sync().log
    assert "refuses Accept-Language" not in tap.sync(accept_language="en").log
    output = tap.sync(accept_language="fr")
    rows(tap, output)
    assert "refuses Accept-Language" in output.log


# Everything at once

REMEDIES: dict[str, dict[str, Any]] = {
    # words of the message: what a person then sets
    "framework_version": {"framework_version": 1},
    "Set finder to": {"finder": "none"},
}
PARTS = [
    "totalResults",
    "totalResults+finder",
    "onlyData",
    "fields",
    "Accept=vnd",
    "Accept",
    "orderBy=LastUpdateDate",
    "orderBy=OptyId",
    "limit",
    "finder",
    "REST-Framework-Version",
    "Accept-Language",
]


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink one takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    parts=st.sets(st.sampled_from(PARTS), max_size=6),
    status=st.sampled_from([400, 406, 414]),
    named=st.booleans(),
    largest=st.sampled_from([0, 30, 120]),
    describe=st.sampled_from([None, 404, 500]),
    date=st.sampled_from([0, 86_400, None]),
    slow=st.booleans(),
)
def test_whatever_is_refused_all_arrives_or_the_remedy_works(
    tap: TapUser,
    parts: set[str],
    status: int,
    named: bool,
    largest: int,
    describe: int | None,
    date: int | None,
    slow: bool,
) -> None:
    note(f"{sorted(parts)} {status} {named=} {largest=} {describe=} {date=} {slow=}")
    tap.crm.reset(records=150)
    tap.crm.settings(
        refused=dict.fromkeys(sorted(parts), status),
        refusals_are_named=named,
        largest_limit=largest,
        date_offset_seconds=date,
        default_record_set="ALLOPTIES",
    )
    if describe:
        tap.crm.fault("error", status=describe, path="/describe$")
    if slow:
        tap.crm.fault("error", status=504, query="orderBy=LastUpdateDate")
    options: dict[str, Any] = {"accept_language": "en", "page_size": 60}
    first = tap.sync(**options)
    while first.error:
        remedy = next((set_ for words, set_ in REMEDIES.items() if words in first.error), None)
        assert remedy, first.error
        assert not remedy.items() <= options.items(), first.error
        options |= remedy
        first = tap.sync(**options)
    assert tap.crm.requests()["total"] < 400
    changed = tap.crm.mutate(update=10, create=3, delete=2)
    for key in changed["deleted"]:
        first.messages[:] = [
            item for item in first.messages if item.get("record", {}).get("OptyId") != key
        ]
    rows(tap, first, tap.sync(first.state, **options))
