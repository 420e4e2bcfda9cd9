"""Read dbt's marts, in one currency at a time."""

from datetime import UTC, datetime
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel

from api.auth import Role, User
from api.opportunities.service import with_marks
from api.opportunities.unchanged import Unchanged
from api.types import Text
from api.workflow import MOVES, read_rules

MONTHS = 18
TOP = 10


class Choice(BaseModel):
    """The currency to show, by default that of most deals, or the deals without a currency."""

    currency: Text | None = None
    no_currency: bool = False


# The first sync makes them.
_ARE_THERE: LiteralString = """
select bool_and(to_regclass('public.' || name) is not null) as they_are
from unnest(array['pipeline_by_stage_and_month', 'win_rate_by_practice', 'workflow_ageing']) as name
"""
# The mart reads all deals, so it is asked once. `part` is what the sums are of.
_PIPELINE: LiteralString = """
with by_month as (
    select
        nullif(stage, '') as stage,
        nullif(currency, '') as currency,
        close_month,
        deals,
        deal_value,
        weighted_value,
        case
            when close_month < date_trunc('month', now()) then 'overdue'
            when close_month < date_trunc('month', now()) + make_interval(months => %s)
                then 'ahead'
        end as term
    from pipeline_by_stage_and_month
)

select
    case
        when grouping(stage) = 0 then 'stage'
        when grouping(close_month) = 0 then 'month'
        when grouping(term) = 0 then 'term'
        else 'currency'
    end as part,
    currency,
    stage,
    close_month,
    term,
    sum(deals)::bigint as deals,
    sum(deal_value) as deal_value,
    sum(weighted_value) as weighted_value
from by_month
group by grouping sets (
    (currency), (currency, stage), (currency, term), (currency, term, close_month)
)
order by stage, close_month, deals desc, currency
"""
_WIN_RATE: LiteralString = """
select
    nullif(practice, '') as practice,
    sum(won)::bigint as won,
    sum(lost)::bigint as lost,
    round(sum(won) / sum(won + lost), 4) as win_rate
from win_rate_by_practice
where nullif(currency, '') is not distinct from %s and won + lost > 0
group by 1
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
    and nullif(currency, '') is not distinct from %s
order by coalesce(deal_value, '-infinity') desc, id desc
limit %s
"""


async def read(
    connection: AsyncConnection[DictRow], user: User, unchanged: Unchanged, wanted: Choice
) -> dict[str, Any] | None:
    """Return the pipeline, the win rate, the ageing and the top deals in a currency.

    It is the one of most deals if none is wanted, or the wanted one has no deals; None before the
    first sync.
    """
    user.must_be(Role.VIEWER)
    (there,) = await _rows(connection, _ARE_THERE)
    if not there["they_are"]:
        return None

    async def pipeline() -> dict[str, list[DictRow]]:
        parts: dict[str, list[DictRow]] = {"currency": [], "stage": [], "month": [], "term": []}
        for row in await _rows(connection, _PIPELINE, MONTHS):
            parts[row["part"]].append(row)
        return parts

    # Ages and months move on without a write.
    hour = f"{datetime.now(UTC):%Y-%m-%d %H}"
    parts = await unchanged.get(connection, ("pipeline", hour), pipeline)
    currencies = parts["currency"]
    if not currencies:
        return None
    known = {row["currency"]: row for row in currencies}
    total = currencies[0]
    if wanted.currency is not None or wanted.no_currency:
        total = known.get(wanted.currency, total)
    shown = total["currency"]

    async def rest() -> dict[str, list[DictRow]]:
        return {
            "win_rate": await _rows(connection, _WIN_RATE, shown),
            "ageing": await _rows(connection, _AGEING, list(MOVES)),
            "top": await _rows(connection, _TOP, shown, TOP),
        }

    days = (await read_rules(connection)).decisions.days
    found = await unchanged.get(connection, ("dashboard", hour, shown, days), rest)
    of_currency = {
        part: [row for row in rows if row["currency"] == shown] for part, rows in parts.items()
    }
    overdue = [row for row in of_currency["term"] if row["term"] == "overdue"]
    return {
        "currencies": currencies,
        "total": total,
        "currency": shown,
        "overdue": overdue[0] if overdue else {"deals": 0, "deal_value": 0},
        "by_stage": of_currency["stage"],
        "by_month": [row for row in of_currency["month"] if row["term"] == "ahead"],
        "win_rate": found["win_rate"],
        # Of a mart that the next sync makes anew after an upgrade.
        "ageing": [{"limit_days": None, "over_limit": None} | row for row in found["ageing"]],
        "top": await with_marks(connection, found["top"]),
    }


async def _rows(
    connection: AsyncConnection[DictRow], query: LiteralString, *parameters: object
) -> list[DictRow]:
    return await (await connection.execute(query, parameters or None)).fetchall()
