"""Lists and items of opportunities."""

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import Caller, fill

SORTS = [
    "id",
    "remote_id",
    "opty_number",
    "name",
    "customer",
    "practice",
    "geo",
    "region",
    "sector",
    "deal_value",
    "reporting_value",
    "currency",
    "win_probability",
    "sales_owner",
    "stage",
    "status_code",
    "crm_outcome",
    "workflow_status",
    "close_date",
    "remote_created_at",
    "remote_updated_at",
    "first_synced_at",
    "last_synced_at",
    "deleted_at",
]


def pages(caller: Caller, **wanted: Any) -> list[dict[str, Any]]:
    """Read a list to its end."""
    items, cursor = [], None
    while True:
        page = caller.get(
            "/api/opportunities", params=wanted | {"cursor": cursor} if cursor else wanted
        )
        assert page.status_code == 200, page.text
        items += page.json()["items"]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            return items


@pytest.mark.parametrize("sort", [sign + key for key in SORTS for sign in ("", "-")])
def test_pages_of_every_sort_give_each_row_once_and_in_order(reader: Caller, sort: str) -> None:
    items = pages(reader, sort=sort, limit=333, include_deleted=True)
    assert sorted(item["id"] for item in items) == list(range(1, 1001))
    key, column = sort.startswith("-"), sort.removeprefix("-")
    values = [item[column] for item in items]
    present = [value for value in values if value is not None]
    assert values == present + [None] * (len(values) - len(present))
    if column in {
        "id",
        "deal_value",
        "reporting_value",
        "win_probability",
        "close_date",
        "remote_updated_at",
    }:
        assert present == sorted(present, reverse=key)


def test_a_page_holds_what_the_table_holds(reader: Caller) -> None:
    page = reader.get("/api/opportunities", params={"limit": 1}).json()
    assert page["total"] == 990
    (item,) = page["items"]
    assert item == {
        "id": 1,
        "remote_id": "300000000000001",
        "opty_number": "OPTY-1",
        "name": "Cloud migration 1",
        "customer": "Acme Corporation",
        "practice": "Data",
        "geo": "APAC",
        "region": "Region 1",
        "sector": "Sector 1",
        "deal_value": 1000.25,
        "currency": "EUR",
        "reporting_value": 1100.28,
        "reporting_currency": "USD",
        "win_probability": 1,
        "sales_owner": "owner-1",
        "sales_owner_name": None,
        "stage": "02 - Discovery",
        "status_code": "OPEN",
        "crm_outcome": "OPEN",
        "workflow_status": "ASSIGNED",
        "close_date": "2026-01-02",
        "remote_created_at": "2025-01-01T01:00:00+00:00",
        "remote_updated_at": "2026-01-01T00:00:00+00:00",
        "first_synced_at": item["first_synced_at"],
        "last_synced_at": item["last_synced_at"],
        "deleted_at": None,
        "assigned_to": None,
        "custom": {},
    }
    for path in ("/api/oracle-opportunity/300000000000001", "/api/opportunities/1"):
        assert reader.get(path).json() == item


def test_numbers_are_exact(caller: Caller) -> None:
    fill(caller.database, 1)
    with psycopg.connect(caller.database) as connection:
        connection.execute("update opportunities set deal_value = 12345678901234567890.123456789")
    assert '"deal_value":12345678901234567890.123456789,' in caller.get("/api/opportunities").text


@pytest.mark.parametrize(
    ("wanted", "condition"),
    [
        ({}, "true"),
        ({"stage": "03 - Proposal"}, "stage = '03 - Proposal'"),
        ({"stage": ["01 - Qualification", "02 - Discovery"]}, "stage < '03'"),
        ({"workflow_status": "NEW"}, "workflow_status = 'NEW'"),
        ({"crm_outcome": "WON"}, "crm_outcome = 'WON'"),
        ({"crm_outcome": ["OPEN", "UNKNOWN"]}, "crm_outcome = 'OPEN' or crm_outcome is null"),
        ({"sales_owner": "owner-3"}, "sales_owner = 'owner-3'"),
        ({"practice": "Cloud"}, "practice = 'Cloud'"),
        ({"geo": "EMEA", "region": "Region 3"}, "geo = 'EMEA' and region = 'Region 3'"),
        ({"sector": "Sector 8"}, "sector = 'Sector 8'"),
        ({"currency": ["EUR", "USD"]}, "currency = 'EUR'"),
        ({"currency": "USD"}, "false"),
        ({"missing": "practice"}, "practice is null"),
        ({"min_value": "5001.25", "max_value": 9002.25}, "deal_value between 5001.25 and 9002.25"),
        ({"max_value": 1000.25}, "deal_value <= 1000.25"),
        (
            {"min_reporting_value": "5501.38", "max_reporting_value": 9902.47},
            "reporting_value between 5501.38 and 9902.47",
        ),
        ({"max_reporting_value": "0"}, "reporting_value = 0"),
        ({"missing": "rate"}, "id % 5 = 0 and deal_value is not null"),
        ({"closing_after": "2026-02-01"}, "close_date >= '2026-02-01'"),
        ({"closing_before": "2026-02-01"}, "close_date <= '2026-02-01'"),
        ({"updated_since": "2026-01-01T08:00:00Z"}, "remote_updated_at >= '2026-01-01 08:00Z'"),
        ({"updated_since": "2026-01-01T08:00:00"}, "remote_updated_at >= '2026-01-01 08:00Z'"),
        (
            {"updated_since": "2026-01-01T09:00:00+01:00"},
            "remote_updated_at >= '2026-01-01 08:00Z'",
        ),
        ({"search": "societe generale"}, "customer = 'Société Générale'"),
        ({"search": "GÉNÉRALE cafe"}, "customer ~ 'Générale' and name ~ 'Café'"),
        ({"search": "orsted"}, "customer = 'Ørsted'"),
        ({"search": "lodz"}, "customer = 'Łódź Works'"),
        ({"search": "globx"}, "customer = 'Globex'"),
        ({"search": "Corproation"}, "customer = 'Acme Corporation'"),
        ({"search": "شركة"}, "customer = 'شركة المثال'"),
        ({"search": "xpans"}, "name ~ 'xpans'"),
        ({"search": "gl"}, "search_text like '%gl%'"),
        ({"search": "opty-12"}, "opty_number = 'OPTY-12'"),
        ({"search": "300000000000012"}, "remote_id = '300000000000012'"),
        ({"search": "3000000000000"}, "remote_id < '3000000000001'"),
        ({"search": "societe 3000000000000"}, "customer ~ 'Générale' and id < 100"),
        ({"search": "3000_0"}, "false"),
        ({"search": "%"}, "false"),
        ({"search": "_"}, "false"),
    ],
)
def test_filters(reader: Caller, wanted: dict[str, Any], condition: str) -> None:
    with psycopg.connect(reader.database) as connection:
        query = (
            f"select id from opportunities where deleted_at is null and ({condition}) order by id"  # noqa: S608
        )
        rows = connection.execute(query).fetchall()
    page = reader.get("/api/opportunities", params=wanted | {"limit": 1000}).json()
    assert sorted(item["id"] for item in page["items"]) == [row[0] for row in rows]
    assert page["total"] == len(rows)


def test_deleted_ones_are_left_out_unless_asked_for(reader: Caller) -> None:
    assert 99 not in {item["id"] for item in pages(reader, limit=1000)}
    everything = pages(reader, limit=1000, include_deleted=True)
    assert {item["id"] for item in everything if item["deleted_at"]} == set(range(99, 1000, 100))
    assert reader.get("/api/opportunities/99").json()["deleted_at"] is not None


def test_a_search_gives_the_best_first(reader: Caller) -> None:
    items = reader.get("/api/opportunities", params={"search": "muller expansion 8"}).json()[
        "items"
    ]
    assert items[0]["id"] == 8


@pytest.mark.parametrize("words", ["cloud", "acme cloud", "clo", "zurihc rollout", "cl", "c", "8"])
@pytest.mark.parametrize("sort", ["-relevance", "relevance"])
def test_a_search_gives_whole_words_first_and_each_row_once(
    reader: Caller, words: str, sort: str
) -> None:
    items = pages(reader, search=words, sort=sort, limit=40)
    whole = reader.get("/api/opportunities", params={"search": words, "limit": 1}).json()
    assert len({item["id"] for item in items}) == len(items) == whole["total"] > 0
    if len(words) > 2:
        fitting = [
            set(words.split()) <= set(f"{item['name']} {item['customer']}".lower().split())
            for item in items
        ]
        assert fitting == sorted(fitting, reverse=sort.startswith("-"))
    if sort.startswith("-"):
        (best, *_), (first, *_) = items, pages(reader, search=words, limit=40)
        assert best == first


def test_a_search_gives_the_deal_of_a_number_first_then_numbers_that_begin_so(
    caller: Caller,
) -> None:
    fill(caller.database, 10)
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            """
            update opportunities set
                opty_number = case id when 8 then null when 9 then null else 'CDRM_4800' || id end,
                remote_id = case id when 8 then '4800' else remote_id end,
                name = case id when 9 then 'Turbine 4800' else name end
            """
        )

    def found(search: str, sort: str) -> list[int]:
        return [item["id"] for item in pages(caller, search=search, sort=sort, limit=1)]

    assert found("4800", "-relevance") == [9, 8]
    assert found("cdrm_48001", "-relevance") == [1, 10]
    assert found("cdrm_48001", "relevance") == [10, 1]
    assert found("CDRM_4800", "-relevance") == [10, 7, 6, 5, 4, 3, 2, 1, 9]
    # Three digits begin too much.
    assert found("CDRM_480", "id") == []


@pytest.mark.parametrize(
    "wanted",
    [
        {"limit": 0},
        {"limit": 1001},
        {"limit": "x"},
        {"sort": "shoe_size"},
        {"sort": "--id"},
        {"sort": "relevance"},
        {"min_value": "NaN"},
        {"closing_before": "yesterday"},
        {"updated_since": "x"},
        {"search": "a\0b"},
        {"stage": "\0"},
        {"cursor": "x"},
        {"cursor": "W10"},
        {"cursor": "\u00e9"},
        {"unknown": "x"},
        {"search": ""},
    ],
)
def test_what_makes_no_sense_is_refused(reader: Caller, wanted: dict[str, Any]) -> None:
    answer = reader.get("/api/opportunities", params=wanted)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"].startswith("Unprocessable")
    assert next(iter(wanted)) in answer.json()["detail"]


def test_a_cursor_is_good_for_its_own_list_only(reader: Caller) -> None:
    cursor = reader.get("/api/opportunities", params={"limit": 5}).json()["next_cursor"]
    other = reader.get("/api/opportunities", params={"cursor": cursor, "geo": "EMEA"})
    assert other.status_code == 422
    assert "other filters" in other.json()["detail"]


def test_an_unknown_one_is_not_found(reader: Caller) -> None:
    for path in ("/api/oracle-opportunity/1", "/api/opportunities/123456", "/api/nothing"):
        answer = reader.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    assert reader.get("/api/oracle-opportunity/a%00b").status_code == 422
    assert reader.get(f"/api/opportunities/{10**30}").status_code == 422


def test_an_unchanged_list_is_not_sent_again(caller: Caller) -> None:
    fill(caller.database, 3)
    first = caller.get("/api/opportunities")
    again = caller.get("/api/opportunities", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    fill(caller.database, 0)
    with psycopg.connect(caller.database) as connection:
        connection.execute("update opportunities set name = 'Other' where id = 1")
    changed = caller.get("/api/opportunities", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.json()["items"][0]["name"] == "Other"


def test_totals_follow_the_table(caller: Caller) -> None:
    for total in (0, 3, 6):
        assert caller.get("/api/opportunities").json()["total"] == total
        with psycopg.connect(caller.database) as connection:
            connection.execute(
                "insert into opportunities (remote_id)"
                " select 'r' || i from generate_series(%s::int, %s) as i",
                [total + 1, total + 3],
            )


def test_names_may_be_very_long(caller: Caller) -> None:
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into opportunities (remote_id, name, customer, stage, sales_owner, practice)"
            " select i, long, long, long, long, long from generate_series(1, 3) as i, (select"
            " string_agg(md5(j::text), ' ') from generate_series(1, 10000) as j) as l (long)"
        )
    items = pages(caller, limit=1, sort="-name")
    assert [item["remote_id"] for item in items] == ["3", "2", "1"]


BETWEEN_PAGES = {
    "insert": "insert into opportunities (remote_id, name, deal_value, close_date)"
    " select 'new' || count(*), %(to)s::int, %(to)s::int, date '2026-01-01' + %(to)s::int"
    " from opportunities having count(*) < 60",
    "delete": "update opportunities set deleted_at = now() where id = %(id)s",
    "move": "update opportunities set name = %(to)s::int, deal_value = %(to)s::int,"
    " close_date = date '2026-01-01' + %(to)s::int where id = %(id)s",
    "touch": "update opportunities set stage = %(to)s::int where id = %(id)s",
}
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(list(BETWEEN_PAGES)), st.integers(1, 30), st.none() | st.integers(0, 5)
    ),
    max_size=4,
)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sort=st.sampled_from(["id", "-id", "deal_value", "-deal_value", "name", "-close_date"]),
    limit=st.integers(1, 7),
    changes=st.lists(CHANGES, min_size=8, max_size=8),
)
def test_pages_give_what_stays_once_whatever_else_changes_between_them(
    caller: Caller, sort: str, limit: int, changes: list[list[tuple[str, int, int | None]]]
) -> None:
    moved: set[int] = set()
    seen: list[int] = []
    wanted: dict[str, Any] = {"sort": sort, "limit": limit}
    with psycopg.connect(caller.database, autocommit=True) as connection:
        connection.execute("truncate opportunities restart identity cascade")
        connection.execute(
            "insert into opportunities (remote_id, name, deal_value, close_date)"
            " select i, nullif(i % 4, 0), nullif(i % 3, 0), date '2026-01-01' + nullif(i % 5, 0)"
            " from generate_series(1, 30) as i"
        )
        for between in [*changes, *([] for _ in range(60))]:
            page = caller.get("/api/opportunities", params=wanted).json()
            seen += [item["id"] for item in page["items"]]
            wanted["cursor"] = page["next_cursor"]
            if wanted["cursor"] is None:
                break
            for change, target, value in between:
                connection.execute(BETWEEN_PAGES[change], {"id": target, "to": value})
                if change in ("delete", "move"):
                    moved.add(target)
    assert wanted["cursor"] is None
    stayed = set(range(1, 31)) - moved
    assert [number for number in seen if seen.count(number) > 1 and number in stayed] == []
    assert stayed <= set(seen)
    if sort in ("id", "-id"):
        assert len(seen) == len(set(seen))
