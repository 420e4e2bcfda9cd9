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
from api.opportunities.page import View, value_filters, value_key, views_of
from api.opportunities.schemas import OPEN
from api.opportunities.service import (
    STALE_DAYS,
    read_deals,
    read_reporting_currency,
    read_sums,
)
from api.opportunities.turns import given_up_in_time
from api.opportunities.unchanged import Unchanged, unchanged_for
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
    reporting = await read_reporting_currency(connection, user)
    view, closed = view.without_closed(fields)
    async with given_up_in_time(request):
        lanes = await _lanes(
            connection, user, unchanged_for(request, user.seen), fields, view, reporting
        )
    users = await people(connection, user)
    context: dict[str, Any] = {
        "view": view,
        "fields": fields,
        "lanes": lanes,
        "reporting": reporting,
        "value_filters": value_filters(reporting),
        "stale_days": STALE_DAYS,
        "rules": await read_rules(connection),
        "names": {row["id"]: row["label"] for row in users},
        "owners": await owner_names(connection, user, view.sales_owner),
        "closed": closed,
        "asked": view.query(),
        "whole_query": view.query(),
    }
    context |= await views_of(connection, user, fields, "board", [("All", "")])
    if wants_part(request, "board"):
        response = page(request, "_changed_board.html", **context)
        response.headers["HX-Push-Url"] = view.address(request.url.path)
        return response
    choices = await request.app.state.choices.get(connection, user)
    return page(request, "board.html", choices=choices, users=users, **context)


async def _lanes(
    connection: AsyncConnection[DictRow],
    user: User,
    unchanged: Unchanged,
    fields: Fields,
    view: View,
    reporting: str | None,
) -> list[dict[str, Any]]:
    """Return of each state its name, cards, total, sums, and the query of the list of them all."""
    # The most valuable first, unless crm.yml lets no list be sorted by value.
    sort = f"-{value_key(reporting)}" if fields.can_sort("deal_value") else None
    of_board = view.model_copy(
        update={
            "workflow_status": list(MOVES),
            "crm_outcome": OPEN,
            "sort": sort,
            "limit": CARDS,
            "cursor": None,
        }
    )
    sums = await read_sums(connection, user, unchanged, fields, of_board, by_state=True)
    lanes = []
    for state in MOVES:
        of_state = of_board.model_copy(update={"workflow_status": [state]})
        own = [row for row in sums if row["workflow_status"] == state]
        total = sum(row["deals"] for row in own)
        deals, _, _ = await read_deals(connection, user, unchanged, fields, of_state, total)
        query = of_state.query(limit=None)
        lanes.append({"state": state, "deals": deals, "total": total, "sums": own, "query": query})
    return lanes
