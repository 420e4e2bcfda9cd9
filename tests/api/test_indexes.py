"""The queries of lists find the indexes that are there for them, by EXPLAIN."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from api.fields import Fields
from api.opportunities import queries
from api.opportunities.schemas import Filters, SortKey
from declared.fields import BUILT_IN, Field, store_fields
from declared.indexes import build_indexes
from tests.api.conftest import fill

OWN = [
    Field("budget", "Budget_c", None, "number", None, True, True),
    Field("go_live", "GoLive_c", None, "date", None, True, True),
    Field("team", "Team_c", None, "text", None, True, True),
    Field("products", "Products_c", None, "list", None, True),
]
FIELDS = Fields(OWN)
FILL_OWN = """
update opportunities
set custom = jsonb_build_object(
    'budget', id, 'go_live', date '2026-01-01' + id::integer, 'team', 'Team ' || id,
    'products', array['P' || id]
)
"""


@pytest.fixture(scope="module")
def table(postgres: str, migrated: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database indexes template {migrated}")
    fill(f"{postgres}/indexes", 20_000)
    with psycopg.connect(f"{postgres}/indexes", autocommit=True) as connection:
        store_fields(connection, (*BUILT_IN.values(), *OWN))
        build_indexes(f"{postgres}/indexes")
        connection.execute(FILL_OWN)
        connection.execute("vacuum analyze opportunities")
        yield connection


def plan(table: psycopg.Connection, query: bytes, parameters: dict[str, object]) -> str:
    cursor = psycopg.ClientCursor(table)
    cursor.execute(sql.SQL("explain (costs off) ").as_bytes() + query, parameters)
    return "\n".join(row[0] for row in cursor.fetchall())


IN_ORDER = {
    SortKey.ID: ("opportunities_pkey", "100"),
    SortKey.REMOTE_ID: ("opportunities_remote_id_key", "300000000005000"),
    SortKey.OPTY_NUMBER: ("opportunities_by_opty_number_in_order", "opty-5000"),
    SortKey.NAME: ("opportunities_by_name", "m"),
    SortKey.CUSTOMER: ("opportunities_by_customer", "g"),
    SortKey.PRACTICE: ("opportunities_by_practice_in_order", "data"),
    SortKey.GEO: ("opportunities_by_geo_in_order", "emea"),
    SortKey.REGION: ("opportunities_by_region_in_order", "north"),
    SortKey.SECTOR: ("opportunities_by_sector_in_order", "retail"),
    SortKey.DEAL_VALUE: ("opportunities_by_deal_value", "5000"),
    SortKey.REPORTING_VALUE: ("opportunities_by_reporting_value", "5000"),
    SortKey.CURRENCY: ("opportunities_by_currency_in_order", "eur"),
    SortKey.WIN_PROBABILITY: ("opportunities_by_win_probability", "50"),
    SortKey.SALES_OWNER: ("opportunities_by_sales_owner_in_order", "owner-5"),
    SortKey.STAGE: ("opportunities_by_stage_in_order", "03 - proposal"),
    SortKey.STATUS_CODE: ("opportunities_by_status_code_in_order", "open"),
    SortKey.CRM_OUTCOME: ("opportunities_by_crm_outcome_in_order", "open"),
    SortKey.WORKFLOW_STATUS: ("opportunities_by_workflow_status", "NEW"),
    SortKey.CLOSE_DATE: ("opportunities_by_close_date", "2026-06-01"),
    SortKey.REMOTE_CREATED_AT: ("opportunities_by_remote_created_at", "2026-01-09 00:00+00"),
    SortKey.REMOTE_UPDATED_AT: ("opportunities_by_remote_updated_at", "2026-01-09 00:00+00"),
    SortKey.FIRST_SYNCED_AT: ("opportunities_by_first_synced_at", "2026-01-09 00:00+00"),
    SortKey.LAST_SYNCED_AT: ("opportunities_by_last_synced_at", "2026-01-09 00:00+00"),
    SortKey.DELETED_AT: ("opportunities_by_deleted_at", "2026-01-09 00:00+00"),
    "budget": ("by_number_budget", "5000"),
    "go_live": ("by_date_go_live", "2026-06-01"),
    "team": ("by_text_team", "team 5"),
}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    "key", [*sorted(set(SortKey) - {SortKey.RELEVANCE}), "budget", "go_live", "team"]
)
def test_a_page_is_read_from_an_index_from_where_it_begins(
    table: psycopg.Connection, key: str, descending: bool
) -> None:
    index, value = IN_ORDER[key]
    # Ascending, what has no value comes last: a list has two parts.
    empty = None if descending else queries.empty_key(FIELDS, key)
    for part, after in ((None, value),) if empty is None else (("filled", value), ("empty", empty)):
        query = queries.page(FIELDS, ("existing",), key, descending, True, part)
        found = plan(table, query, {"limit": 51, "after_key": after, "after_id": 100})
        assert f"using {index}" in found
        assert "Index Cond" in found
        # The keys of the CRM are unique, so the order within one costs nothing.
        assert "Incremental Sort" in found if key == SortKey.REMOTE_ID else "Sort" not in found


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"id": [17, 18]}, "opportunities_pkey"),
        ({"stage": ["03 - Proposal"]}, "opportunities_by_stage"),
        ({"workflow_status": ["NEW"]}, "opportunities_by_workflow_status"),
        ({"sales_owner": ["owner-3"]}, "opportunities_by_sales_owner"),
        ({"practice": ["Cloud"]}, "opportunities_by_practice"),
        ({"assigned_to": [1]}, "opportunities_by_assigned_to"),
        ({"min_value": 39_000}, "opportunities_by_deal_value"),
        ({"max_value": 10}, "opportunities_by_deal_value"),
        ({"min_reporting_value": 42_000}, "opportunities_by_reporting_value"),
        ({"closing_after": "2026-12-30"}, "opportunities_by_close_date"),
        ({"closing_before": "2026-01-02"}, "opportunities_by_close_date"),
        ({"updated_since": "2026-01-17T12:00:00Z"}, "opportunities_by_remote_updated_at"),
        ({"search": "expansion 1777"}, "opportunities_search"),
        ({"search": "OPTY-17771"}, "opportunities_by_opty_number"),
        ({"search": "300000000017771"}, "opportunities_by_start_of_remote_id"),
        ({"min_budget": "19900"}, "by_number_budget"),
        ({"max_budget": "100"}, "by_number_budget"),
        ({"go_live_before": "2026-02-01"}, "by_date_go_live"),
        ({"team": ["Team 7", "Team 8"]}, "by_text_team"),
        ({"products": ["P7"]}, "by_list_products"),
    ],
)
def test_a_filter_has_its_index(
    table: psycopg.Connection, filters: dict[str, object], index: str
) -> None:
    conditions = queries.conditions(FIELDS, Filters.model_validate(filters), 1)
    # Where a filter takes much of this small table, reading all of it would be cheaper.
    table.execute("set enable_seqscan = off")
    assert index in plan(table, queries.total(FIELDS, tuple(conditions)), conditions)


def test_words_with_small_slips_find_the_index_too(table: psycopg.Connection) -> None:
    conditions = queries.conditions(FIELDS, Filters.model_validate({"search": "expnasion"}), 1)
    found = plan(table, queries.total(FIELDS, tuple(conditions)), conditions)
    assert "BitmapOr" in found
    assert found.count("opportunities_search") == 2


def test_a_search_reads_what_matches_once(table: psycopg.Connection) -> None:
    conditions = queries.conditions(
        FIELDS, Filters.model_validate({"search": "cloud migration"}), 1
    )
    query = queries.best(FIELDS, tuple(conditions))
    found = plan(table, query, conditions | {"search": "cloud migration", "limit": 51})
    assert found.count(" on opportunities\n") == 1
    assert "opportunities_search" in found


def test_few_letters_rank_nothing(table: psycopg.Connection) -> None:
    conditions = queries.conditions(FIELDS, Filters.model_validate({"search": "zz"}), 1)
    query = queries.page(FIELDS, (*conditions, "fitting"), SortKey.ID, True, False)
    found = plan(table, query, conditions | {"search": "zz", "limit": 51})
    assert "opportunities_by_start_of_search_text" in found
