"""The CRM sandbox behaves like Oracle's REST API, as far as it is known, with its faults."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_crm_sandbox import CLIENT_ID, CLIENT_SECRET, PASSWORD, USER, Sandbox, SandboxError
from oracle_crm_sandbox.poison import KINDS, Failure

API = "/crmRestApi/resources/latest"
ALL = "MyOpportunitiesFinder;RecordSet='ALLOPTIES'"
STRUCTURED = "application/vnd.oracle.adf.error+json"
RECORDS = 600


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    with Sandbox(records=RECORDS) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def shared_http(shared: Sandbox) -> Iterator[httpx.Client]:
    with _client(shared) as client:
        yield client


@pytest.fixture
def crm(shared: Sandbox) -> Iterator[Sandbox]:
    yield shared
    shared.reset(records=RECORDS, seed=1)


@pytest.fixture
def http(crm: Sandbox) -> Iterator[httpx.Client]:
    with _client(crm) as client:
        yield client


def _client(crm: Sandbox, version: int | None = 4) -> httpx.Client:
    headers = {"REST-Framework-Version": str(version)} if version else {}
    return httpx.Client(base_url=crm.url, auth=(USER, PASSWORD), headers=headers, trust_env=False)


def _get(http: httpx.Client, path: str = "opportunities", **parameters: object) -> httpx.Response:
    given: dict[str, object] = {"onlyData": "true"}
    if path == "opportunities":
        given |= {"finder": ALL, "orderBy": "OptyId:asc"}
    given |= parameters
    query = {name: str(value) for name, value in given.items() if value is not None}
    return http.get(f"{API}/{path}", params=query)


def _ids(http: httpx.Client, **parameters: Any) -> list[int]:
    """The OptyIds of all matching rows, read page by page."""
    ids: list[int] = []
    while True:
        page = _get(http, fields="OptyId", limit=499, offset=len(ids), **parameters)
        assert page.status_code == 200, page.text
        body = page.json()
        ids += [row["OptyId"] for row in body["items"]]
        if not body["hasMore"]:
            return ids


# --- pages ------------------------------------------------------------------------------


def test_a_page_has_oracles_envelope(http: httpx.Client) -> None:
    answer = _get(http, totalResults="true")
    body = answer.json()
    assert answer.headers["REST-Framework-Version"] == "4"
    assert {
        name: body[name] for name in ("totalResults", "count", "hasMore", "limit", "offset")
    } == {
        "totalResults": RECORDS,
        "count": 25,
        "hasMore": True,
        "limit": 25,
        "offset": 0,
    }
    assert "totalResults" not in _get(http).json()
    assert "links" not in body["items"][0]
    assert _get(http, onlyData=None).json()["items"][0]["links"][0]["rel"] == "self"


def test_limit_is_capped_silently(crm: Sandbox, http: httpx.Client) -> None:
    body = _get(http, limit=1000).json()
    assert (body["limit"], body["count"], body["hasMore"]) == (499, 499, True)
    crm.settings(page_cap=100)
    assert _get(http, limit=1000).json()["limit"] == 100


@given(limit=st.integers(1, 600), offset=st.integers(0, RECORDS + 50))
@settings(max_examples=40, deadline=None)
def test_any_page_is_its_slice_of_the_ordered_rows(
    shared_http: httpx.Client, truth: Rows, limit: int, offset: int
) -> None:
    everything = [row["OptyId"] for row in truth]
    body = _get(shared_http, fields="OptyId", limit=limit, offset=offset).json()
    size = min(limit, 499)
    assert [row["OptyId"] for row in body["items"]] == everything[offset : offset + size]
    assert body["hasMore"] == (offset + size < len(everything))


def test_seeking_by_key_reads_every_row_once(crm: Sandbox, http: httpx.Client) -> None:
    seen: list[int] = []
    while True:
        q = f"OptyId > {seen[-1]}" if seen else None
        items = _get(http, fields="OptyId", limit=100, q=q).json()["items"]
        if not items:
            break
        seen += [row["OptyId"] for row in items]
    assert seen == [row["OptyId"] for row in crm.rows(fields=["OptyId"])]


def test_without_order_pages_overlap_and_miss(http: httpx.Client) -> None:
    pages = [
        _get(http, fields="OptyId", limit=100, offset=offset, orderBy=None).json()["items"]
        for offset in range(0, RECORDS, 100)
    ]
    seen = {row["OptyId"] for page in pages for row in page}
    assert len(seen) < RECORDS


def test_order_puts_nulls_last_ascending_and_first_descending(http: httpx.Client) -> None:
    ascending = _get(http, fields="Revenue", orderBy="Revenue:asc,OptyId", limit=499, offset=101)
    descending = _get(http, fields="Revenue", orderBy="Revenue:desc,OptyId:desc", limit=499)
    up = [row["Revenue"] for row in ascending.json()["items"]]
    down = [row["Revenue"] for row in descending.json()["items"]]
    assert up[-1] is None
    assert down[0] is None
    assert up[::-1] == down


def test_fields_select_and_win_over_expand(http: httpx.Client) -> None:
    row = _get(http, fields="Name,OptyId", expand="all", limit=1).json()["items"][0]
    assert list(row) == ["Name", "OptyId"]
    inner = _get(http, fields="OptyId;ChildRevenue:RevnId", limit=1).json()["items"][0]
    assert list(inner["ChildRevenue"]["items"][0]) == ["RevnId"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"fields": "OptyId,Nope_c"},
        {"fields": "optyid"},
        {"orderBy": "Nope"},
        {"orderBy": "Name:up"},
        {"limit": "0"},
        {"limit": "many"},
        {"offset": "-1"},
        {"onlyData": "yes"},
        {"finder": "NoFinder"},
        {"finder": "MyOpportunitiesFinder;Nope=1"},
        {"expand": "Nope"},
        {"q": "Nope = 1"},
        {"q": "statuscode = 'OPEN'"},
        {"q": "Description = 'not queryable'"},
    ],
)
def test_unknown_parameters_are_a_400(http: httpx.Client, parameters: dict[str, str]) -> None:
    assert _get(http, **parameters).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/crmRestApi/resources/11.99/opportunities",
        "/crmRestApi/resources/latest/invoices",
        "/crmRestApi/resources/latest/opportunities/NOPE",
        "/crmRestApi/resources/latest/opportunities/NOPE/child/ChildRevenue",
        "/elsewhere",
    ],
)
def test_unknown_things_are_404(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404


def test_items_children_and_versions(crm: Sandbox, http: httpx.Client) -> None:
    for row in crm.rows()[:40]:
        answer = http.get(f"{API}/opportunities/{quote(row['OptyNumber'])}")
        assert answer.json()["OptyId"] == row["OptyId"]
    number = crm.create(OptyNumber="OPP_1")["OptyNumber"]
    lines = _get(http, f"opportunities/{number}/child/ChildRevenue").json()
    assert lines["count"] == len(lines["items"]) >= 1
    members = _get(http, f"opportunities/{number}/child/OpportunityResource").json()["items"]
    owners = {row["PartyId"] for row in crm.rows("resources")}
    assert {member["ResourceId"] for member in members} <= owners
    path = f"opportunities/{number}/child/OpportunityTeam"
    view = _get(http, path).json()["items"]
    assert {row["ResourceId"] for row in view} == {row["ResourceId"] for row in members}
    assert {"TerritoryVersionId", "OptyResourceId"} & set(view[0]) == {"TerritoryVersionId"}
    assert _get(http, path, fields="OptyResourceId").status_code == 400
    assert _get(http, f"{path}/{view[0]['ResourceId']}").status_code == 404
    versions = http.get("/crmRestApi/resources/").json()["items"]
    assert [item["version"] for item in versions if item["isLatest"]] == ["11.13.18.05"]
    fixed = http.get("/crmRestApi/resources/11.12.1.0/opportunities").json()["links"][0]["href"]
    assert "/11.12.1.0/" in fixed


@pytest.mark.parametrize(("version", "kind"), [(1, list), (2, list), (3, dict), (9, dict)])
def test_expanded_children_change_shape_with_the_version(
    crm: Sandbox, version: int, kind: type
) -> None:
    with _client(crm, version) as http:
        row = _get(http, expand="OpportunityResource", limit=1).json()["items"][0]
    assert isinstance(row["OpportunityResource"], kind)


def test_version_9_sends_large_numbers_as_strings_and_moves_links(crm: Sandbox) -> None:
    with _client(crm, 9) as http:
        row = _get(http, onlyData=None, limit=1, q="Revenue > 0").json()["items"][0]
    assert row["OptyId"].isdigit()
    assert float(row["Revenue"]) > 0
    assert "links" in row["@context"]
    assert "links" not in row


def test_default_framework_version_is_1_and_unknown_ones_fail(crm: Sandbox) -> None:
    with _client(crm, None) as http:
        assert _get(http).headers["REST-Framework-Version"] == "1"
        for version in ("0", "10", "x"):
            refused = http.get(API, headers={"REST-Framework-Version": version})
            assert refused.status_code == 400


# --- which rows -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finder", "rows"),
    [
        (None, 7),
        ("MyOpportunitiesFinder", 7),
        ("MyOpportunitiesFinder;RecordSet='MYOPTIES'", 7),
        ("MyOpportunitiesFinder;RecordSet=ALLOPTIES", RECORDS),
        ("MyOpportunitiesFinder;RecordSet='ALL'", 0),
    ],
)
def test_record_sets(http: httpx.Client, finder: str | None, rows: int) -> None:
    body = _get(http, finder=finder, totalResults="true").json()
    assert body["totalResults"] == rows


def test_narrowed_access_hides_rows_everywhere(crm: Sandbox, http: httpx.Client) -> None:
    crm.settings(visible="StatusCode = 'WON'")
    won = [row for row in crm.rows() if row["StatusCode"] == "WON"]
    lost = next(row for row in crm.rows() if row["StatusCode"] == "LOST")
    assert _ids(http) == [row["OptyId"] for row in won]
    assert http.get(f"{API}/opportunities/{lost['OptyNumber']}").status_code == 404


def test_describe_lists_what_fields_accept(http: httpx.Client) -> None:
    for name in ("opportunities", "accounts", "resources"):
        described = http.get(f"{API}/{name}/describe").json()
        attributes = described["Resources"][name]["attributes"]
        names = ",".join(attribute["name"] for attribute in attributes)
        assert _get(http, name, fields=names).status_code == 200


def test_describe_of_one_resource_takes_no_metadata_mode(http: httpx.Client) -> None:
    answer = http.get(f"{API}/opportunities/describe", params={"metadataMode": "minimal"})
    assert answer.status_code == 400
    assert answer.json()["o:errorDetails"][0]["o:errorPath"] == "/metadataMode"


def test_a_silent_describe_lists_no_attributes(crm: Sandbox, http: httpx.Client) -> None:
    crm.settings(describe_is_silent=True)
    described = http.get(f"{API}/opportunities/describe")
    assert described.status_code == 200
    assert "attributes" not in described.json()["Resources"]["opportunities"]


@pytest.mark.parametrize(
    ("refused", "with_it", "without_it"),
    [
        ("totalResults", {"totalResults": "true"}, {}),
        ("totalResults+finder", {"totalResults": "true"}, {"finder": None, "totalResults": "true"}),
        ("orderBy=LastUpdateDate", {"orderBy": "LastUpdateDate:desc"}, {"orderBy": "OptyId:asc"}),
        ("onlyData", {}, {"onlyData": None}),
    ],
)
def test_a_part_of_a_request_can_be_refused(
    crm: Sandbox,
    http: httpx.Client,
    refused: str,
    with_it: dict[str, Any],
    without_it: dict[str, Any],
) -> None:
    crm.settings(refused={refused: 414})
    answer = _get(http, **with_it)
    assert answer.status_code == 414
    assert answer.json()["o:errorDetails"][0]["o:errorPath"] == f"/{re.split('[+=]', refused)[0]}"
    assert _get(http, **without_it).status_code == 200
    crm.settings(refusals_are_named=False)
    assert refused not in _get(http, **with_it).text


def test_a_header_can_be_refused(crm: Sandbox, http: httpx.Client) -> None:
    crm.settings(refused={"REST-Framework-Version": 400, "Accept=vnd": 406})
    assert http.get(f"{API}/opportunities").status_code == 400
    del http.headers["REST-Framework-Version"]
    assert http.get(f"{API}/opportunities").status_code == 200
    http.headers["Accept"] = STRUCTURED
    assert http.get(f"{API}/opportunities").status_code == 406


def test_a_limit_can_be_refused_instead_of_cut(crm: Sandbox, http: httpx.Client) -> None:
    crm.settings(largest_limit=200)
    assert _get(http, limit=201).status_code == 400
    assert _get(http, limit=200).json()["count"] == 200


def test_the_date_can_be_wrong_or_missing(crm: Sandbox, http: httpx.Client) -> None:
    crm.settings(date_offset_seconds=86_400)
    ahead = parsedate_to_datetime(_get(http).headers["Date"]) - datetime.now(UTC)
    assert timedelta(hours=23) < ahead < timedelta(hours=25)
    crm.settings(date_offset_seconds=None)
    assert "Date" not in _get(http).headers


def test_schema_changes_show_in_describe_and_rows(crm: Sandbox, http: httpx.Client) -> None:
    crm.add_attribute("Score_c", "number", [1, 2.5])
    crm.rename_attribute("GEO_c", "Geo_c")
    crm.retype_attribute("Margin_c", "string")
    crm.remove_attribute("Sector_c")
    described = http.get(f"{API}/opportunities/describe").json()
    types = {a["name"]: a["type"] for a in described["Resources"]["opportunities"]["attributes"]}
    assert types["Score_c"] == "number"
    assert types["Margin_c"] == "string"
    assert {"GEO_c", "Sector_c"}.isdisjoint(types)
    row = _get(http, fields="Score_c,Geo_c,Margin_c", limit=2, offset=1).json()["items"][0]
    assert row["Score_c"] == 2.5
    assert isinstance(row["Margin_c"], str)
    assert _get(http, fields="Sector_c").status_code == 400
    crm.create()  # still possible


def test_names_that_differ_in_case_only_are_two_attributes(
    crm: Sandbox, http: httpx.Client
) -> None:
    crm.add_attribute("Geo_c", values=["other"])
    row = crm.rows(fields=["OptyId", "GEO_c"])[0]
    query = f"OptyId = {row['OptyId']} and Geo_c = 'other'"
    (served,) = _get(http, fields="GEO_c,Geo_c", q=query).json()["items"]
    assert (served["GEO_c"], served["Geo_c"]) == (row["GEO_c"], "other")


def test_own_attributes_change_their_type_too(crm: Sandbox, http: httpx.Client) -> None:
    crm.retype_attribute("StgOrder", "string")
    assert isinstance(_get(http, fields="StgOrder").json()["items"][0]["StgOrder"], str)


@pytest.mark.parametrize(("version", "shown"), [(7, "a,b"), (8, ["a", "b"])])
def test_multi_selects_are_lists_from_version_8_on(
    crm: Sandbox, version: int, shown: object
) -> None:
    crm.add_attribute("Sectors_c", "array", [["a", "b"]])
    crm.add_attribute("Extent_c", "object", [{"unit": "m"}])
    with _client(crm, version) as http:
        described = http.get(f"{API}/opportunities/describe").json()
        (row,) = _get(http, fields="Sectors_c,Extent_c", limit=1).json()["items"]
        assert _get(http, q="Sectors_c = 'a'").status_code == 400
    types = {a["name"]: a["type"] for a in described["Resources"]["opportunities"]["attributes"]}
    assert (types["Sectors_c"], types["Extent_c"]) == ("array", "object")
    assert (row["Sectors_c"], row["Extent_c"]) == (shown, {"unit": "m"})
    assert crm.rows()[0]["Sectors_c"] == ["a", "b"]


# --- statuses ---------------------------------------------------------------------------

UNIT = 300000000000101
BY_UNIT = "StatusByBUIdFinder;BindEnabledFlag=Y,BindLookupType=OPTY_STATUS,BindBUId="


def test_statuses_are_listed_with_their_categories(crm: Sandbox, http: httpx.Client) -> None:
    items = _get(http, "optyStatusesLOV").json()["items"]
    assert {item["LookupCode"]: item["LookupCategory"] for item in items}["ON_HOLD"] == "OPEN"
    assert {row["StatusCode"] for row in crm.rows()} - {None} <= {
        item["LookupCode"] for item in items
    }
    crm.settings(forbidden=["optyStatusesLOV"])
    assert _get(http, "optyStatusesLOV").status_code == 403


def test_statuses_belong_to_business_units(crm: Sandbox, http: httpx.Client) -> None:
    listed = [{"LookupCode": "OPEN"}, {"LookupCode": "MINE", "business_unit": UNIT}]
    crm.settings(statuses=listed, statuses_by_business_unit=True, status_categories=False)
    assert _get(http, "optyStatusesLOV").status_code == 400
    assert _get(http, "optyStatusesLOV", finder="StatusByBUIdFinder").status_code == 400
    for unit, codes in ((UNIT, ["OPEN", "MINE"]), (1, ["OPEN"])):
        items = _get(http, "optyStatusesLOV", finder=f"{BY_UNIT}{unit}").json()["items"]
        assert [item["LookupCode"] for item in items] == codes
        assert "LookupCategory" not in items[0]


def test_the_finder_knows_status_categories(crm: Sandbox, http: httpx.Client) -> None:
    finder = "MyOpportunitiesFinder;RecordSet='ALLOPTIES',LookupCategory="
    seen = {
        category: {
            row["StatusCode"]
            for row in _get(http, finder=finder + category, limit=500).json()["items"]
        }
        for category in ("OPEN", "WON", "NONE")
    }
    assert seen == {"OPEN": {"OPEN", "ON_HOLD"}, "WON": {"WON"}, "NONE": set()}


# --- q ----------------------------------------------------------------------------------

TYPES = {
    "OptyId": "integer",
    "Revenue": "number",
    "WinProb": "number",
    "Name": "string",
    "StatusCode": "string",
    "Sector_c": "string",
    "EffectiveDate": "date",
    "LastUpdateDate": "datetime",
    "GoNoGo_c": "boolean",
}
Row = dict[str, Any]


class Rows(list[Row]):
    """All rows; hypothesis need not print them."""

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"


Truth = bool | None
Condition = tuple[str, Callable[[Row], Truth]]  # the text of q, and what it means


def _both(one: Truth, other: Truth) -> Truth:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _meaning(attribute: str, value: Any) -> Any:
    return _instant(value) if TYPES[attribute] == "datetime" else value


def _spelt(attribute: str, value: Any, form: int) -> str:
    """A literal of ``value`` in one of the ways that Oracle reads."""
    kind = TYPES[attribute]
    if kind in ("integer", "number"):
        return str(value) if form % 2 else f"'{value}'"
    if kind == "boolean":
        return str(value).lower() if form % 2 else f"'{'Y' if value else 'N'}'"
    if kind == "datetime":
        moment = _instant(value)
        spellings = (
            moment.isoformat(),
            moment.isoformat().replace("+00:00", "Z"),
            moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            moment.astimezone(UTC).replace(tzinfo=None).isoformat(" "),
            (moment + timedelta(0)).astimezone(_IST).isoformat(),
        )
        return f"'{spellings[form % len(spellings)]}'"
    if form % 3 == 0:
        return '"' + str(value).replace('"', '""') + '"'
    return "'" + str(value).replace("'", "''") + "'"


_IST = datetime.fromisoformat("2026-01-01T00:00:00+05:30").tzinfo
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _like(pattern: str) -> Callable[[str], bool]:
    body = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in pattern)
    return lambda text: re.fullmatch(body, text, re.DOTALL) is not None


@st.composite
def _predicates(draw: st.DrawFn, rows: Rows) -> Condition:
    name = draw(st.sampled_from(list(TYPES)))
    known = [row[name] for row in rows if row[name] is not None and "\x00" not in str(row[name])]
    value = st.integers(0, len(known) - 1).map(known.__getitem__)
    form = draw(st.integers(0, 9))

    def tested(check: Callable[[Any], bool]) -> Callable[[Row], Truth]:
        return lambda row: None if row[name] is None else check(_meaning(name, row[name]))

    shapes = ["compare", "in", "not in", "between", "not between", "is null", "is not null"]
    shape = draw(
        st.sampled_from([*shapes, *(["like", "upper"] if name in ("Name", "Sector_c") else [])])
    )
    if shape == "compare":
        operator, wanted = draw(st.sampled_from(list(_COMPARE))), draw(value)
        compare, meant = _COMPARE[operator], _meaning(name, wanted)
        text = f"{name}{draw(_BLANK)}{operator}{draw(_BLANK)}{_spelt(name, wanted, form)}"
        return text, tested(lambda own: compare(own, meant))
    if shape.endswith("in"):
        listed = draw(st.lists(value, min_size=1, max_size=4))
        text = f"{name} {shape} ({', '.join(_spelt(name, one, form) for one in listed)})"
        chosen = [_meaning(name, one) for one in listed]
        return text, tested(lambda own: (own in chosen) == (shape == "in"))
    if shape.endswith("between"):
        low, high = draw(value), draw(value)
        text = f"{name} {shape} {_spelt(name, low, form)} AND {_spelt(name, high, form + 1)}"
        least, most = _meaning(name, low), _meaning(name, high)
        return text, tested(lambda own: (least <= own <= most) == (shape == "between"))
    if shape == "is null":
        return f"{name} is null", lambda row: row[name] is None
    if shape == "is not null":
        return f"{name} IS NOT NULL", lambda row: row[name] is not None
    word = draw(value)
    start = draw(st.integers(0, max(0, len(word) - 1)))
    pattern = f"%{word[start : start + 4]}%"
    if shape == "like":
        return f"{name} like {_spelt(name, pattern, form)}", tested(_like(pattern))
    text = f"upper({name}) = {_spelt(name, word.upper(), form)}"
    return text, tested(lambda own: own.upper() == word.upper())


_BLANK = st.sampled_from(["", " ", "  "])


def _grown(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    def conjunction(pair: tuple[Condition, Condition]) -> Condition:
        (a, left), (b, right) = pair
        return f"({a}) and {b}", lambda row: _both(left(row), right(row))

    def disjunction(pair: tuple[Condition, Condition]) -> Condition:
        (a, left), (b, right) = pair
        return (
            f"({a} or ({b}))",
            lambda row: _negated(_both(_negated(left(row)), _negated(right(row)))),
        )

    def negation(one: Condition) -> Condition:
        text, holds = one
        return f"not ({text})", lambda row: _negated(holds(row))

    # The right side of "and" must not hold a bare "or": disjunctions come in parentheses.
    pairs = st.tuples(inner, inner)
    return st.one_of(pairs.map(conjunction), pairs.map(disjunction), inner.map(negation))


@pytest.fixture(scope="module")
def truth(shared: Sandbox) -> Rows:
    return Rows(shared.rows(fields=list(TYPES)))


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_row_match_q_finds_the_rows_of_its_predicate(
    shared_http: httpx.Client, truth: Rows, data: st.DataObject
) -> None:
    text, holds = data.draw(st.recursive(_predicates(truth), _grown, max_leaves=6))
    expected = [row["OptyId"] for row in truth if holds(row) is True]
    assert _ids(shared_http, q=text) == expected


@pytest.mark.parametrize(
    ("q", "holds"),
    [
        ("StatusCode=OPEN", lambda r: r["StatusCode"] == "OPEN"),
        ("StatusCode='OPEN' or 'WON'", lambda r: r["StatusCode"] in ("OPEN", "WON")),
        (
            "StatusCode=OPEN;WinProb>=60",
            lambda r: r["StatusCode"] == "OPEN" and (r["WinProb"] or 0) >= 60,
        ),
        ("WinProb>20 and <=60", lambda r: 20 < (r["WinProb"] or 0) <= 60),
        ("Sector_c!=null;", lambda r: r["Sector_c"] is not None),
        ("Sector_c=null", lambda r: r["Sector_c"] is None),
        ("Name=Alder*", lambda r: r["Name"].startswith("Alder")),
        (
            "LastUpdateDate>2026-01-01T00:00Z and <='2026-06-01T00:00:00Z'",
            lambda r: (
                _instant("2026-01-01T00:00Z") < _instant(r["LastUpdateDate"])
                and _instant(r["LastUpdateDate"]) <= _instant("2026-06-01T00:00Z")
            ),
        ),
    ],
)
def test_query_by_example_under_version_1(
    crm: Sandbox, q: str, holds: Callable[[Row], bool]
) -> None:
    with _client(crm, 1) as http:
        expected = [row["OptyId"] for row in crm.rows(fields=list(TYPES)) if holds(row)]
        assert _ids(http, q=q) == expected
        assert expected


@pytest.mark.parametrize(
    ("version", "q"),
    [
        (1, "StatusCode = 'OPEN' and WinProb > 5"),
        (1, "StatusCode in ('OPEN')"),
        (1, "(StatusCode='OPEN')"),
        (1, "StatusCode"),
        (1, "StatusCode="),
        (1, "Nope=1"),
        (2, "StatusCode = 'OPEN';WinProb > 5"),
        (4, "StatusCode = OPEN"),
        (4, "StatusCode = 'OPEN"),
        (4, "StatusCode = 'OPEN' and"),
        (4, "StatusCode = 'OPEN' WinProb = 1"),
        (4, "(StatusCode = 'OPEN'"),
        (4, "StatusCode in ()"),
        (4, "StatusCode in 'OPEN'"),
        (4, "StatusCode is 'OPEN'"),
        (4, "StatusCode = null"),
        (4, "WinProb between 1"),
        (4, "WinProb like '1%'"),
        (4, "WinProb = 'many'"),
        (4, "LastUpdateDate > 'yesterday'"),
        (4, "LastUpdateDate > '2026-02-30T00:00:00Z'"),
        (4, "EffectiveDate = '01/02/2026'"),
        (4, "GoNoGo_c = 'perhaps'"),
        (4, "not"),
        (4, "1 = 1"),
        (4, "OptyId > 1 --"),
        (4, "OptyId > 1) or (1=1"),
        (4, "(" * 200 + "WinProb = 1" + ")" * 200),
    ],
)
def test_bad_q_is_a_400(crm: Sandbox, version: int, q: str) -> None:
    with _client(crm, version) as http:
        assert _get(http, q=q).status_code == 400


def test_long_chains_and_quotes_in_q(crm: Sandbox, http: httpx.Client) -> None:
    row = crm.create(Name='O\'Hara "& Söhne"')
    for literal in ("'O''Hara \"& Söhne\"'", '"O\'Hara ""& Söhne"""'):
        assert _ids(http, q=f"Name = {literal}") == [row["OptyId"]]
    wanted = [row["OptyId"] for row in crm.rows(fields=["OptyId"])][:300]
    chain = " or ".join(f"OptyId = {key}" for key in wanted * 4)
    assert _ids(http, q=chain) == wanted


def test_offsetless_literals_follow_the_setting(crm: Sandbox, http: httpx.Client) -> None:
    key = crm.create(at="2030-01-01T12:00:00Z")["OptyId"]
    after = "LastUpdateDate >= '2030-01-01 12:00:00'"
    assert _ids(http, q=after) == [key]
    crm.settings(naive_offset_minutes=-60)
    assert _ids(http, q=after) == []


# --- authentication and errors ----------------------------------------------------------


def _token(crm: Sandbox, secret: str = CLIENT_SECRET, **form: str) -> httpx.Response:
    body = {"grant_type": "client_credentials", "scope": crm.oauth_env["ORACLE_SCOPE"]} | form
    url = crm.oauth_env["ORACLE_TOKEN_URL"]
    return httpx.post(url, auth=(CLIENT_ID, secret), data=body, trust_env=False)


def test_wrong_credentials_are_401_in_plain_text(crm: Sandbox) -> None:
    for auth in (None, (USER, "wrong"), ("wrong", PASSWORD), ("sándbox", "påss")):
        answer = httpx.get(f"{crm.url}{API}/opportunities", auth=auth, trust_env=False)
        assert answer.status_code == 401
        assert answer.text == "401 Unauthorized"
        assert "Basic" in answer.headers["WWW-Authenticate"]


def test_bearer_tokens_live_until_they_expire(crm: Sandbox) -> None:
    assert _token(crm, "wrong").status_code == 401
    assert _token(crm, grant_type="password").status_code == 400
    crm.settings(token_seconds=60)
    granted = _token(crm).json()
    assert (granted["token_type"], granted["expires_in"]) == ("Bearer", 60)
    headers = {"Authorization": f"Bearer {granted['access_token']}"}

    def status() -> int:
        url = f"{crm.url}{API}/opportunities"
        return httpx.get(url, headers=headers, trust_env=False).status_code

    assert status() == 200
    crm.clock(61)
    assert status() == 401
    crm.clock(0)
    assert status() == 200
    assert crm.expire_tokens() >= 1
    assert status() == 401


@pytest.mark.parametrize(
    ("version", "accept", "structured"),
    [
        (1, "*/*", False),
        (3, STRUCTURED, False),
        (4, "application/json", False),
        (4, f"application/json, {STRUCTURED}", True),
        (4, None, True),
        (9, "*/*", True),
    ],
)
def test_error_bodies_follow_version_and_accept(
    crm: Sandbox, version: int, accept: str | None, structured: bool
) -> None:
    with _client(crm, version) as http:
        if accept is None:
            del http.headers["Accept"]
        else:
            http.headers["Accept"] = accept
        answer = _get(http, fields="Nope_c")
    assert answer.status_code == 400
    if structured:
        body = answer.json()
        assert answer.headers["Content-Type"] == STRUCTURED
        assert (body["title"], body["status"]) == ("Bad Request", "400")
        assert body["o:errorDetails"][0]["o:errorPath"] == "/Nope_c"
    else:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert "Nope_c" in answer.text


def test_forbidden_resources_are_403(crm: Sandbox, http: httpx.Client) -> None:
    crm.settings(forbidden=["opportunities/describe", "accounts"])
    assert http.get(f"{API}/opportunities/describe").status_code == 403
    assert http.get(f"{API}/accounts").status_code == 403
    assert http.get(f"{API}/opportunities").status_code == 200


def test_media_types_and_methods(http: httpx.Client) -> None:
    own = http.get(f"{API}/opportunities").headers["Content-Type"]
    assert own == "application/vnd.oracle.adf.resourcecollection+json"
    http.headers["Accept"] = "application/json"
    assert http.get(f"{API}/opportunities").headers["Content-Type"] == "application/json"
    http.headers["Accept"] = "text/html"
    assert http.get(f"{API}/opportunities").status_code == 406
    assert http.post(f"{API}/opportunities").status_code == 405


def test_gzip_only_when_asked(crm: Sandbox, http: httpx.Client) -> None:
    url = f"{API}/opportunities?limit=5"
    with http.stream("GET", url) as packed:
        assert packed.headers["Content-Encoding"] == "gzip"
        raw = b"".join(packed.iter_raw())
    with http.stream("GET", url, headers={"Accept-Encoding": "identity"}) as plain:
        assert "Content-Encoding" not in plain.headers
        assert len(b"".join(plain.iter_raw())) > len(raw)
    assert json.loads(gzip.decompress(raw))["count"] == 5


# --- changes ----------------------------------------------------------------------------


def test_mutations_change_what_they_say(crm: Sandbox, http: httpx.Client) -> None:
    before = {row["OptyId"]: row for row in crm.rows()}
    changes = crm.mutate(create=5, update=20, delete=3, close=4, reopen=2, seed=7)
    after = {row["OptyId"]: row for row in crm.rows()}
    assert {kind: len(keys) for kind, keys in changes.items()} == {
        "created": 5,
        "updated": 20,
        "deleted": 3,
        "closed": 4,
        "reopened": 2,
    }
    assert set(before) - set(after) == set(changes["deleted"])
    assert set(after) - set(before) == set(changes["created"])
    assert min(changes["created"]) > max(before)
    touched = {key for key in before if key in after and before[key] != after[key]}
    assert touched == {*changes["updated"], *changes["closed"], *changes["reopened"]}
    assert all(after[key]["Revenue"] != before[key]["Revenue"] for key in changes["updated"])
    assert all(after[key]["StatusCode"] == "OPEN" for key in changes["reopened"])
    newest = max(row["LastUpdateDate"] for row in before.values())
    fresh = {row["OptyId"] for row in after.values() if row["LastUpdateDate"] > newest}
    assert fresh == touched | set(changes["created"])
    assert set(_ids(http, q=f"LastUpdateDate > '{newest}'")) == fresh


def test_single_changes(crm: Sandbox, http: httpx.Client) -> None:
    row = crm.create(Name="New 🚀", OptyId=900719925474099312, at="2026-01-01T00:00:00Z")
    key = row["OptyId"]
    assert http.get(f"{API}/opportunities/{row['OptyNumber']}").json()["Name"] == "New 🚀"
    assert crm.update(key, Revenue=5, at="2026-02-03T04:05:06+01:00")["LastUpdateDate"] == (
        "2026-02-03T03:05:06+00:00"
    )
    for status in ("WON", "LOST", "NO_SALE", "CLOSED"):
        assert crm.close(key, status)["StatusCode"] == status
    assert crm.reopen(key)["StatusCode"] == "OPEN"
    crm.delete(key)
    assert http.get(f"{API}/opportunities/{row['OptyNumber']}").status_code == 404
    owner = crm.rows("resources")[0]
    crm.update(owner["PartyId"], "resources", PartyName="Renamed")
    assert _get(http, "resources", q="PartyName = 'Renamed'").json()["count"] == 1


def test_child_edits_leave_the_parent_alone(crm: Sandbox, http: httpx.Client) -> None:
    line = crm.rows("ChildRevenue")[0]
    parent = crm.row(line["OptyId"])
    crm.update(line["RevnId"], "ChildRevenue", RevnAmount=1)
    assert crm.row(line["OptyId"]) == parent
    lines = _get(http, f"opportunities/{parent['OptyNumber']}/child/ChildRevenue").json()["items"]
    assert 1 in [one["RevnAmount"] for one in lines]


def test_mass_update_stamps_many_rows_at_once(crm: Sandbox, http: httpx.Client) -> None:
    keys = crm.mass_update(400, at="2026-03-04T05:06:07Z")
    assert _ids(http, q="LastUpdateDate = '2026-03-04T05:06:07Z'") == keys
    assert len(keys) == 400


def test_nonsense_is_refused(crm: Sandbox) -> None:
    key = crm.rows()[0]["OptyId"]
    with pytest.raises(SandboxError, match="no attribute Nope"):
        crm.update(key, Nope=1)
    with pytest.raises(SandboxError, match="Revenue"):
        crm.update(key, Revenue="much")
    with pytest.raises(SandboxError, match="no opportunities"):
        crm.update(1, Revenue=1)
    with pytest.raises(SandboxError, match="kind"):
        crm.fault("no_such_fault")
    with pytest.raises(SandboxError, match="UNIQUE"):
        crm.create(OptyId=key)
    with pytest.raises(SandboxError, match="no poison"):
        crm.poison(key, "arsenic")


def test_hooks_change_the_crm_in_mid_read(crm: Sandbox, http: httpx.Client) -> None:
    crm.after_request(2, "mutate", {"delete": 50})
    totals = [_get(http, totalResults="true").json()["totalResults"] for _ in range(4)]
    assert totals == [RECORDS, RECORDS, RECORDS - 50, RECORDS - 50]
    crm.after_request(1, "opportunities/1/close", {"status": "WON"})
    assert "hook failed" in _get(http).text


def test_a_journal_brings_the_same_crm_back(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Sandbox(records=50, journal=journal) as crm:
        crm.mutate(create=3, update=4, delete=2, close=1)
        crm.add_attribute("Score_c", "integer", [1, 2])
        crm.poison(crm.rows()[0]["OptyId"], "null_name")
        crm.fault("error")
        rows = crm.rows()
        with _client(crm) as http:
            crm.clear_faults()
            page = _get(http, limit=5).json()["items"]
    with Sandbox(records=50, journal=journal) as crm, _client(crm) as http:
        assert crm.rows() == rows
        assert _get(http, limit=5).json()["items"] == page
        assert crm.mutate(create=1)["created"][0] not in [row["OptyId"] for row in rows]


# --- data -------------------------------------------------------------------------------


def test_data_are_the_same_for_the_same_seed(crm: Sandbox) -> None:
    now = "2026-05-06T07:00:00+00:00"

    def made(seed: int) -> list[Row]:
        crm.command("POST", "reset", {"records": 300, "seed": seed, "now": now})
        return [*crm.rows(), *crm.rows("accounts"), *crm.rows("resources")]

    first = made(1)
    assert made(1) == first
    assert made(2) != first


def test_a_reset_undoes_all_changes(crm: Sandbox, http: httpx.Client) -> None:
    def wire() -> Any:
        rows = _get(http, orderBy="OptyId:asc", limit=499).json()["items"]
        return crm.rows(), crm.rows("ChildRevenue"), rows

    begin = datetime(2026, 5, 6, 7, tzinfo=UTC)
    crm.reset(records=400, seed=1, now=begin)
    first = wire()
    crm.mutate(create=3, update=200, delete=20, seed=1)
    crm.poison(first[0][-1]["OptyId"], "nul")
    crm.add_attribute("Uplift_c", values=["some"])
    assert wire() != first
    crm.reset(records=400, seed=1, now=begin)
    assert wire() == first


def test_data_are_hostile_and_valid(crm: Sandbox, http: httpx.Client) -> None:
    crm.reset(records=5000)
    rows = crm.rows()
    wire = _get(http, limit=499).json()["items"]
    ids = [row["OptyId"] for row in rows]
    stamps = [row["LastUpdateDate"] for row in rows]
    text = json.dumps(rows, ensure_ascii=False)
    assert ids == sorted(set(ids))
    assert len({row["OptyNumber"] for row in rows}) == len(rows)
    assert all(10**14 <= key < 10**15 for key in ids)
    assert max(stamps.count(stamp) for stamp in set(stamps)) > 50
    assert max(stamps) < datetime.now(UTC).isoformat()
    assert all(row["CreationDate"] <= row["LastUpdateDate"] for row in rows)
    assert all(row["WinProb"] is None or 0 <= row["WinProb"] <= 100 for row in rows)
    assert all(row["Name"] and len(row["Name"]) <= 275 for row in rows)
    assert all(piece in text for piece in ("🚀", "تجديد", "<b>", "\\u0000", "4712-12-31"))
    assert any(len(row["Description"] or "") > 50_000 for row in rows)
    assert any("Sector_c" not in row for row in wire)
    assert any(isinstance(row["Revenue"], str) for row in wire if "Revenue" in row)
    assert 40 <= len(rows[0]) <= 70
    owners = {row["PartyId"] for row in crm.rows("resources")}
    accounts = {row["PartyId"] for row in crm.rows("accounts")}
    assert {row["OwnerResourcePartyId"] for row in rows} <= owners
    assert {row["TargetPartyId"] for row in rows} <= accounts


FAILURES = {
    kind: (attribute, value)
    for kind, values in KINDS.items()
    for attribute, value in values.items()
    if isinstance(value, Failure)
}


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - FAILURES.keys()))
def test_poison_shows_on_the_wire_only_and_heals(
    crm: Sandbox, http: httpx.Client, kind: str
) -> None:
    clean = crm.rows()[0]
    key, number = clean["OptyId"], clean["OptyNumber"]
    before = http.get(f"{API}/opportunities/{number}?onlyData=true").text
    crm.poison(key, kind, touch=False)
    assert crm.row(key) == clean
    poisoned = http.get(f"{API}/opportunities/{number}?onlyData=true").text
    assert poisoned != before
    assert isinstance(json.loads(poisoned), dict)
    assert _get(http, q=f"OptyId = {key}").json()["count"] == 1
    crm.heal(key, touch=False)
    assert http.get(f"{API}/opportunities/{number}?onlyData=true").text == before
    crm.poison(key, kind)
    assert crm.row(key)["LastUpdateDate"] > clean["LastUpdateDate"]


@pytest.mark.parametrize("kind", sorted(FAILURES))
def test_answers_fail_that_would_show_a_value_which_cannot_be_calculated(
    crm: Sandbox, http: httpx.Client, kind: str
) -> None:
    attribute, failure = FAILURES[kind]
    third = crm.rows()[2]
    crm.poison(third["OptyId"], kind, touch=False)

    def ask(limit: int, fields: str) -> httpx.Response:
        return _get(http, fields=f"OptyId,{fields}", orderBy="OptyId:asc", limit=limit)

    failed = ask(3, attribute)
    assert failed.status_code == failure.status
    assert failed.text == "" if failure.status == 500 else failure.detail in failed.text
    assert ask(2, attribute).status_code == 200
    assert ask(3, "Name").json()["items"][2]["Name"] == third["Name"]
    assert http.get(f"{API}/opportunities/{third['OptyNumber']}").status_code == failure.status
    crm.heal(third["OptyId"], touch=False)
    assert ask(3, attribute).json()["items"][2][attribute] == third[attribute]


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("seconds", r"\d\d:\d\d(\.\d{3})?\+00:00"),
        ("millis", r"\d\d:\d\d\.\d{3}\+00:00"),
        ("zulu", r"\d\d:\d\d(\.\d{3})?Z"),
    ],
)
def test_timestamp_formats(crm: Sandbox, http: httpx.Client, form: str, pattern: str) -> None:
    crm.settings(timestamp_format=form)
    rows = _get(http, fields="LastUpdateDate", limit=200).json()["items"]
    assert all(re.search(f"{pattern}$", row["LastUpdateDate"]) for row in rows)


# --- faults -----------------------------------------------------------------------------


def test_faults_choose_their_requests(crm: Sandbox, http: httpx.Client) -> None:
    def statuses(number: int, **parameters: Any) -> list[int]:
        return [_get(http, limit=1, **parameters).status_code for _ in range(number)]

    crm.fault("error", next=2)
    assert statuses(4) == [500, 500, 200, 200]
    crm.clear_faults()
    crm.fault("error", every=3)
    assert statuses(6) == [200, 200, 500, 200, 200, 500]
    crm.clear_faults()
    crm.fault("error", after=2, next=1, status=504)
    assert statuses(4) == [200, 200, 504, 200]
    crm.clear_faults()
    crm.fault("error", query=r"offset=50\b", status=400, body="empty")
    assert statuses(1, offset=50) + statuses(1, offset=500) == [400, 200]
    assert (crm.faults()[0]["seen"], crm.faults()[0]["fired"]) == (1, 1)
    crm.clear_faults()
    crm.fault("error", path="/describe$")
    assert statuses(1) == [200]
    assert http.get(f"{API}/opportunities/describe").status_code == 500


def test_throttling_says_how_long_to_wait(crm: Sandbox, http: httpx.Client) -> None:
    crm.fault("throttle", next=1, retry_after=7)
    crm.fault("throttle", after=1, next=1, status=503, retry_after=30, as_date=True)
    crm.fault("throttle", after=2, next=1, retry_after=None)
    seconds, moment, silent = _get(http), _get(http), _get(http)
    assert (seconds.status_code, seconds.headers["Retry-After"]) == (429, "7")
    wait = parsedate_to_datetime(moment.headers["Retry-After"]) - datetime.now(UTC)
    assert moment.status_code == 503
    assert timedelta(seconds=20) < wait < timedelta(seconds=31)
    assert (silent.status_code, silent.headers.get("Retry-After")) == (429, None)


def test_a_pod_throttles_what_comes_beyond(crm: Sandbox, http: httpx.Client) -> None:
    crm.fault("pod", at_once=4, ms=1000, status=503)
    with ThreadPool(6) as threads:
        answers = threads.map(lambda _: _get(http), range(6))
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 2
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["Retry-After"] == "1"
    assert _get(http).status_code == 200


def test_a_pod_slows_down_with_what_comes_beyond(crm: Sandbox, http: httpx.Client) -> None:
    crm.fault("pod", at_once=1, ms=300, beyond="slow")
    crm.clear_requests()
    with ThreadPool(2) as threads:
        answers = threads.map(lambda _: _get(http), range(2))
    assert [answer.status_code for answer in answers] == [200, 200]
    first, last = sorted(item["milliseconds"] for item in crm.requests()["last"])
    assert first >= 300
    assert last >= 600


def test_answers_that_are_not_the_crms(crm: Sandbox, http: httpx.Client) -> None:
    crm.fault("error", next=1)
    empty = _get(http)
    assert (empty.status_code, empty.content) == (500, b"")
    crm.fault("error", status=502, body="html", next=1)
    assert _get(http).text.startswith("<html>")
    crm.fault("error", status=400, body="structured", detail="x", next=1)
    assert _get(http).json()["o:errorDetails"][0]["detail"] == "x"
    crm.fault("html", next=1)
    page = _get(http)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html")
    crm.fault("login_redirect", next=1)
    login = _get(http)
    assert login.status_code == 302
    assert http.get(login.headers["Location"], auth=("", "")).text.startswith("<!DOCTYPE html>")
    crm.fault("redirect", location="http://other.example.com/x", next=1)
    assert _get(http).headers["Location"] == "http://other.example.com/x"
    crm.fault("empty_body", next=1)
    nothing = _get(http)
    assert (nothing.status_code, nothing.content) == (200, b"")
    crm.fault("invalid_json", next=1)
    with pytest.raises(json.JSONDecodeError):
        _get(http).json()


@pytest.mark.parametrize(
    ("kind", "parameters", "error"),
    [
        ("reset", {}, httpx.ReadError),
        ("reset", {"at": "middle"}, httpx.ReadError),
        ("stall", {"seconds": 0.05}, httpx.ReadError),
        ("truncate", {}, httpx.RemoteProtocolError),
        ("truncate", {"framing": "chunked", "share": 0.2}, httpx.RemoteProtocolError),
    ],
)
def test_broken_connections(
    crm: Sandbox, http: httpx.Client, kind: str, parameters: dict[str, Any], error: type[Exception]
) -> None:
    crm.fault(kind, next=1, **parameters)
    with pytest.raises(error):
        _get(http)
    assert _get(http).status_code == 200


def test_pages_that_lie(crm: Sandbox, http: httpx.Client) -> None:
    keys = [row["OptyId"] for row in crm.rows()]

    def page(kind: str, **parameters: object) -> tuple[list[int], dict[str, Any]]:
        crm.fault(kind, next=1, **parameters)
        body = _get(http, limit=50, offset=100, totalResults="true").json()
        return [row["OptyId"] for row in body["items"]], body

    assert page("short_page", by=10)[0] == keys[100:140]
    assert page("short_page", by=500)[1]["hasMore"] is True
    assert page("drop_items", count=2)[0] == keys[102:150]
    assert page("repeat_rows", count=3)[0] == keys[97:147]
    assert page("has_more", value=False)[1]["hasMore"] is False
    assert page("total_results")[1]["totalResults"] == 50
    assert page("total_results", value=0)[1]["totalResults"] == 0
    assert page("has_more", value=True)[0] == keys[100:150]
    crm.settings(omit_empty_items=True)
    assert "items" not in _get(http, offset=RECORDS).json()


def test_a_request_that_hangs_does_not_keep_the_server() -> None:
    with Sandbox(records=10) as crm, _client(crm) as http:
        crm.fault("stall")
        with pytest.raises(httpx.ReadTimeout):
            http.get(f"{API}/opportunities", timeout=0.2)
    assert not _answers(crm.url)


def _answers(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False)
    except httpx.ConnectError:
        return False
    return True


def test_latency_grows_with_offset(crm: Sandbox, http: httpx.Client) -> None:
    crm.fault("latency", ms=30, ms_per_1000_offset=100)
    for offset, least in ((0, 0.03), (500, 0.08)):
        begun = time.perf_counter()
        _get(http, offset=offset)
        assert time.perf_counter() - begun >= least


def test_requests_are_counted(crm: Sandbox, http: httpx.Client) -> None:
    crm.clear_requests()
    _get(http, limit=10)
    _get(http, fields="Nope")
    http.get(f"{API}/opportunities/describe")
    crm.fault("reset", next=1)
    with pytest.raises(httpx.ReadError):
        http.get(f"{API}/accounts")
    seen = crm.requests()
    assert seen["total"] == 4
    assert seen["by_kind"] == {"opportunities": 2, "opportunities/describe": 1, "accounts": 1}
    assert seen["by_status"] == {"200": 2, "400": 1, "0": 1}
    assert (seen["rows"], seen["connections"], seen["max_concurrent"]) == (10, 1, 1)
    assert seen["last"][0]["path"] == f"{API}/opportunities"
    assert "limit=10" in seen["last"][0]["query"]
    assert seen["bytes"] > 0


def test_the_clock_moves_stamps_and_the_date_header(crm: Sandbox, http: httpx.Client) -> None:
    crm.clock(-7200)
    behind = datetime.now(UTC) - timedelta(hours=1)
    assert _instant(crm.create()["LastUpdateDate"]) < behind
    assert parsedate_to_datetime(_get(http).headers["Date"]) < behind
