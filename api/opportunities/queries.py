"""The SQL of opportunities: filters, sort keys, pages.

A page begins after the last row of the one before (keyset paging), so its cost does not grow
with its depth, and rows that come or go meanwhile shift nothing. Sort keys are never null and
end in the id, so every order is total. Keys and conditions are the expressions of the indexes.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, LiteralString, get_args

from psycopg.sql import SQL, Composable, Composed, Identifier

from api.opportunities.schemas import Filters, Opportunity, SortKey
from api.spreadsheets import sql_without_formulas

COLUMNS = SQL("""
    id, remote_id, opty_number, name, customer, practice, geo, region, sector, deal_value,
    currency, win_probability, sales_owner,
    (select owner.name from sales_owners as owner where owner.remote_id = sales_owner)
        as sales_owner_name,
    stage, status_code, crm_outcome, workflow_status, close_date, remote_created_at,
    remote_updated_at, first_synced_at, last_synced_at, deleted_at, assigned_to
""")
MAX_WORDS = 8

# What these are made of changes while opportunities do not.
FROM_OTHER_TABLES = {"waiting_for", "taking_part"}

# Only the conditions that a request has go into its query.
CONDITIONS: dict[str, LiteralString] = {
    "stage": "left(stage, 200) = any(%(stage)s)",
    "workflow_status": "workflow_status = any(%(workflow_status)s)",
    "crm_outcome": "coalesce(crm_outcome, 'UNKNOWN') = any(%(crm_outcome)s)",
    "sales_owner": "left(sales_owner, 200) = any(%(sales_owner)s)",
    "practice": "left(practice, 200) = any(%(practice)s)",
    "geo": "geo = any(%(geo)s)",
    "region": "region = any(%(region)s)",
    "sector": "sector = any(%(sector)s)",
    "assigned_to": "assigned_to = any(%(assigned_to)s)",
    "waiting_for": "id in (select opportunity_id from open_votes where user_id = %(waiting_for)s)",
    "taking_part": "id in ("
    "select opportunity_id from opportunity_parts where user_id = any(%(taking_part)s))",
    "min_value": "coalesce(deal_value, '-infinity') >= %(min_value)s and deal_value is not null",
    "max_value": "coalesce(deal_value, '-infinity') <= %(max_value)s and deal_value is not null",
    "closing_before": "coalesce(close_date, '-infinity') <= %(closing_before)s"
    " and close_date is not null",
    "closing_after": "coalesce(close_date, '-infinity') >= %(closing_after)s",
    "updated_since": "coalesce(remote_updated_at, '-infinity') >= %(updated_since)s",
    "word_0": "search_matches(search_text, %(word_0)s)",
    "word_1": "search_matches(search_text, %(word_1)s)",
    "word_2": "search_matches(search_text, %(word_2)s)",
    "word_3": "search_matches(search_text, %(word_3)s)",
    "word_4": "search_matches(search_text, %(word_4)s)",
    "word_5": "search_matches(search_text, %(word_5)s)",
    "word_6": "search_matches(search_text, %(word_6)s)",
    "word_7": "search_matches(search_text, %(word_7)s)",
    "existing": "deleted_at is null",
    "fitting": "search_fits(search_text, %(search)s)",
    "resembling": "not search_fits(search_text, %(search)s)",
}

# The sort keys that are not just a text column, and their types.
KEYS: dict[SortKey, tuple[LiteralString, LiteralString]] = {
    SortKey.RELEVANCE: (
        "case when search_fits(search_text, %(search)s) then 1"
        " else least(search_rank(search_text, %(search)s), 0.99) end::real",
        "real",
    ),
    SortKey.DEAL_VALUE: ("coalesce(deal_value, '-infinity')", "numeric"),
    SortKey.WIN_PROBABILITY: ("coalesce(win_probability, '-infinity')", "numeric"),
    SortKey.CLOSE_DATE: ("coalesce(close_date, '-infinity')", "date"),
    SortKey.WORKFLOW_STATUS: ("workflow_status", "text"),
    SortKey.REMOTE_CREATED_AT: ("coalesce(remote_created_at, '-infinity')", "timestamptz"),
    SortKey.REMOTE_UPDATED_AT: ("coalesce(remote_updated_at, '-infinity')", "timestamptz"),
    SortKey.FIRST_SYNCED_AT: ("first_synced_at", "timestamptz"),
    SortKey.LAST_SYNCED_AT: ("last_synced_at", "timestamptz"),
    SortKey.DELETED_AT: ("coalesce(deleted_at, '-infinity')", "timestamptz"),
}


def conditions(filters: Filters, user_id: int) -> dict[str, Any]:
    """Return the conditions that the filters of a user come to, by name, with their parameters."""
    chosen = {
        name: value
        for name in type(filters).model_fields
        if name in CONDITIONS and (value := getattr(filters, name)) not in (None, [])
    }
    if filters.waiting_for is not None:
        chosen["waiting_for"] = user_id
    if filters.search is not None:
        words = filters.search.split()[:MAX_WORDS]
        chosen |= {f"word_{number}": word for number, word in enumerate(words)}
    if not filters.include_deleted:
        chosen["existing"] = True
    return chosen


def _where(names: Iterable[str]) -> Composed:
    return SQL(" and ").join([SQL("true"), *(SQL(CONDITIONS[name]) for name in names)])


def _key(key: SortKey) -> tuple[Composable, SQL]:
    if key is SortKey.ID:
        return SQL("id"), SQL("bigint")
    if key in KEYS:
        expression, type_ = KEYS[key]
        return SQL(expression), SQL(type_)
    # Names can be longer than an index entry may be.
    return SQL("lower(left(coalesce({}, ''), 200))").format(Identifier(key)), SQL("text")


def _order(key: SortKey, descending: bool) -> Composed:
    direction = SQL("desc") if descending else SQL("asc")
    if key is SortKey.ID:
        return SQL("id {}").format(direction)
    return SQL("{} {direction}, id {direction}").format(_key(key)[0], direction=direction)


@lru_cache(maxsize=1024)
def page(names: tuple[str, ...], key: SortKey, descending: bool, after: bool) -> bytes:
    """Return the query of a page; its rows are an item as JSON, its sort key and its id.

    Its parameters are those of the conditions, `limit` and, where it is to begin `after` a
    row, that row's `after_key` and `after_id`.
    """
    expression, type_ = _key(key)
    beyond = SQL("<") if descending else SQL(">")
    if key is SortKey.ID:
        start = SQL("id {} %(after_id)s").format(beyond)
    else:
        start = SQL("({}, id) {} (%(after_key)s::{}, %(after_id)s)").format(
            expression, beyond, type_
        )
    query = SQL(
        """
        select
            (select row_to_json(item) from (select {columns}) as item)::text as item,
            {key}::text as key,
            id
        from opportunities
        where {where} and {start}
        order by {order}
        limit %(limit)s
        """
    )
    return query.format(
        columns=COLUMNS,
        key=expression,
        where=_where(names),
        start=start if after else SQL("true"),
        order=_order(key, descending),
    ).as_bytes()


@lru_cache(maxsize=1024)
def total(names: tuple[str, ...]) -> bytes:
    """Return the query that counts the rows of a list."""
    return SQL("select count(*) from opportunities where {}").format(_where(names)).as_bytes()


def _cell(column: str) -> Composable:
    """Return a column for a spreadsheet, which is to take no text for a formula."""
    # A key of the CRM's is made of digits, and has to stay what it is.
    type_ = Opportunity.model_fields[column].annotation
    if column == "remote_id" or str not in (type_, *get_args(type_)):
        return Identifier(column)
    text = sql_without_formulas(Identifier(column))
    return SQL("{} as {}").format(text, Identifier(column))


def export(names: tuple[str, ...], key: SortKey, descending: bool, as_csv: bool) -> bytes:
    """Return the COPY of a whole list, as CSV with a header or as lines of JSON."""
    rows = SQL("select {} from opportunities where {} order by {}").format(
        COLUMNS, _where(names), _order(key, descending)
    )
    if as_csv:
        cells = SQL(", ").join(map(_cell, Opportunity.model_fields))
        return (
            SQL("copy (select {} from ({}) as item) to stdout (format csv, header)")
            .format(cells, rows)
            .as_bytes()
        )
    # JSON has neither of these characters, nor line breaks: as CSV it comes out as it is.
    return (
        SQL(
            "copy (select row_to_json(item) from ({}) as item) to stdout"
            " (format csv, quote e'\\x01', delimiter e'\\x02')"
        )
        .format(rows)
        .as_bytes()
    )


ITEM = SQL(
    "select row_to_json(item)::text as item from (select {} from opportunities where {}) as item"
)
ITEM_BY_ID = ITEM.format(COLUMNS, SQL("id = %s")).as_bytes()
ITEM_BY_REMOTE_ID = ITEM.format(COLUMNS, SQL("remote_id = %s")).as_bytes()
HISTORY: LiteralString = """
select id, field, old_value, new_value, changed_at, changed_by
from opportunity_changes
where opportunity_id = %(opportunity_id)s and (%(before)s::bigint is null or id < %(before)s)
order by id desc
limit %(limit)s
"""
