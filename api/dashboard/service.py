"""Read what the dashboard shows: in the reporting currency, or in one currency at a time."""

from datetime import UTC, datetime
from typing import Any, Literal, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel

from api.auth import Role, User
from api.opportunities.queries import IS_OUTLIER, OPEN_ONES, OUTLIERS
from api.opportunities.service import (
    read_outlier_limits,
    read_reporting_currency,
    with_marks,
)
from api.opportunities.unchanged import Unchanged
from api.types import Text
from api.workflow import MOVES, read_rules

MONTHS = 18
TOP = 10


class Choice(BaseModel):
    """What to show.

    By default all deals in the reporting currency; if there is none, the currency of most open
    deals.
    """

    currency: Text | None = None
    no_currency: bool = False
    outliers: Literal["without"] | None = None


# The first sync makes it.
_IS_THERE: LiteralString = "select to_regclass('public.workflow_ageing') is not null as it_is"
_CURRENCIES: LiteralString = """
select currency, coalesce(sum(deals) filter (where outcome = 'OPEN'), 0)::bigint as deals
from opportunity_totals
group by currency
having sum(deals) > 0
order by deals desc, sum(opportunity_totals.deals) desc, currency
"""
# Where all deals are closed without a decision, or deleted, there are no totals.
_ANY_CURRENCY: LiteralString = """
select nullif(currency, '') as currency, 0::bigint as deals from opportunities order by id limit 1
"""
_OF_CURRENCY: LiteralString = "(%(converted)s or currency is not distinct from %(currency)s)"
# `part` is what the sums are of. The usual value has no outliers: it is the scale of the charts.
# The totals have them; there are few, so they are read, and subtracted.
_PIPELINE: LiteralString = f"""
with outliers as materialized (
    select
        nullif(stage, '') as stage,
        close_date - extract(day from close_date)::integer + 1 as close_month,
        case when %(converted)s then reporting_value else deal_value end as value,
        win_probability
    from opportunities
    where id in ({OUTLIERS}) and (%(converted)s or coalesce(currency, '') = %(currency_key)s)
),
counted as (
    select
        stage,
        close_month,
        deals,
        case when %(converted)s then reporting_value else deal_value end as value,
        case when %(converted)s then weighted_reporting_value else weighted_value end as weighted,
        case when %(converted)s then without_rate else 0 end as without_rate,
        0 as outliers,
        0 as value_of_outliers
    from opportunity_totals
    where outcome = 'OPEN' and {_OF_CURRENCY}

    union all

    select
        stage,
        close_month,
        -%(left_out)s,
        -%(left_out)s * value,
        -%(left_out)s * value * coalesce(win_probability, 0),
        0,
        1,
        (1 - %(left_out)s) * value
    from outliers
),
termed as (
    select
        *,
        case
            when close_month < date_trunc('month', now()) then 'overdue'
            when close_month < date_trunc('month', now()) + make_interval(months => %(months)s)
                then 'ahead'
        end as term
    from counted
)
select
    case
        when grouping(stage) = 0 then 'stage'
        when grouping(close_month) = 0 then 'month'
        when grouping(term) = 0 then 'term'
        else 'total'
    end as part,
    stage,
    close_month,
    term,
    coalesce(sum(deals), 0)::bigint as deals,
    coalesce(sum(value), 0) as deal_value,
    round(coalesce(sum(weighted), 0) * 0.01, 2) as weighted_value,
    coalesce(sum(value - value_of_outliers), 0) as usual_value,
    coalesce(sum(without_rate), 0)::bigint as without_rate,
    coalesce(sum(outliers), 0)::bigint as outliers
from termed
group by grouping sets ((), (stage), (term), (term, close_month))
having sum(deals) > 0 or grouping(stage, term, close_month) = 7
order by stage, close_month
"""  # noqa: S608 - no part is of a request
# In percent, of each practice and of all.
_WIN_RATE: LiteralString = f"""
select
    grouping(practice) = 1 as is_total,
    practice,
    coalesce(sum(deals) filter (where outcome = 'WON'), 0)::bigint as won,
    coalesce(sum(deals) filter (where outcome = 'LOST'), 0)::bigint as lost,
    round(
        100.0 * coalesce(sum(deals) filter (where outcome = 'WON'), 0) / sum(deals), 1
    ) as win_rate
from opportunity_totals
where outcome in ('WON', 'LOST') and {_OF_CURRENCY}
group by grouping sets ((), (practice))
having sum(deals) > 0
order by is_total desc, win_rate desc, practice
"""  # noqa: S608
_AGEING: LiteralString = (
    "select * from workflow_ageing order by array_position(%s, workflow_status)"
)
_TOP: LiteralString = f"""
select id, name, customer, stage, workflow_status, deal_value, currency, reporting_value,
    %(reporting)s::text as reporting_currency, win_probability, close_date, deleted_at
from opportunities
where {OPEN_ONES} and {{which}} and {{value}} > '-infinity'
    and not (%(without_outliers)s and {IS_OUTLIER})
order by {{value}} desc, id desc
limit %(top)s
"""  # noqa: S608
_TOP_CONVERTED: LiteralString = _TOP.replace("{value}", "reporting_value").replace(
    "{which}", "true"
)
_TOP_OF_CURRENCY: LiteralString = _TOP.replace("{value}", "deal_value").replace(
    "{which}", "coalesce(currency, '') = %(currency_key)s"
)


# The run after which the numbers are what they are.
_NEWEST: LiteralString = """
select run_id, completed_at from sync_logs where status = 'SUCCESS' order by id desc limit 1
"""


async def read(
    connection: AsyncConnection[DictRow], user: User, unchanged: Unchanged, wanted: Choice
) -> dict[str, Any] | None:
    """Return the pipeline, the win rate, the ageing and the top deals.

    `unit` is the currency of the sums; `is_converted`: they are of all deals; `newest`: the last
    run that was a success. A wanted currency without deals counts as none. None while there are no
    deals.
    """
    user.must_be(Role.VIEWER)
    (there,) = await _rows(connection, _IS_THERE)
    if not there["it_is"]:
        return None

    async def all_currencies() -> list[DictRow]:
        return await _rows(connection, _CURRENCIES) or await _rows(connection, _ANY_CURRENCY)

    currencies = await unchanged.get(connection, "currencies", all_currencies)
    if not currencies:
        return None
    reporting = await read_reporting_currency(connection, user)
    currency, is_converted = currencies[0]["currency"], reporting is not None
    is_wanted = wanted.currency is not None or wanted.no_currency
    if is_wanted and wanted.currency in [row["currency"] for row in currencies]:
        currency, is_converted = wanted.currency, False
    parameters = {
        "currency": currency,
        "currency_key": currency or "",
        "converted": is_converted,
        "reporting": reporting if is_converted else None,
        "limits": await read_outlier_limits(connection, unchanged),
        "without_outliers": wanted.outliers is not None,
        "left_out": int(wanted.outliers is not None),
        "months": MONTHS,
        "top": TOP,
    }

    async def money() -> dict[str, list[DictRow]]:
        parts: dict[str, list[DictRow]] = {"total": [], "stage": [], "month": [], "term": []}
        for row in await _rows(connection, _PIPELINE, parameters):
            parts[row["part"]].append(row)
        top = _TOP_CONVERTED if is_converted else _TOP_OF_CURRENCY
        return parts | {
            "win_rate": await _rows(connection, _WIN_RATE, parameters),
            "top": await _rows(connection, top, parameters),
        }

    async def ageing() -> list[DictRow]:
        return await _rows(connection, _AGEING, [list(MOVES)])

    # Ages and months move on without a write.
    hour = f"{datetime.now(UTC):%Y-%m-%d %H}"
    days = (await read_rules(connection)).decisions.days
    parts = await unchanged.get(connection, ("pipeline", hour, parameters), money)
    newest = await _rows(connection, _NEWEST)
    overdue = [row for row in parts["term"] if row["term"] == "overdue"]
    return {
        "currencies": currencies,
        "currency": currency,
        "is_converted": is_converted,
        "reporting": reporting,
        "unit": reporting if is_converted else currency,
        "limits": parameters["limits"],
        "without_outliers": wanted.outliers is not None,
        "newest": newest[0] if newest else None,
        "total": parts["total"][0],
        "overdue": overdue[0] if overdue else {"deals": 0, "deal_value": 0},
        "by_stage": parts["stage"],
        "by_month": [row for row in parts["month"] if row["term"] == "ahead"],
        # None if no deal was won or lost.
        "decided": next((row for row in parts["win_rate"] if row["is_total"]), None),
        "win_rate": [row for row in parts["win_rate"] if not row["is_total"]],
        # Of a mart that the next sync makes anew after an upgrade.
        "ageing": [
            {"limit_days": None, "over_limit": None} | row
            for row in await unchanged.get(connection, ("ageing", hour, days), ageing)
        ],
        "top": await with_marks(connection, unchanged, parts["top"]),
    }


async def _rows(
    connection: AsyncConnection[DictRow], query: LiteralString, parameters: Any = None
) -> list[DictRow]:
    return await (await connection.execute(query, parameters)).fetchall()
