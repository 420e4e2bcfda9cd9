"""The dashboard: what deals are worth, as charts.

Each number leads to the list of exactly the deals that it counts: `opens` is that list's query.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from psycopg.rows import DictRow

from api.auth import CurrentUser
from api.console.charts import Bar, columns, lengths
from api.console.pages import console_router, page
from api.dashboard import service
from api.dashboard.explanations import explain
from api.database import Connection
from api.fields import CurrentFields
from api.opportunities.lists import having, list_of, merged
from api.opportunities.page import value_key
from api.opportunities.schemas import OPEN
from api.opportunities.service import STALE_DAYS
from api.opportunities.unchanged import unchanged_for
from api.workflow import read_rules

router = console_router()


@router.get("/dashboard")
async def show_dashboard(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    choice: Annotated[service.Choice, Query()],
) -> Response:
    """Show the pipeline, the win rate, the ageing and the top deals."""
    unchanged = unchanged_for(request, user.seen)
    found = await service.read(connection, user, unchanged, choice)
    if found is None:
        return page(request, "dashboard.html", currencies=[])
    by_month = found["by_month"]
    of_currency = {} if found["is_converted"] else having("currency", found["currency"])
    kept = {"outliers": "without"} if found["without_outliers"] else {}
    open_ones: dict[str, Any] = of_currency | {"crm_outcome": OPEN}
    counted = open_ones | kept
    this_month = _this_month()
    last_day = this_month
    for _ in range(service.MONTHS):
        last_day = _following(last_day)
    last_day -= timedelta(days=1)
    shown = found | {
        "fields": fields,
        "sort": f"&sort=-{value_key(found['unit'] if found['is_converted'] else None)}"
        if fields.can_sort("deal_value")
        else "",
        "opens": {
            "open": list_of(fields, **counted),
            "won": list_of(fields, **of_currency, crm_outcome=["WON"]),
            "decided": list_of(fields, **of_currency, crm_outcome=["WON", "LOST"]),
            "overdue": list_of(fields, **counted, closing_before=this_month - timedelta(days=1)),
            "outliers": list_of(fields, **open_ones, outliers="only"),
            "without_rate": list_of(fields, **merged(counted, {"missing": ["rate"]})),
        },
        "explanations": explain(
            connection, user, found, of_currency, (this_month, last_day), service.TOP
        ),
        "tabs": _tabs(found),
        "other": _query(found, outliers=None if kept else "without"),
        "by_stage": [
            row | {"opens": list_of(fields, **merged(counted, having("stage", row["stage"])))}
            for row in _with_lengths(found["by_stage"], "deal_value", "weighted_value")
        ],
        "months": _months(by_month),
        "by_month": [
            row
            | {
                "opens": list_of(
                    fields,
                    **counted,
                    closing_after=row["close_month"],
                    closing_before=_following(row["close_month"]) - timedelta(days=1),
                )
            }
            for row in by_month
        ],
        "win_rate": [
            row
            | {
                "length": row["win_rate"],
                "opens": {
                    name: list_of(
                        fields,
                        **merged(of_currency, having("practice", row["practice"])),
                        crm_outcome=[name.upper()],
                    )
                    for name in ("won", "lost")
                },
            }
            for row in found["win_rate"]
        ],
        "ageing": [
            row
            | {
                "opens": list_of(
                    fields, crm_outcome=OPEN, workflow_status=[row["workflow_status"]]
                ),
                "opens_late": list_of(fields, late=True, workflow_status=[row["workflow_status"]]),
            }
            for row in _with_lengths(found["ageing"], "median_days")
        ],
    }
    rules = await read_rules(connection)
    return page(request, "dashboard.html", stale_days=STALE_DAYS, rules=rules, **shown)


def _query(found: dict[str, Any], **changes: Any) -> str:
    """Return the query of the dashboard that is shown, with some changes."""
    given: dict[str, Any] = {"outliers": "without" if found["without_outliers"] else None}
    if not found["is_converted"]:
        given |= _choice(found["currency"])
    return urlencode({key: value for key, value in (given | changes).items() if value})


def _choice(currency: str | None) -> dict[str, str]:
    return {"no_currency": "true"} if currency is None else {"currency": currency}


def _tabs(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the dashboards that people can choose: their titles, queries and numbers of deals."""
    kept = {"outliers": "without"} if found["without_outliers"] else {}
    tabs = [
        {
            "title": row["currency"] or "No currency",
            "query": urlencode(_choice(row["currency"]) | kept),
            "deals": row["deals"],
            "is_shown": not found["is_converted"] and row["currency"] == found["currency"],
        }
        for row in found["currencies"]
    ]
    if found["reporting"] is None:
        return tabs
    every = {
        "title": f"All in {found['reporting']}",
        "query": urlencode(kept),
        "deals": sum(row["deals"] for row in found["currencies"]),
        "is_shown": found["is_converted"],
    }
    return [every, *tabs]


def _this_month() -> date:
    # Sessions of the database have UTC, too.
    return datetime.now(UTC).date().replace(day=1)


def _following(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1)


def _with_lengths(rows: list[DictRow], name: str, note: str | None = None) -> list[DictRow]:
    """Add to each row how long its bar is, if it is cut, and the part that is drawn darker."""
    top = _usual_top(rows)
    found = lengths([float(row[name] or 0) for row in rows], top)
    shown = []
    for row, length in zip(rows, found, strict=True):
        whole = float(row[name] or 0)
        part = round(length * float(row[note] or 0) / whole, 3) if note and whole else 0
        is_cut = top is not None and whole > top
        shown.append(row | {"length": length, "note": part, "is_cut": is_cut})
    return shown


def _usual_top(rows: list[DictRow]) -> float | None:
    """Return where the scale of a chart ends, so that no outlier makes all other bars invisible."""
    top = max((float(row.get("usual_value") or 0) for row in rows), default=0)
    return top or None


def _months(rows: list[DictRow]) -> dict[str, Any]:
    """Lay out a column for every month from now to the last that has deals."""
    by_month = {row["close_month"]: row for row in rows}
    month = _this_month()
    names = []
    while by_month and month <= max(by_month):
        names.append(month)
        month = _following(month)
    bars = [
        Bar(
            label=f"{name:%b %Y}",
            value=float(by_month[name]["deal_value"]) if name in by_month else 0,
            note=float(by_month[name]["weighted_value"]) if name in by_month else 0,
        )
        for name in names
    ]
    return {"names": names, "chart": columns(bars, top=_usual_top(rows))}
