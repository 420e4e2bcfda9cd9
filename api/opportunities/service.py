"""What can be done with opportunities, and by whom."""

import json
from array import array
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from sys import intern
from typing import Any, LiteralString, NamedTuple, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import Role, User
from api.caching import check_match, etag_of
from api.database import fetch_one, fetch_or_404
from api.fields import Fields
from api.opportunities import queries
from api.opportunities.changes import change_opportunity, lock_opportunity
from api.opportunities.cursor import Cursor, decode, digest
from api.opportunities.schemas import Filters, HistoryRequest, PageRequest, SortKey
from api.opportunities.unchanged import Unchanged
from api.problems import ProblemError
from api.workflow import read_rules

Result = TypeVar("Result")

STALE_DAYS = 90
FEW_LETTERS = 2
# The conditions of a search's deals that need no rank, by their sort key, best first. One or two
# letters rank all others alike.
FIRST = {"1": "fitting", "0.995": "numbered"}
FIRST_OF_FEW_LETTERS = FIRST | {"0": "resembling"}

REPORTING: LiteralString = "select currency from reporting_currency"

# By what a value was converted: the rates change with the values, in one transaction.
CONVERSION: LiteralString = """
select
    source,
    case source when 'crm' then crm_rate else (rates ->> deal.currency)::numeric end as rate,
    case source when 'crm' then deal.remote_updated_at else since end as since,
    crm_rate,
    crm_rate_currency,
    deal.currency,
    reporting.currency as reporting
from opportunities as deal
inner join reporting_currency as reporting on reporting.currency is not null
cross join lateral source_of_rate(
    deal.currency, deal.crm_rate, deal.crm_rate_currency, reporting.currency, reporting.rates
) as source
where deal.id = %s and deal.deal_value is not null
"""

EXISTS: LiteralString = "select id from opportunities where id = %s"

# Marks that a list shows beside each deal.
MARKS: LiteralString = f"""
select
    id,
    coalesce(crm_outcome, 'OPEN') != 'OPEN' as is_closed,
    unknown_status_code,
    remote_id in (
        select remote_id from rejected_records
        where stream = 'opportunities' and resolved_at is null and remote_id is not null
    ) as is_rejected,
    coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null
        and remote_updated_at < now() - make_interval(days => %(stale_days)s) as is_stale,
    coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null
        and close_date < current_date as is_past,
    {queries.LATE} as is_late,
    {queries.IS_OUTLIER} as is_outlier
from opportunities
where id = any(%(ids)s)
"""  # noqa: S608 - no part is of a request


class _Best(NamedTuple):
    """The best deals of a search, in order: as few bytes as possible, since many are kept.

    Attributes:
        total: the number of all deals of the search.
        ids: the ids of the best.
        keys: the sort key of each.
    """

    total: int
    ids: Sequence[int]
    keys: Sequence[str]


async def read_page(
    connection: AsyncConnection[DictRow],
    user: User,
    unchanged: Unchanged,
    fields: Fields,
    wanted: PageRequest,
    total: int | None = None,
) -> tuple[list[DictRow], int, str | None]:
    """Return a page's rows, each with an `item` as JSON, the list's total and the next cursor.

    A total that is known already is not counted again.

    The next page begins after the last row of the one before: rows that a sync adds or takes
    away meanwhile are neither skipped nor given twice.
    """
    user.must_be(Role.VIEWER)
    conditions = await conditions_of(connection, user, unchanged, fields, wanted)
    _, type_ = queries.sort_key(fields, wanted.key)
    # With the type, for an own field may get another one; without limits that each sync moves.
    filters = conditions | dict.fromkeys(queries.OF_OUTLIERS & conditions.keys())
    listing = digest(filters, str(wanted.key), type_.as_string(None), wanted.descending)
    after = None if wanted.cursor is None else decode(wanted.cursor, listing)
    is_ranked = wanted.key == SortKey.RELEVANCE and wanted.descending
    has_few_letters = len(wanted.search or "") <= FEW_LETTERS
    if after is None and is_ranked and not has_few_letters:
        return await _read_best(connection, unchanged, fields, wanted, conditions, listing)

    total_query = queries.total(fields, tuple(conditions))

    async def count() -> int:
        counted: int = (await fetch_one(connection, total_query, conditions))["count"]
        return counted

    if after is not None:
        total = after.total
    elif total is None:
        total = await _kept(connection, unchanged, total_query, conditions, count)

    async def read(
        names: list[str],
        key: str,
        descending: bool,
        after: Cursor | None,
        limit: int,
        part: queries.Part | None = None,
    ) -> list[DictRow]:
        query = queries.page(fields, tuple(names), key, descending, after is not None, part)
        parameters = conditions | {"search": wanted.search, "limit": limit}
        if after is not None:
            parameters |= {"after_key": after.key, "after_id": after.id}
        return await (await connection.execute(query, parameters)).fetchall()

    names, limit = list(conditions), wanted.limit + 1
    empty = None if wanted.descending else queries.empty_key(fields, wanted.key)
    if empty is not None:
        # What has no value has the smallest key, and comes last all the same.
        rest, rows = after, []
        if after is None or after.key != empty:
            rows, rest = await read(names, wanted.key, False, after, limit, "filled"), None
        if len(rows) < limit:
            rows += await read(names, wanted.key, False, rest, limit - len(rows), "empty")
    elif not is_ranked:
        rows = await read(names, wanted.key, wanted.descending, after, limit)
    else:
        # Deals that have the words as they are come first, then those whose number begins so, the
        # newest first. For a common word they fill the page, so that all the others need no rank.
        rows, rest = [], after
        first = FIRST_OF_FEW_LETTERS if has_few_letters else FIRST
        for key, condition in first.items():
            if len(rows) < limit and (rest is None or rest.key == key):
                of_these, missing = [*names, condition], limit - len(rows)
                found = await read(of_these, SortKey.ID, wanted.descending, rest, missing)
                rows, rest = [*rows, *(row | {"key": key} for row in found)], None
        if len(rows) < limit and first is FIRST:
            names.append("resembling")
            rows += await read(names, wanted.key, wanted.descending, rest, limit - len(rows))

    next_cursor = None
    if len(rows) > wanted.limit:
        rows.pop()
        next_cursor = Cursor(listing, total, rows[-1]["key"], rows[-1]["id"]).encode()
    return rows, total, next_cursor


async def _read_best(
    connection: AsyncConnection[DictRow],
    unchanged: Unchanged,
    fields: Fields,
    wanted: PageRequest,
    conditions: dict[str, Any],
    listing: str,
) -> tuple[list[DictRow], int, str | None]:
    """Return the first page of a search, best first: what it finds is read once, and kept."""
    query = queries.best(fields, tuple(conditions))
    parameters = conditions | {"search": wanted.search, "limit": wanted.limit + 1}

    async def read() -> _Best:
        found = await (await connection.execute(query, parameters)).fetchall()
        return _Best(
            found[0]["total"] if found else 0,
            array("q", [row["id"] for row in found]),
            tuple(intern(row["key"]) for row in found),
        )

    best = await _kept(connection, unchanged, query, parameters, read)
    keys = dict(zip(best.ids[: wanted.limit], best.keys, strict=False))
    items: list[DictRow] = []
    if keys:
        query = queries.page(fields, ("id",), SortKey.ID, True, False)
        found = await connection.execute(query, {"id": list(keys), "limit": wanted.limit})
        by_id = {row["id"]: row for row in await found.fetchall()}
        items = [by_id[id_] | {"key": key} for id_, key in keys.items() if id_ in by_id]
    next_cursor = None
    if len(best.ids) > wanted.limit:
        id_, key = list(keys.items())[-1]
        next_cursor = Cursor(listing, best.total, key, id_).encode()
    return items, best.total, next_cursor


async def conditions_of(
    connection: AsyncConnection[DictRow],
    user: User,
    unchanged: Unchanged,
    fields: Fields,
    wanted: Filters,
) -> dict[str, Any]:
    """Return the conditions of a list; the connection is outside a transaction."""
    limits = "{}" if wanted.outliers is None else await read_outlier_limits(connection, unchanged)
    return queries.conditions(fields, wanted, user.id, limits)


async def read_outlier_limits(connection: AsyncConnection[DictRow], unchanged: Unchanged) -> str:
    """Return the values above which deals are outliers, by currency, as JSON."""

    async def read() -> str:
        limits: str = (await fetch_one(connection, queries.OUTLIER_LIMITS))["limits"]
        return limits

    return await unchanged.get(connection, "outlier limits", read, of_values=True)


async def _kept(
    connection: AsyncConnection[DictRow],
    unchanged: Unchanged,
    query: bytes,
    conditions: dict[str, Any],
    read: Callable[[], Awaitable[Result]],
) -> Result:
    """Return what a query of a list gives, from before if it would be the same."""
    if queries.FROM_OTHER_TABLES & conditions.keys():
        return await read()
    return await unchanged.get(connection, (query, conditions), read)


async def read_sums(
    connection: AsyncConnection[DictRow],
    user: User,
    unchanged: Unchanged,
    fields: Fields,
    wanted: Filters,
    *,
    by_state: bool = False,
) -> list[DictRow]:
    """Return how many deals a list has and what they are worth, a row for each currency.

    With a reporting currency all are in that one. `weighted_value` is weighted by probability;
    deals that lack a value or a probability add nothing, nor do those `without_rate`. With
    `by_state` there are such rows for each `workflow_status`.
    """
    user.must_be(Role.VIEWER)
    is_converted = await read_reporting_currency(connection, user) is not None
    conditions = await conditions_of(connection, user, unchanged, fields, wanted)
    query = queries.sums(fields, tuple(conditions), is_converted, by_state)

    async def read() -> list[DictRow]:
        return await (await connection.execute(query, conditions)).fetchall()

    return await _kept(connection, unchanged, query, conditions, read)


async def read_reporting_currency(connection: AsyncConnection[DictRow], user: User) -> str | None:
    """Return the currency into which the last merge converted values; None: into none."""
    user.must_be(Role.VIEWER)
    row = await (await connection.execute(REPORTING)).fetchone()
    return None if row is None else row["currency"]


async def read_conversion(
    connection: AsyncConnection[DictRow], user: User, opportunity_id: int
) -> DictRow | None:
    """Return how the value of a deal came into the reporting currency; None: there is nothing.

    `source` is "same" (it is in that currency), "crm" (by the deal's own rate), "declared" (by the
    one in crm.yml) or None (there is no rate). `rate` is the worth of one unit, `since` when the
    deal or the declared rates got it; `crm_rate` is of any currency.
    """
    user.must_be(Role.VIEWER)
    return await (await connection.execute(CONVERSION, [opportunity_id])).fetchone()


async def read_deals(
    connection: AsyncConnection[DictRow],
    user: User,
    unchanged: Unchanged,
    fields: Fields,
    wanted: PageRequest,
    total: int | None = None,
) -> tuple[list[dict[str, Any]], int, str | None]:
    """Return a page's deals with their marks, the list's total and the next cursor."""
    rows, total, cursor = await read_page(connection, user, unchanged, fields, wanted, total)
    deals = [_deal_of(row["item"]) for row in rows]
    return await with_marks(connection, unchanged, deals), total, cursor


async def read_deal(
    connection: AsyncConnection[DictRow],
    user: User,
    unchanged: Unchanged,
    fields: Fields,
    opportunity_id: int,
) -> dict[str, Any]:
    """Return a deal with its marks; raises 404 if there is none."""
    item = await get_item(connection, user, fields, opportunity_id)
    (deal,) = await with_marks(connection, unchanged, [_deal_of(item)])
    return deal


async def with_marks(
    connection: AsyncConnection[DictRow], unchanged: Unchanged, deals: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return deals with the marks of their badges: `is_closed`, `is_rejected`, `is_stale`, ..."""
    parameters = {
        "ids": [deal["id"] for deal in deals],
        "stale_days": STALE_DAYS,
        "limits": await read_outlier_limits(connection, unchanged),
    }
    found = await connection.execute(MARKS, parameters)
    marks = {row["id"]: row for row in await found.fetchall()}
    return [deal | marks[deal["id"]] for deal in deals if deal["id"] in marks]


async def get_item(
    connection: AsyncConnection[DictRow], user: User, fields: Fields, opportunity_id: int
) -> str:
    """Return a deal as JSON; raises 404 if there is none."""
    user.must_be(Role.VIEWER)
    row = await (await connection.execute(queries.item(fields, "id"), [opportunity_id])).fetchone()
    if row is None:
        raise ProblemError(404, f"There is no opportunity {opportunity_id}.")
    item: str = row["item"]
    return item


async def get_item_by_remote_id(
    connection: AsyncConnection[DictRow], user: User, fields: Fields, remote_id: str
) -> str:
    """Return the deal of an OptyId as JSON; raises 404 if there is none."""
    user.must_be(Role.VIEWER)
    query = queries.item(fields, "remote_id")
    row = await (await connection.execute(query, [remote_id])).fetchone()
    if row is None:
        raise ProblemError(404, f"The CRM has shown no opportunity {remote_id}.")
    item: str = row["item"]
    return item


class Change(NamedTuple):
    """What became of a change.

    Attributes:
        before: what the deal had before of what is changed; empty: all had been so.
        item: the deal after it, as JSON.
    """

    before: dict[str, Any]
    item: str

    @property
    def etag(self) -> str:
        """The ETag of the deal after it."""
        return etag_of(self.item.encode())


async def change(
    connection: AsyncConnection[DictRow],
    user: User,
    fields: Fields,
    opportunity_id: int,
    wanted: dict[str, Any],
    *,
    if_match: str | None = None,
    seen: str | None = None,
) -> Change:
    """Move a deal in the workflow, or assign it. A sync leaves that alone while it is open.

    Args:
        connection: to the database, outside a transaction.
        user: who changes it.
        fields: the declared fields.
        opportunity_id: the deal.
        wanted: `workflow_status`, `assigned_to` or both.
        if_match: the ETag of the deal's JSON as the user saw it.
        seen: the status as the user saw it.

    Raises:
        ProblemError: 403, 404, 409, 412 or 422, why not; 409 also if the status is not `seen`.
    """
    user.must_be(Role.ASSESSOR)
    async with connection.transaction():
        # The row has to stay as it was compared.
        present = (await lock_opportunity(connection, opportunity_id))["workflow_status"]
        if if_match is not None:
            item = await get_item(connection, user, fields, opportunity_id)
            check_match(if_match, etag_of(item.encode()))
        if seen not in (None, present):
            label = (await read_rules(connection)).label(present)
            raise ProblemError(409, f"It has been moved meanwhile: it is {label}. Reload the page.")
        before = await change_opportunity(connection, user, opportunity_id, wanted)
        # Before others can change it: the ETag is of what is changed here, and of nothing later.
        return Change(before, await get_item(connection, user, fields, opportunity_id))


async def list_changes(
    connection: AsyncConnection[DictRow],
    user: User,
    opportunity_id: int,
    wanted: HistoryRequest,
    without: Sequence[str] = (),
) -> list[DictRow]:
    """List what the CRM and the bid team changed on a deal, the newest first.

    Changes of the fields `without` are left out.
    """
    user.must_be(Role.VIEWER)
    parameters = wanted.model_dump() | {
        "opportunity_id": opportunity_id,
        "without": list(without),
    }
    changes = await (await connection.execute(queries.HISTORY, parameters)).fetchall()
    if not changes:
        await fetch_or_404(
            connection, EXISTS, [opportunity_id], f"There is no opportunity {opportunity_id}."
        )
    return changes


def _deal_of(item: str) -> dict[str, Any]:
    """Return a deal from its JSON; values stay exact."""
    deal: dict[str, Any] = json.loads(item, parse_float=Decimal)
    return deal
