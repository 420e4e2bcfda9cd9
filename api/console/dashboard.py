"""The dashboard: what dbt's marts make of the deals, in one currency at a time."""

from datetime import date
from typing import Annotated, Any, LiteralString

from fastapi import Query, Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel

from api.auth import Viewer
from api.console.charts import Bar, columns, lengths
from api.console.opportunities import STALE_DAYS, with_marks
from api.console.pages import console_router, page
from api.database import Connection
from api.types import Text
from api.workflow import MOVES

router = console_router()

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


class Choice(BaseModel):
    """The currency to show, by default that of most deals."""

    currency: Text | None = None


@router.get("/dashboard")
async def show_dashboard(
    request: Request, _: Viewer, connection: Connection, choice: Annotated[Choice, Query()]
) -> Response:
    """Show the pipeline, the win rate, the ageing and the top deals."""
    (there,) = await _rows(connection, _ARE_THERE)
    currencies = await _rows(connection, _CURRENCIES) if there["they_are"] else []
    if not currencies:
        return page(request, "dashboard.html", currencies=[], total=None)
    known = {row["currency"]: row for row in currencies}
    total = known.get(choice.currency, currencies[0])
    currency = total["currency"]
    by_stage = await _rows(connection, _BY_STAGE, currency)
    by_month = await _rows(connection, _BY_MONTH, currency, MONTHS)
    win_rate = await _rows(connection, _WIN_RATE, currency)
    ageing = await _rows(connection, _AGEING, list(MOVES))
    won, lost = (sum(row[name] for row in win_rate) for name in ("won", "lost"))
    return page(
        request, "dashboard.html",
        currencies=currencies, total=total, currency=currency,
        overdue=(await _rows(connection, _OVERDUE, currency))[0],
        won=won, lost=lost,
        by_stage=_with_lengths(by_stage, "deal_value", "weighted_value"),
        by_month=by_month, months=_months(by_month),
        win_rate=[row | {"length": 100 * float(row["win_rate"])} for row in win_rate],
        ageing=_with_lengths(ageing, "median_days"),
        top=await with_marks(connection, await _rows(connection, _TOP, currency, TOP)),
        stale_days=STALE_DAYS,
    )  # fmt: skip


async def _rows(
    connection: AsyncConnection[DictRow], query: LiteralString, *parameters: object
) -> list[DictRow]:
    return await (await connection.execute(query, parameters or None)).fetchall()


def _with_lengths(rows: list[DictRow], name: str, note: str | None = None) -> list[DictRow]:
    """Add to each row how long its bar is, and the part of it that is drawn darker."""
    found = lengths([float(row[name] or 0) for row in rows])
    for row, length in zip(rows, found, strict=True):
        row["length"] = length
        whole = float(row[name] or 0)
        row["note"] = round(length * float(row[note] or 0) / whole, 3) if note and whole else 0
    return rows


def _months(rows: list[DictRow]) -> dict[str, Any]:
    """Lay out a column for every month from now to the last that has deals."""
    by_month = {row["close_month"]: row for row in rows}
    month = date.today().replace(day=1)  # noqa: DTZ011 - as good as the database's month
    names = []
    while by_month and month <= max(by_month):
        names.append(month)
        month = (month.replace(day=28) + (date.resolution * 4)).replace(day=1)
    bars = [
        Bar(
            label=f"{name:%b %Y}",
            value=float(by_month[name]["deal_value"]) if name in by_month else 0,
            note=float(by_month[name]["weighted_value"]) if name in by_month else 0,
        )
        for name in names
    ]
    return {"names": names, "chart": columns(bars)}
