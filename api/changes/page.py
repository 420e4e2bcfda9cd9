"""Today, the start page of the console."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from api.auth import CurrentUser
from api.changes import today
from api.changes.today import Kind, Since, View
from api.console.pages import back_to, console_router, page, wants_part
from api.database import Connection
from api.workflow import read_rules

router = console_router()

SOME = 5
MANY = 50
TITLES = {
    Kind.WAITING: "Waiting for me",
    Kind.NEW: "New",
    Kind.WON: "Won",
    Kind.LOST: "Lost",
    Kind.CLOSED: "Closed",
    Kind.VALUE_UP: "Value up",
    Kind.VALUE_DOWN: "Value down",
    Kind.CURRENCY: "Currency changed",
    Kind.DATE: "Date moved",
    Kind.STAGE: "Stage moved",
    Kind.DELETED: "Deleted",
    Kind.RETURNED: "Back again",
}
RARE = (Kind.CLOSED, Kind.CURRENCY, Kind.RETURNED)
"""Kinds that are left out while there are none."""
TIMES = {
    Since.VISIT: "Since my last visit",
    Since.DAY: "24 hours",
    Since.WEEK: "7 days",
}


@router.get("/today")
async def show_today(
    request: Request, user: CurrentUser, connection: Connection, view: Annotated[View, Query()]
) -> Response:
    """Show what became of the deals, some of each kind or all of one."""
    found = await today.read(connection, user, view, SOME, MANY)
    shown = [kind for kind in Kind if kind not in RARE or found["totals"].get(kind)]
    context: dict[str, Any] = found | {
        "view": view,
        "rules": await read_rules(connection),
        "kinds": {kind: TITLES[kind] for kind in shown},
        "times": TIMES,
        "address": lambda **changes: _address(view, **changes),
        "size": SOME if view.kind is None else MANY,
    }
    if wants_part(request, "more"):
        return page(request, "_today_rows.html", kind=view.kind, **context)
    return page(request, "today.html", **context)


@router.post("/today/seen")
async def mark_seen(request: Request, user: CurrentUser, connection: Connection) -> Response:
    """Begin a new visit."""
    await today.mark_seen(connection, user)
    return back_to(request, "/today")


def _address(view: View, **changes: Any) -> str:
    """Return the address of this page with some of its parameters changed."""
    given = view.model_dump(mode="json", exclude_defaults=True, exclude={"offset", "until"})
    asked = {name: value for name, value in (given | changes).items() if value is not None}
    return "/today" + (f"?{urlencode(asked)}" if asked else "")
