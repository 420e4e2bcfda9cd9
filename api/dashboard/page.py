"""The dashboard: dbt's marts as charts, in one currency at a time."""

from datetime import date
from typing import Annotated, Any

from fastapi import Query, Request, Response
from psycopg.rows import DictRow

from api.auth import CurrentUser
from api.console.charts import Bar, columns, lengths
from api.console.pages import console_router, page
from api.dashboard import service
from api.database import Connection
from api.opportunities.service import STALE_DAYS
from api.workflow import read_rules

router = console_router()


@router.get("/dashboard")
async def show_dashboard(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    choice: Annotated[service.Choice, Query()],
) -> Response:
    """Show the pipeline, the win rate, the ageing and the top deals."""
    unchanged = request.app.state.unchanged
    found = await service.read(connection, user, unchanged, choice)
    if found is None:
        return page(request, "dashboard.html", currencies=[], total=None)
    by_month, win_rate = found["by_month"], found["win_rate"]
    won, lost = (sum(row[name] for row in win_rate) for name in ("won", "lost"))
    shown = found | {
        "won": won,
        "lost": lost,
        "by_stage": _with_lengths(found["by_stage"], "deal_value", "weighted_value"),
        "months": _months(by_month),
        "win_rate": [row | {"length": 100 * float(row["win_rate"])} for row in win_rate],
        "ageing": _with_lengths(found["ageing"], "median_days"),
    }
    rules = await read_rules(connection)
    return page(request, "dashboard.html", stale_days=STALE_DAYS, rules=rules, **shown)


def _with_lengths(rows: list[DictRow], name: str, note: str | None = None) -> list[DictRow]:
    """Add to each row how long its bar is, and the part of it that is drawn darker."""
    found = lengths([float(row[name] or 0) for row in rows])
    shown = []
    for row, length in zip(rows, found, strict=True):
        whole = float(row[name] or 0)
        part = round(length * float(row[note] or 0) / whole, 3) if note and whole else 0
        shown.append(row | {"length": length, "note": part})
    return shown


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
