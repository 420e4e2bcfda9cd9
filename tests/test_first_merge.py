"""The merge of a first load builds the indexes afterwards, and never leaves the table without."""

from pathlib import Path

import psycopg
import pytest

from database.migrate import migrate
from tests.conftest import wait_until
from tests.warehouse import Warehouse
from tests.warm import WarmProject

LOADED = """
insert into raw.opportunities ("OptyId", "Name", "StatusCode", "LastUpdateDate")
select i, 'Deal ' || i, 'OPEN', '2026-11-01 10:00Z' from generate_series(1, 10000) as i
"""
INDEXES = """
select indexrelid::int as oid, pg_get_indexdef(indexrelid) as definition, indisunique as is_unique
from pg_index
where indrelid = 'opportunities'::regclass and indisvalid
"""
READS = """
select heap_blks_hit + heap_blks_read as reads
from pg_statio_user_tables where relid = 'opportunities'::regclass
"""
ANALYZED = """
select reltuples as deals, analyze_count as analyzed
from pg_class inner join pg_stat_user_tables on relid = pg_class.oid
where relid in ('opportunities'::regclass, 'raw.opportunities'::regclass)
"""


def indexes(warehouse: Warehouse) -> dict[str, int]:
    """Return the definitions and oids of the indexes of opportunities that are not unique."""
    rows = warehouse.query(INDEXES)
    return {row["definition"]: row["oid"] for row in rows if not row["is_unique"]}


@pytest.fixture
def warehouse(postgres: str, migrated: str, parsed: Path, warm: WarmProject) -> Warehouse:
    """A database with a first load that is not merged yet."""
    warehouse = Warehouse(postgres, migrated, parsed, warm)
    # A server that is busy could come to analyze the tables before the merge does.
    for table in ("opportunities", "raw.opportunities"):
        warehouse.query(f"alter table {table} set (autovacuum_enabled = false)")
    warehouse.query(LOADED)
    return warehouse


def test_a_first_merge_builds_the_indexes_of_all_rows(warehouse: Warehouse) -> None:
    before = indexes(warehouse)
    warehouse.query("vacuum opportunities")  # so the planner takes it for empty
    warehouse.merge()
    built = indexes(warehouse)
    assert built.keys() == before.keys()
    assert not set(built.values()) & set(before.values())
    assert warehouse.query("select count(*) from opportunities") == [{"count": 10_000}]
    # PostgreSQL passes statistics on a moment later.
    wait_until(lambda: warehouse.query(ANALYZED) == [{"deals": 10_000, "analyzed": 1}] * 2)
    # No deal was looked for among those before it. To insert one and to build the indexes takes
    # a few reads of a page.
    assert warehouse.query(READS)[0]["reads"] < 10 * 10_000

    warehouse.query("update raw.opportunities set \"Name\" = 'other'")
    warehouse.merge()
    assert indexes(warehouse) == built
    # A search reads each pending page: none after a merge, and few during a write.
    pending = "select gin_clean_pending_list('opportunities_search') as pages"
    assert warehouse.query(pending) == [{"pages": 0}]
    warehouse.query("update opportunities set name = name || id")
    assert 0 < warehouse.query(pending)[0]["pages"] <= 32


def test_a_merge_that_was_killed_leaves_the_indexes_to_the_next(warehouse: Warehouse) -> None:
    before = indexes(warehouse)
    with psycopg.connect(warehouse.url) as reader:
        reader.execute("select from opportunities")
        warehouse.query("select defer_indexes()")
        assert indexes(warehouse) == before, "a reader was waited for"
    warehouse.query("select defer_indexes()")
    assert indexes(warehouse) == {}
    warehouse.query("insert into opportunities (remote_id) values ('1')")
    warehouse.query("select build_deferred_indexes()")
    assert indexes(warehouse).keys() == before.keys()
    warehouse.query("select defer_indexes()")
    assert indexes(warehouse).keys() == before.keys(), "the table was not empty"

    warehouse.query("truncate opportunities cascade; select defer_indexes()")
    assert indexes(warehouse) == {}
    migrate(warehouse.url)
    assert indexes(warehouse).keys() == before.keys()
