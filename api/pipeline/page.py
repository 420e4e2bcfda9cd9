"""The pipeline over time: a waterfall between two days, and what is behind it."""

from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from math import ceil
from typing import Annotated, Any, Self
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from api.auth import CurrentUser
from api.console.charts import lengths, waterfall
from api.console.pages import console_router, page, wants_part
from api.database import Connection
from api.fields import CurrentFields, Fields
from api.opportunities.lists import having, list_of
from api.opportunities.schemas import OPEN
from api.opportunities.turns import given_up_in_time
from api.opportunities.unchanged import unchanged_for
from api.pipeline import service
from api.pipeline.schemas import CloseDate, DealsRequest, Numbers, Step
from api.pipeline.service import CAME, WENT

router = console_router()

PATH = "/dashboard/pipeline"
LENGTHS = (7, 30, 90, 365)
MANY = 50
SHADES = 5
MOST_STAGES = 30
"""In the table of moves; those of the fewest deals are left out."""
TITLES = {
    Step.OPENING: "Opening",
    Step.NEW: "New",
    Step.REOPENED: "Opened again",
    Step.RETURNED: "Back in the CRM",
    Step.VALUE_UP: "Value up",
    Step.VALUE_DOWN: "Value down",
    Step.CURRENCY_IN: "From another currency",
    Step.CURRENCY_OUT: "To another currency",
    Step.WON: "Won",
    Step.LOST: "Lost",
    Step.CLOSED: "Closed",
    Step.DELETED: "Deleted",
    Step.CLOSING: "Closing",
    Step.KEPT: "Open on both days",
}
DATES = {
    CloseDate.EARLIER: "Earlier",
    CloseDate.LATER_30: "Up to 30 days later",
    CloseDate.LATER_90: "31 to 90 days later",
    CloseDate.LATER: "Over 90 days later",
    CloseDate.SET: "Got a date",
    CloseDate.REMOVED: "Lost the date",
}
RARE = (Step.REOPENED, Step.RETURNED, Step.CURRENCY_IN, Step.CURRENCY_OUT, Step.CLOSED)
"""Steps that are left out while there are none."""


class View(Numbers):
    """What the page shows: a period and a currency, and the deals of one of its numbers."""

    step: Step | None = None

    def of(self, currency: str | None, start: date, end: date, *, converted: bool = False) -> Self:
        """Return the view with what it shows where nothing is wanted."""
        missing: list[str] = [name for name in self.missing if name != "currency"]
        missing += ["currency"] if currency is None and not converted else []
        changes = {"currency": currency, "converted": converted, "missing": missing}
        return self.model_copy(update=changes | {"start": start, "end": end})

    def query(self, missing: Iterable[str] = (), **changes: Any) -> str:
        """Return the query of the page of the same period and currency, with some changes."""
        given = self.model_dump(mode="json", include={"start", "end", *self.which}) | changes
        given["missing"] = [name for name in self.missing if name == "currency"] + list(missing)
        return urlencode(
            {name: value for name, value in given.items() if value is not None}, doseq=True
        )

    @property
    def which(self) -> dict[str, str]:
        """The parameters that say which waterfall is shown."""
        if self.converted:
            return {"converted": "true"}
        return {"missing": "currency"} if self.currency is None else {"currency": self.currency}

    def next(self, offset: int) -> str:
        """Return the query of more of the same rows."""
        wanted = self.model_dump(mode="json", exclude_none=True) | {"offset": offset}
        return urlencode(wanted, doseq=True)


@router.get(PATH)
async def show_pipeline(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    view: Annotated[View, Query()],
) -> Response:
    """Show what became of the pipeline, or the deals of one of its numbers."""
    unchanged = unchanged_for(request, user.seen)
    async with given_up_in_time(request, service.TOO_LONG):
        found = await service.read_pipeline(connection, user, unchanged, view)
    currencies = {one["currency"]: one for one in found["currencies"]}
    if not currencies:
        return page(request, "pipeline.html", view=view, shown=None, **found)
    converted = found["converted"]
    shown = converted or next(iter(currencies.values()))
    if view.currency is not None or "currency" in view.missing:
        shown = currencies.get(view.currency, shown)
    unit, days = shown["currency"], (found["start"], found["end"])
    is_converted = shown is converted
    view = view.of(None if is_converted else unit, *days, converted=is_converted)
    context = found | {"view": view, "shown": shown, "titles": TITLES, "dates": DATES}
    context |= {"unit": unit, "tabs": _tabs(view, found)}
    if view.step is not None:
        wanted = DealsRequest.model_validate(view.model_dump(exclude_none=True))
        async with given_up_in_time(request, service.TOO_LONG):
            deals = await service.list_deals(connection, user, unchanged, wanted)
        end = view.offset + len(deals["items"])
        is_last = end >= deals["total"] or not deals["items"]
        context |= {"deals": deals, "more": None if is_last else f"{PATH}?{view.next(end)}"}
        if wants_part(request, "more"):
            return page(request, "_pipeline_rows.html", **context)
    first, today = found["first"], found["today"]
    return page(
        request,
        "pipeline.html",
        flow=_flow(view, shown, fields, is_now=found["end"] == today),
        moves=_moves(view, shown),
        longest=_with_lengths(found["stays"], "median_days"),
        moved_dates=[
            row | {"opens": view.query(step=Step.KEPT, close_date=row["close_date"])}
            for row in _with_lengths(shown["close_dates"], "deals")
        ],
        periods=[(days, max(today - timedelta(days=days), first), today) for days in LENGTHS],
        **context,
    )


def _flow(view: View, shown: dict[str, Any], fields: Fields, *, is_now: bool) -> dict[str, Any]:
    """Lay out the waterfall: its rows with their bars, and its axis."""
    steps = [step for step in shown["steps"] if step["deals"] or step["step"] not in RARE]
    ends = [shown[name] | {"step": Step(name)} for name in ("opening", "closing")]
    chart = waterfall(float(ends[0]["value"]), [float(step["value"]) for step in steps])
    rows = [
        row
        | {
            "rise": rise,
            "tone": _tone(row),
            "opens": f"{PATH}?{view.query(step=row['step'])}#deals",
        }
        for row, rise in zip([ends[0], *steps, ends[1]], chart.rises, strict=True)
    ]
    # What is open now, the list of deals can show.
    of_currency = {} if view.converted else having("currency", view.currency)
    now = list_of(fields, crm_outcome=OPEN, **of_currency)
    if is_now and now is not None:
        rows[-1]["opens"] = f"/opportunities?{now}"
    return {"rows": rows, "axis": chart.axis, "is_cut": chart.is_cut}


def _tabs(view: View, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the waterfalls that people can choose: all in one, and each currency's own."""
    days = (found["start"], found["end"])
    tabs = [
        {
            "title": one["currency"] or "No currency",
            "query": view.of(one["currency"], *days).query(),
            "deals": one["closing"]["deals"],
            "is_shown": not view.converted and one["currency"] == view.currency,
        }
        for one in found["currencies"]
    ]
    if found["converted"] is None:
        return tabs
    every = {
        "title": f"All in {found['converted']['currency']}",
        "query": view.of(None, *days, converted=True).query(),
        "deals": found["converted"]["closing"]["deals"],
        "is_shown": view.converted,
    }
    return [every, *tabs]


def _tone(row: dict[str, Any]) -> str:
    if row["step"] in (Step.OPENING, Step.CLOSING):
        return ""
    if row["step"] is Step.WON:
        return "good"
    return "more" if row["value"] > 0 else "less"


def _moves(view: View, shown: dict[str, Any]) -> dict[str, Any]:
    """Lay out from where to where deals moved, as a table; a stage is a text or None."""
    cells: Counter[tuple[Any, Any]] = Counter()
    by_stage: Counter[str | None] = Counter()
    for move in shown["moves"]:
        before = move["step"] if move["step"] in CAME else move["stage_before"]
        after = move["step"] if move["step"] in WENT else move["stage_after"]
        cells[before, after] += move["deals"]
        for place in (before, after):
            if not isinstance(place, Step):
                by_stage[place] += move["deals"]
    stages = sorted(
        (stage for stage, _ in by_stage.most_common(MOST_STAGES)), key=lambda name: name or ""
    )
    befores = [*stages, *(step for step in CAME if any(before is step for before, _ in cells))]
    afters = [*stages, *(step for step in WENT if any(after is step for _, after in cells))]
    totals: Counter[Any] = Counter()
    for (before, _), deals in cells.items():
        totals[before] += deals
    rows = [
        {
            "title": _title(before),
            "total": totals[before],
            "opens": view.query(**_filters("before", before, Step.OPENING)),
            "cells": [
                {
                    "deals": cells[before, after],
                    "percent": _percent(cells[before, after], totals[before]),
                    "shade": ceil(SHADES * cells[before, after] / totals[before]),
                    "opens": view.query(**_pair(before, after)),
                }
                for after in afters
            ],
        }
        for before in befores
        if totals[before]
    ]
    return {
        "rows": rows,
        "columns": [_title(after) for after in afters],
        "is_cut": len(by_stage) > MOST_STAGES,
    }


def _percent(part: int, whole: int) -> Decimal:
    """Return a share as PostgreSQL rounds it; 6.25 would be 6.2 for Python."""
    return (Decimal(100 * part) / whole).quantize(Decimal("0.1"), ROUND_HALF_UP)


def _title(place: Any) -> str:
    return TITLES[place] if isinstance(place, Step) else place or "No stage"


def _filters(side: str, place: Any, step: Step) -> dict[str, Any]:
    """Return the filters of the deals in a stage on one of the days, or that came or went."""
    if isinstance(place, Step):
        return {"step": place}
    name = f"stage_{side}"
    return {"step": step} | ({"missing": [name]} if place is None else {name: place})


def _pair(before: Any, after: Any) -> dict[str, Any]:
    """Return the filters of the deals of a cell."""
    one = _filters("before", before, Step.KEPT)
    other = _filters("after", after, Step.KEPT)
    missing = [*one.get("missing", []), *other.get("missing", [])]
    step = one["step"] if isinstance(before, Step) else other["step"]
    return one | other | {"step": step} | ({"missing": missing} if missing else {})


def _with_lengths(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    found = lengths([float(row[name]) for row in rows])
    return [row | {"length": length} for row, length in zip(rows, found, strict=True)]
