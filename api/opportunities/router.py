"""The endpoints of opportunities."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from api.auth import Viewer
from api.caching import json_response
from api.database import Connection
from api.opportunities import queries
from api.opportunities.cursor import Cursor, decode, digest
from api.opportunities.schemas import Opportunity, Page, PageRequest
from api.opportunities.totals import Totals
from api.problems import ProblemError, answers
from api.types import Id, Text

router = APIRouter(prefix="/api", tags=["opportunities"])


@router.get("/opportunities", response_model=Page, responses=answers(401, 422))
async def list_opportunities(
    request: Request,
    _: Viewer,
    connection: Connection,
    wanted: Annotated[PageRequest, Query()],
) -> Response:
    """List the opportunities that fulfil every condition, a page at a time.

    The next page begins after the last row of the one before: rows that a sync adds or takes
    away meanwhile are neither skipped nor given twice.
    """
    conditions = queries.conditions(wanted)
    listing = digest(conditions, wanted.key, wanted.descending)
    after = None if wanted.cursor is None else decode(wanted.cursor, listing)
    totals: Totals = request.app.state.totals
    total = after.total if after else await totals.get(connection, conditions)

    query = queries.page(tuple(conditions), wanted.key, wanted.descending, after is not None)
    parameters = conditions | {"search": wanted.search, "limit": wanted.limit + 1}
    if after is not None:
        parameters |= {"after_key": after.key, "after_id": after.id}
    rows = await (await connection.execute(query, parameters)).fetchall()

    next_cursor = None
    if len(rows) > wanted.limit:
        rows.pop()
        next_cursor = Cursor(listing, total, rows[-1]["key"], rows[-1]["id"]).encode()
    items = ",".join(row["item"] for row in rows)
    return json_response(
        request,
        f'{{"items":[{items}],"total":{total},"next_cursor":{json.dumps(next_cursor)}}}',
    )


@router.get("/opportunities/{id}", response_model=Opportunity, responses=answers(401, 404, 422))
async def get_opportunity(
    request: Request,
    _: Viewer,
    connection: Connection,
    id: Annotated[Id, Path()],  # noqa: A002
) -> Response:
    """Get an opportunity by its id here."""
    row = await (await connection.execute(queries.ITEM_BY_ID, [id])).fetchone()
    if row is None:
        raise ProblemError(404, f"There is no opportunity {id}.")
    return json_response(request, row["item"])


@router.get(
    "/oracle-opportunity/{remote_id}", response_model=Opportunity, responses=answers(401, 404, 422)
)
async def get_oracle_opportunity(
    request: Request, _: Viewer, connection: Connection, remote_id: Annotated[Text, Path()]
) -> Response:
    """Get an opportunity by the CRM's OptyId."""
    row = await (await connection.execute(queries.ITEM_BY_REMOTE_ID, [remote_id])).fetchone()
    if row is None:
        raise ProblemError(404, f"The CRM has shown no opportunity {remote_id}.")
    return json_response(request, row["item"])
