"""The board: the open deals by workflow state, to move them from one to the next."""

from typing import Annotated, Any

from fastapi import Query, Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import CurrentUser, User
from api.console.pages import console_router, page, wants_part
from api.database import Connection
from api.fields import CurrentFields, Fields
from api.opportunities.choices import owner_names, people
from api.opportunities.page import View
from api.opportunities.schemas import OPEN
from api.opportunities.service import STALE_DAYS, read_deals
from api.opportunities.turns import given_up_in_time
from api.opportunities.unchanged import Unchanged
from api.workflow import MOVES, read_rules

router = console_router()

CARDS = 20


@router.get("/board")
async def show_board(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    view: Annotated[View, Query()],
) -> Response:
    """Show the most valuable deals of each state, of those that fulfil the filters."""
    async with given_up_in_time(request):
        columns = await _columns(connection, user, request.app.state.unchanged, fields, view)
    users = await people(connection, user)
    context: dict[str, Any] = {
        "view": view,
        "fields": fields,
        "columns": columns,
        "stale_days": STALE_DAYS,
        "rules": await read_rules(connection),
        "names": {row["id"]: row["label"] for row in users},
        "owners": await owner_names(connection, user, view.sales_owner),
    }
    if wants_part(request, "board"):
        response = page(request, "_board.html", **context)
        response.headers["HX-Push-Url"] = view.address(request.url.path)
        return response
    choices = await request.app.state.choices.get(connection, user)
    return page(request, "board.html", choices=choices, users=users, **context)


async def _columns(
    connection: AsyncConnection[DictRow],
    user: User,
    unchanged: Unchanged,
    fields: Fields,
    view: View,
) -> list[tuple[str, list[dict[str, Any]], int, str]]:
    """Return of each state its name, cards, total, and the query of the list of all of them."""
    # The most valuable first, unless crm.yml lets no list be sorted by value.
    sort = "-deal_value" if fields.can_sort("deal_value") else None
    columns = []
    for state in MOVES:
        of_state = view.model_copy(
            update={
                "workflow_status": [state],
                "crm_outcome": OPEN,
                "sort": sort,
                "limit": CARDS,
                "cursor": None,
            }
        )
        deals, total, _ = await read_deals(connection, user, unchanged, fields, of_state)
        columns.append((state, deals, total, of_state.query(limit=None)))
    return columns
