"""The SQL of opportunities: filters, sort keys, pages.

A page begins after the last row of the one before (keyset paging), so its cost does not grow
with its depth, and rows that come or go meanwhile shift nothing. Sort keys are never null and
end in the id, so every order is total. Keys and conditions are the expressions of the indexes.
What has no value comes last in both directions: ascending, a list is the part of the index with
values, and then the part without.
"""

import typing
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, LiteralString, TypeAlias, get_args

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from api.fields import Fields
from api.opportunities.schemas import BUILT_IN_KEYS, Filters, Opportunity, SortKey
from api.spreadsheets import sql_without_formulas
from declared.fields import Field

_OWNER_NAME = SQL(
    "(select owner.name from sales_owners as owner where owner.remote_id = sales_owner)"
    " as sales_owner_name"
)
_REPORTING_CURRENCY = SQL(
    "(select reporting.currency from reporting_currency as reporting) as reporting_currency"
)
_COMPUTED = {"sales_owner_name": _OWNER_NAME, "reporting_currency": _REPORTING_CURRENCY}
COLUMNS = SQL(", ").join(
    _COMPUTED.get(name) or Identifier(name) for name in Opportunity.model_fields if name != "custom"
)
MAX_WORDS = 8
# Before the names of own fields, which could be those of conditions here.
OWN = "own "

OF_OUTLIERS = {"outliers_only", "outliers_without"}

# What these are made of changes while opportunities do not.
FROM_OTHER_TABLES = {"waiting_for", "taking_part", "is_late"}

# As the indexes of open deals have it.
OPEN_ONES: LiteralString = "coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null"

# An open deal that has its state for longer than crm.yml says, as the mart workflow_ageing counts.
LATE: LiteralString = f"""
{OPEN_ONES}
and coalesce(
    coalesce(workflow_since, first_synced_at) < now() - make_interval(
        days => (
            (
                select content -> 'states' from declarations
                where section = 'decisions' order by id desc limit 1
            ) -> workflow_status ->> 'days'
        )::integer
    ),
    false
)
"""  # noqa: S608 - no part is of a request

# The values, by currency, above which a deal is an outlier: 100 times the 99th percentile of the
# open deals. `*` is the reporting currency; if there is one, it is the only one. One in a hundred
# is above it, and at least one: the totals say how many that are, the indexes which is the next.
# A merge that changes the reporting currency writes deals in the same transaction.
OUTLIER_LIMITS: LiteralString = f"""
with counted as (
    select
        coalesce(currency, '') as currency,
        sum(valued) as valued,
        sum(reporting_valued) as reporting_valued
    from opportunity_totals
    where outcome = 'OPEN'
    group by 1
),
limits as (
    select counted.currency as key, next.deal_value as value
    from counted
    cross join lateral (
        select deal_value
        from opportunities
        where {OPEN_ONES} and coalesce(currency, '') = counted.currency and deal_value > 0
        order by deal_value desc, id desc
        offset ceil(counted.valued / 100)
        limit 1
    ) as next
    where not exists (select from reporting_currency where currency is not null)

    union all

    (
        select '*', reporting_value
        from opportunities
        where
            {OPEN_ONES}
            and reporting_value > 0
            and exists (select from reporting_currency where currency is not null)
        order by reporting_value desc, id desc
        offset (select ceil(sum(reporting_valued) / 100) from counted)
        limit 1
    )
)
select coalesce(json_object_agg(key, (100 * value)::text), '{{}}')::text as limits
from limits
"""  # noqa: S608 - no part is of a request
IS_OUTLIER: LiteralString = """
coalesce(
    reporting_value > (%(limits)s::jsonb ->> '*')::numeric,
    deal_value > (%(limits)s::jsonb ->> coalesce(currency, ''))::numeric,
    false
)
"""

# The open deals of these, by their index.
OUTLIERS: LiteralString = f"""
select outlier.id
from jsonb_each_text(%(limits)s::jsonb) as by_key (key, value)
cross join lateral (
    select id
    from opportunities
    where {OPEN_ONES} and by_key.key = '*' and reporting_value > by_key.value::numeric

    union all

    select id
    from opportunities
    where {OPEN_ONES} and coalesce(currency, '') = by_key.key
        and deal_value > by_key.value::numeric
) as outlier
"""  # noqa: S608

# A search gives deals that have all its words or its number first, then those whose number begins
# so, then all others. A deal without an OptyNumber makes these null, not false.
FITS: LiteralString = (
    "(has_number(opty_number, remote_id, %(search)s) or search_fits(search_text, %(search)s))"
)
NUMBERED: LiteralString = "has_number_like(opty_number, remote_id, %(search)s)"
_RANK: LiteralString = "least(search_rank(search_text, %(search)s), 0.99)"

# Only the conditions that a request has go into its query.
CONDITIONS: dict[str, LiteralString] = {
    "id": "id = any(%(id)s)",
    "stage": "left(stage, 200) = any(%(stage)s)",
    "workflow_status": "workflow_status = any(%(workflow_status)s)",
    "crm_outcome": "coalesce(crm_outcome, 'UNKNOWN') = any(%(crm_outcome)s)",
    "sales_owner": "left(sales_owner, 200) = any(%(sales_owner)s)",
    "practice": "left(practice, 200) = any(%(practice)s)",
    "geo": "geo = any(%(geo)s)",
    "region": "region = any(%(region)s)",
    "sector": "sector = any(%(sector)s)",
    "currency": "currency = any(%(currency)s)",
    "missing_stage": "coalesce(stage, '') = ''",
    "missing_practice": "coalesce(practice, '') = ''",
    "missing_currency": "coalesce(currency, '') = ''",
    "missing_rate": "reporting_value is null and deal_value is not null",
    "is_late": LATE,
    "assigned_to": "assigned_to = any(%(assigned_to)s)",
    "waiting_for": "id in (select opportunity_id from open_votes where user_id = %(waiting_for)s)",
    "taking_part": "id in ("
    "select opportunity_id from opportunity_parts where user_id = any(%(taking_part)s))",
    "min_value": "coalesce(deal_value, '-infinity') >= %(min_value)s and deal_value is not null",
    "max_value": "coalesce(deal_value, '-infinity') <= %(max_value)s and deal_value is not null",
    "min_reporting_value": "coalesce(reporting_value, '-infinity') >= %(min_reporting_value)s"
    " and reporting_value is not null",
    "max_reporting_value": "coalesce(reporting_value, '-infinity') <= %(max_reporting_value)s"
    " and reporting_value is not null",
    "closing_before": "coalesce(close_date, '-infinity') <= %(closing_before)s"
    " and close_date is not null",
    "closing_after": "coalesce(close_date, '-infinity') >= %(closing_after)s",
    "updated_since": "coalesce(remote_updated_at, '-infinity') >= %(updated_since)s",
    **{
        # To compare numbers is the cheaper part, and spares the other.
        f"word_{number}": f"(has_number_like(opty_number, remote_id, %(word_{number})s)"
        f" or search_matches(search_text, %(word_{number})s))"
        for number in range(MAX_WORDS)
    },
    "outliers_only": IS_OUTLIER.replace("limits", "outliers_only"),
    "outliers_without": "not " + IS_OUTLIER.replace("limits", "outliers_without"),
    "existing": "deleted_at is null",
    "fitting": FITS,
    "numbered": f"{FITS} is not true and {NUMBERED}",
    "resembling": f"{FITS} is not true and {NUMBERED} is not true",
}

# The sort keys that are not just a text column, and their types.
KEYS: dict[SortKey, tuple[LiteralString, LiteralString]] = {
    SortKey.RELEVANCE: (
        f"case when {FITS} then 1 when {NUMBERED} then 0.995 else {_RANK} end::real",
        "real",
    ),
    SortKey.REMOTE_ID: ("remote_id", "text"),
    SortKey.DEAL_VALUE: ("coalesce(deal_value, '-infinity')", "numeric"),
    SortKey.REPORTING_VALUE: ("coalesce(reporting_value, '-infinity')", "numeric"),
    SortKey.WIN_PROBABILITY: ("coalesce(win_probability, '-infinity')", "numeric"),
    SortKey.CLOSE_DATE: ("coalesce(close_date, '-infinity')", "date"),
    SortKey.WORKFLOW_STATUS: ("workflow_status", "text"),
    SortKey.REMOTE_CREATED_AT: ("coalesce(remote_created_at, '-infinity')", "timestamptz"),
    SortKey.REMOTE_UPDATED_AT: ("coalesce(remote_updated_at, '-infinity')", "timestamptz"),
    SortKey.FIRST_SYNCED_AT: ("first_synced_at", "timestamptz"),
    SortKey.LAST_SYNCED_AT: ("last_synced_at", "timestamptz"),
    SortKey.DELETED_AT: ("coalesce(deleted_at, '-infinity')", "timestamptz"),
}


# Keys of which no row has nothing.
ALWAYS_THERE = frozenset(
    {
        SortKey.ID,
        SortKey.RELEVANCE,
        SortKey.REMOTE_ID,
        SortKey.WORKFLOW_STATUS,
        SortKey.FIRST_SYNCED_AT,
        SortKey.LAST_SYNCED_AT,
    }
)
# The sort key of nothing by the key's type, as PostgreSQL writes it.
NOTHING = {"text": "", "numeric": "-Infinity", "date": "-infinity", "timestamptz": "-infinity"}
Part: TypeAlias = typing.Literal["filled", "empty"]


def conditions(
    fields: Fields, filters: Filters, user_id: int, limits: str = "{}"
) -> dict[str, Any]:
    """Return the conditions that the filters of a user come to, by name, with their parameters.

    Args:
        fields: the declared fields.
        filters: the filters.
        user_id: the user.
        limits: what OUTLIER_LIMITS gives.

    Raises:
        RequestValidationError: 422, no field has one of the filters, or its value is wrong, or
            crm.yml does not want it.
    """
    chosen = {
        name: value
        for name in type(filters).model_fields
        if name in CONDITIONS and (value := getattr(filters, name)) not in (None, [])
    }
    if filters.waiting_for is not None:
        chosen["waiting_for"] = user_id
    if filters.outliers is not None:
        chosen[f"outliers_{filters.outliers}"] = limits
    if filters.late:
        chosen["is_late"] = True
    fields.check_filters(filters.missing)
    chosen |= {f"missing_{name}": True for name in filters.missing}
    if filters.search is not None:
        words = filters.search.split()[:MAX_WORDS]
        chosen |= {f"word_{number}": word for number, word in enumerate(words)}
    fields.check_filters(chosen)
    if not filters.include_deleted:
        chosen["existing"] = True
    own = fields.parse(filters.model_extra)
    return chosen | {f"{OWN}{name}": value for name, value in own.items()}


def _where(fields: Fields, names: Iterable[str]) -> Composed:
    return SQL(" and ").join([SQL("true"), *(_condition(fields, name) for name in names)])


def _condition(fields: Fields, name: str) -> SQL:
    if not name.startswith(OWN):
        return SQL(CONDITIONS[name])
    condition = fields.parameters[name.removeprefix(OWN)].condition
    return SQL(condition.replace("{value}", f"%({name})s"))


def sort_key(fields: Fields, key: str) -> tuple[Composable, SQL]:
    """Return the expression by which a list is sorted, and its type.

    Raises:
        RequestValidationError: 422, it is no field, or one that is not for sorting.
    """
    if key not in BUILT_IN_KEYS or not fields.can_sort(key):
        return fields.sort_key(key)
    key = SortKey(key)
    if key is SortKey.ID:
        return SQL("id"), SQL("bigint")
    if key in KEYS:
        expression, type_ = KEYS[key]
        return SQL(expression), SQL(type_)
    # Names can be longer than an index entry may be.
    return SQL("lower(left(coalesce({}, ''), 200))").format(Identifier(key)), SQL("text")


def empty_key(fields: Fields, key: str) -> str | None:
    """Return the sort key of what has no value, which is the smallest; None: all have one."""
    if key in ALWAYS_THERE:
        return None
    return NOTHING[sort_key(fields, key)[1].as_string(None)]


def _order(fields: Fields, key: str, descending: bool) -> Composed:
    direction = SQL("desc") if descending else SQL("asc")
    if key == SortKey.ID:
        return SQL("id {}").format(direction)
    expression, _ = sort_key(fields, key)
    return SQL("{} {direction}, id {direction}").format(expression, direction=direction)


def _part(fields: Fields, key: str, part: Part | None) -> Composable:
    """Return the condition of the part of a list that has, or has no values of its sort key."""
    if part is None:
        return SQL("true")
    expression, type_ = sort_key(fields, key)
    # Not "=", by which the order would be that of the ids alone, and their index be searched.
    comparison = SQL(">" if part == "filled" else "<=")
    return SQL("{} {} {}::{}").format(
        expression, comparison, Literal(empty_key(fields, key)), type_
    )


@lru_cache(maxsize=1024)
def page(
    fields: Fields,
    names: tuple[str, ...],
    key: str,
    descending: bool,
    after: bool,
    part: Part | None = None,
) -> bytes:
    """Return the query of a page; its rows are an item as JSON, its sort key and its id.

    Its parameters are those of the conditions, `limit` and, where it is to begin `after` a
    row, that row's `after_key` and `after_id`. It is of the `part` of the list that has values of
    its sort key, or of the one that has none.
    """
    expression, type_ = sort_key(fields, key)
    beyond = SQL("<") if descending else SQL(">")
    if key == SortKey.ID:
        start = SQL("id {} %(after_id)s").format(beyond)
    else:
        start = SQL("({}, id) {} (%(after_key)s::{}, %(after_id)s)").format(
            expression, beyond, type_
        )
    query = SQL(
        """
        select
            (
                select row_to_json(item) from (select {columns}, {own} as custom) as item
            )::text as item,
            {key}::text as key,
            id
        from opportunities
        where {where} and {part} and {start}
        order by {order}
        limit %(limit)s
        """
    )
    return query.format(
        columns=COLUMNS,
        # All of them could be hundreds.
        own=fields.as_json(fields.listed),
        key=expression,
        where=_where(fields, names),
        part=_part(fields, key, part),
        start=start if after else SQL("true"),
        order=_order(fields, key, descending),
    ).as_bytes()


@lru_cache(maxsize=1024)
def total(fields: Fields, names: tuple[str, ...]) -> bytes:
    """Return the query that counts the rows of a list."""
    where = _where(fields, names)
    return SQL("select count(*) from opportunities where {}").format(where).as_bytes()


# The conditions of a search's deals, those that come first first, and what they are sorted by.
_PLACES: dict[LiteralString, LiteralString] = {FITS: "1", NUMBERED: "0.995", "true": _RANK}


@lru_cache(maxsize=1024)
def best(fields: Fields, names: tuple[str, ...]) -> bytes:
    """Return the query of the best deals of a search, in order: `id`, `key`, and all their `total`.

    It reads what matches once, and looks no further than the `limit` of what comes first. Its
    parameters are those of the conditions, `search` and `limit`. Without a deal there is no row.
    """
    parts: list[Composable] = []
    others: Composable = SQL("true")
    for condition, key in _PLACES.items():
        parts.append(
            # The fence lets the condition see no more rows than the limit needs.
            SQL(
                """
                (
                    select id, ({key})::real as key
                    from (select * from found order by {order} offset 0) as found
                    where {others} and {condition}
                    limit %(limit)s
                )
                """
            ).format(
                key=SQL(key),
                order=SQL(f"{_RANK} desc, id desc" if key == _RANK else "id desc"),
                others=others,
                condition=SQL(condition),
            )
        )
        others = SQL("{} and ({}) is not true").format(others, SQL(condition))
    query = SQL(
        """
        with found as materialized (
            select id, opty_number, remote_id, search_text from opportunities where {where}
        )
        select id, key::text, (select count(*) from found) as total
        from ({parts}) as found
        limit %(limit)s
        """
    )
    return query.format(
        where=_where(fields, names), parts=SQL(" union all ").join(parts)
    ).as_bytes()


@lru_cache(maxsize=1024)
def sums(fields: Fields, names: tuple[str, ...], is_converted: bool, by_state: bool) -> bytes:
    """Return the query of the sums of a list: rows of one currency each, most deals first.

    Args:
        fields: the declared fields.
        names: of the conditions.
        is_converted: whether the sums are of converted values, and so in one currency.
        by_state: whether each state of the workflow has sums of its own.
    """
    query = SQL(
        """
        select
            {state} as workflow_status,
            {currency} as currency,
            count(*) as deals,
            sum({value}) as deal_value,
            round(sum({value} * win_probability * 0.01), 2) as weighted_value,
            count(*) filter (where deal_value is not null and {value} is null) as without_rate
        from opportunities
        where {where}
        group by 1, 2
        order by deals desc, currency
        """
    )
    return query.format(
        state=SQL("workflow_status" if by_state else "null::text"),
        currency=SQL(
            "(select reporting.currency from reporting_currency as reporting)"
            if is_converted
            else "nullif(currency, '')"
        ),
        value=SQL("reporting_value" if is_converted else "deal_value"),
        where=_where(fields, names),
    ).as_bytes()


def _cell(column: str) -> Composable:
    """Return a column for a spreadsheet, which is to take no text for a formula."""
    # A key of the CRM's is made of digits, and has to stay what it is.
    type_ = Opportunity.model_fields[column].annotation
    if column == "remote_id" or str not in (type_, *get_args(type_)):
        return Identifier(column)
    text = sql_without_formulas(Identifier(column))
    return SQL("{} as {}").format(text, Identifier(column))


def _own_cell(name: str) -> Composable:
    """Return an own field for a spreadsheet: the items of a list are joined by semicolons."""
    value = Identifier("own", name)
    return SQL(
        """
        case jsonb_typeof({value})
            when 'number' then {value} #>> '{{}}'
            when 'array' then (
                select string_agg({item}, '; ')
                from jsonb_array_elements_text({value}) as items (item)
            )
            else {text}
        end as {name}
        """
    ).format(
        value=value,
        item=sql_without_formulas(Identifier("items", "item")),
        text=sql_without_formulas(SQL("({} #>> '{{}}')").format(value)),
        name=Identifier(name),
    )


def export(
    fields: Fields,
    names: tuple[str, ...],
    key: str,
    descending: bool,
    table: dict[str, Field | None] | None,
    separator: str = ",",
) -> bytes:
    """Return the COPY of a whole list.

    Args:
        fields: the declared fields.
        names: of the conditions.
        key: by which it is sorted.
        descending: whether the greatest comes first.
        table: the columns of a table in CSV, with the fields of own ones; None: lines of JSON.
        separator: of the table's cells.
    """
    # All rows have to be read, so that no index is of use.
    has_empty = not descending and empty_key(fields, key) is not None
    last = SQL("{}, ").format(_part(fields, key, "empty")) if has_empty else SQL("")
    rows = SQL("select {}, {} as custom from opportunities where {} order by {}{}").format(
        COLUMNS,
        SQL("custom") if table is not None else fields.as_json(fields.own),
        _where(fields, names),
        last,
        _order(fields, key, descending),
    )
    if table is not None:
        own = fields.columns(field for field in table.values() if field is not None)
        parts = SQL("jsonb_to_record(custom) as own ({})").format(own) if own else None
        return (
            SQL("copy (select {} from ({}) as item{}) to stdout (format csv, header, delimiter {})")
            .format(
                SQL(", ").join(
                    _cell(name) if field is None else _own_cell(name)
                    for name, field in table.items()
                ),
                rows,
                SQL(", {}").format(parts) if parts else SQL(""),
                Literal(separator),
            )
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


@lru_cache(maxsize=16)
def item(fields: Fields, column: LiteralString) -> bytes:
    """Return the query of the deal that has a value in a column, as JSON with all own fields."""
    return (
        SQL(
            "select row_to_json(item)::text as item"
            " from (select {}, {} as custom from opportunities where {} = %s) as item"
        )
        .format(COLUMNS, fields.as_json(fields.own), Identifier(column))
        .as_bytes()
    )


HISTORY: LiteralString = """
select id, field, old_value, new_value, changed_at, changed_by
from opportunity_changes
where opportunity_id = %(opportunity_id)s and (%(before)s::bigint is null or id < %(before)s)
    and field != all(%(without)s::text[])
order by id desc
limit %(limit)s
"""
