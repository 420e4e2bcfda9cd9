"""Read dbt's marts, in one currency at a time."""

from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import Role, User
from api.opportunities.service import with_marks
from api.workflow import MOVES

MONTHS = 18
TOP = 10

# The first sync makes them.
_ARE_THERE: LiteralString = """
select bool_and(to_regclass('public.' || name) is not null) as they_are
from unnest(array['pipeline_by_stage_and_month', 'win_rate_by_practice', 'workflow_ageing']) as name
"""
_CURRENCIES: LiteralString = """
select currency, sum(deals)::bigint as deals, sum(deal_value) as deal_value,
    sum(weighted_value) as weighted_value
from pipeline_by_stage_and_month
group by currency
order by deals desc, currency
"""
_BY_STAGE: LiteralString = """
select stage, sum(deals)::bigint as deals, sum(deal_value) as deal_value,
    sum(weighted_value) as weighted_value
from pipeline_by_stage_and_month
where currency is not distinct from %s
group by stage
order by stage nulls last
"""
_BY_MONTH: LiteralString = """
select close_month, sum(deals)::bigint as deals, sum(deal_value) as deal_value,
    sum(weighted_value) as weighted_value
from pipeline_by_stage_and_month
where currency is not distinct from %s
    and close_month >= date_trunc('month', now())
    and close_month < date_trunc('month', now()) + make_interval(months => %s)
group by close_month
order by close_month
"""
_OVERDUE: LiteralString = """
select coalesce(sum(deals), 0)::bigint as deals, coalesce(sum(deal_value), 0) as deal_value
from pipeline_by_stage_and_month
where currency is not distinct from %s and close_month < date_trunc('month', now())
"""
_WIN_RATE: LiteralString = """
select practice, won, lost, win_rate, won_value, lost_value
from win_rate_by_practice
where currency is not distinct from %s and won + lost > 0
order by win_rate desc, practice
"""
_AGEING: LiteralString = (
    "select * from workflow_ageing order by array_position(%s, workflow_status)"
)
_TOP: LiteralString = """
select id, name, customer, stage, workflow_status, deal_value, currency, win_probability,
    close_date, deleted_at
from opportunities
where coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null and deal_value is not null
    and currency is not distinct from %s
order by coalesce(deal_value, '-infinity') desc, id desc
limit %s
"""


async def read(
    connection: AsyncConnection[DictRow], user: User, currency: str | None
) -> dict[str, Any] | None:
    """Return the pipeline, the win rate, the ageing and the top deals in a currency.

    It is the one of most deals if the wanted one has none; None before the first sync.
    """
    user.must_be(Role.VIEWER)
    (there,) = await _rows(connection, _ARE_THERE)
    currencies = await _rows(connection, _CURRENCIES) if there["they_are"] else []
    if not currencies:
        return None
    known = {row["currency"]: row for row in currencies}
    total = known.get(currency, currencies[0])
    shown = total["currency"]
    return {
        "currencies": currencies,
        "total": total,
        "currency": shown,
        "overdue": (await _rows(connection, _OVERDUE, shown))[0],
        "by_stage": await _rows(connection, _BY_STAGE, shown),
        "by_month": await _rows(connection, _BY_MONTH, shown, MONTHS),
        "win_rate": await _rows(connection, _WIN_RATE, shown),
        "ageing": await _rows(connection, _AGEING, list(MOVES)),
        "top": await with_marks(connection, await _rows(connection, _TOP, shown, TOP)),
    }


async def _rows(
    connection: AsyncConnection[DictRow], query: LiteralString, *parameters: object
) -> list[DictRow]:
    return await (await connection.execute(query, parameters or None)).fetchall()
