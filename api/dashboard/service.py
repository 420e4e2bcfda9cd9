"""Read what the dashboard shows: in the reporting currency, or in one currency at a time."""

from datetime import UTC, datetime
from typing import Any, Literal, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel

from api.auth import Role, User
from api.opportunities.queries import IS_OUTLIER
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

    By default all deals in the reporting currency; if there is none, the currency of most deals.
    """

    currency: Text | None = None
    no_currency: bool = False
    outliers: Literal["without"] | None = None


# The first sync makes it.
_IS_THERE: LiteralString = "select to_regclass('public.workflow_ageing') is not null as it_is"
_OPEN: LiteralString = "coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null"
_CURRENCIES: LiteralString = f"""
select nullif(currency, '') as currency, count(*) as deals
from opportunities
where {_OPEN}
group by 1
order by deals desc, currency
"""  # noqa: S608 - no part is of a request
_OF_CURRENCY: LiteralString = (
    "(%(converted)s or nullif(currency, '') is not distinct from %(currency)s)"
)
_VALUE: LiteralString = "case when %(converted)s then reporting_value else deal_value end"
# `part` is what the sums are of. The usual value has no outliers: it is the scale of the charts.
_PIPELINE: LiteralString = f"""
with open_deals as (
    select
        nullif(stage, '') as stage,
        date_trunc('month', close_date::timestamp)::date as close_month,
        {_VALUE} as value,
        win_probability / 100 as probability,
        deal_value is not null and {_VALUE} is null as lacks_rate,
        {IS_OUTLIER} as is_outlier
    from opportunities
    where {_OPEN} and {_OF_CURRENCY}
),
termed as (
    select
        *,
        case
            when close_month < date_trunc('month', now()) then 'overdue'
            when close_month < date_trunc('month', now()) + make_interval(months => %(months)s)
                then 'ahead'
        end as term
    from open_deals
    where not (%(without_outliers)s and is_outlier)
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
    count(*) as deals,
    coalesce(sum(value), 0) as deal_value,
    round(coalesce(sum(value * probability), 0), 2) as weighted_value,
    coalesce(sum(value) filter (where not is_outlier), 0) as usual_value,
    count(*) filter (where lacks_rate) as without_rate,
    (select count(*) from open_deals where is_outlier) as outliers
from termed
group by grouping sets ((), (stage), (term), (term, close_month))
order by stage, close_month
"""  # noqa: S608
_WIN_RATE: LiteralString = f"""
select
    nullif(practice, '') as practice,
    count(*) filter (where crm_outcome = 'WON') as won,
    count(*) filter (where crm_outcome = 'LOST') as lost,
    round(count(*) filter (where crm_outcome = 'WON')::numeric / count(*), 4) as win_rate
from opportunities
where deleted_at is null and crm_outcome in ('WON', 'LOST') and {_OF_CURRENCY}
group by 1
order by win_rate desc, practice
"""  # noqa: S608
_AGEING: LiteralString = (
    "select * from workflow_ageing order by array_position(%s, workflow_status)"
)
_TOP: LiteralString = f"""
select id, name, customer, stage, workflow_status, deal_value, currency, reporting_value,
    %(reporting)s::text as reporting_currency, win_probability, close_date, deleted_at
from opportunities
where {_OPEN} and {{key}} > '-infinity' and {_OF_CURRENCY}
    and not (%(without_outliers)s and {IS_OUTLIER})
order by {{key}} desc, id desc
limit %(top)s
"""  # noqa: S608
_TOP_CONVERTED: LiteralString = _TOP.replace("{key}", "coalesce(reporting_value, '-infinity')")
_TOP_OF_CURRENCY: LiteralString = _TOP.replace("{key}", "coalesce(deal_value, '-infinity')")


# The run after which the numbers are what they are.
_NEWEST: LiteralString = """
select run_id, completed_at from sync_logs where status = 'SUCCESS' order by id desc limit 1
"""


async def read(
    connection: AsyncConnection[DictRow], user: User, unchanged: Unchanged, wanted: Choice
) -> dict[str, Any] | None:
    """Return the pipeline, the win rate, the ageing and the top deals.

    `unit` is the currency of the sums; `is_converted`: they are of all deals; `newest`: the last
    run that was a success. A wanted currency without deals counts as none. None before the first
    sync.
    """
    user.must_be(Role.VIEWER)
    (there,) = await _rows(connection, _IS_THERE)
    if not there["it_is"]:
        return None

    async def all_currencies() -> list[DictRow]:
        return await _rows(connection, _CURRENCIES)

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
        "converted": is_converted,
        "reporting": reporting if is_converted else None,
        "limits": await read_outlier_limits(connection, unchanged),
        "without_outliers": wanted.outliers is not None,
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
        "win_rate": parts["win_rate"],
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
