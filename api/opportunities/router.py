"""The endpoints of opportunities."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import Assessor, Viewer
from api.caching import IfMatch, check_match, etag_of, json_response
from api.database import Connection
from api.opportunities import queries
from api.opportunities.changes import change_opportunity, lock_opportunity
from api.opportunities.cursor import Cursor, decode, digest
from api.opportunities.schemas import (
    HistoryRequest,
    MoveRefused,
    Opportunity,
    OpportunityChange,
    Page,
    PageRequest,
    PastChange,
)
from api.opportunities.totals import Totals
from api.opportunities.turns import take_turn
from api.problems import ProblemError, answers
from api.types import PathId, Text

router = APIRouter(prefix="/api", tags=["opportunities"])


@router.get(
    "/opportunities",
    response_model=Page,
    responses=answers(401, 422),
    # Before anything else of the request, its sign-in included, takes the database's time.
    dependencies=[Depends(take_turn, scope="function")],
)
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
    rows, total, next_cursor = await read_page(request, connection, wanted)
    items = ",".join(row["item"] for row in rows)
    return json_response(
        request,
        f'{{"items":[{items}],"total":{total},"next_cursor":{json.dumps(next_cursor)}}}',
    )


async def read_page(
    request: Request, connection: AsyncConnection[DictRow], wanted: PageRequest
) -> tuple[list[DictRow], int, str | None]:
    """Return a page's rows, each with an `item` as JSON, the list's total and the next cursor."""
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
    return rows, total, next_cursor


@router.get("/opportunities/{id:int}", response_model=Opportunity, responses=answers(401, 404, 422))
async def get_opportunity(
    request: Request,
    _: Viewer,
    connection: Connection,
    opportunity_id: PathId,
) -> Response:
    """Get an opportunity by its id here."""
    return json_response(request, await _item(connection, opportunity_id))


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


@router.patch(
    "/opportunities/{id:int}",
    response_model=Opportunity,
    responses=answers(401, 404, 412, 422, 503)
    | {403: {"model": MoveRefused}, 409: {"model": MoveRefused}},
)
async def patch_opportunity(
    request: Request,
    user: Assessor,
    connection: Connection,
    opportunity_id: PathId,
    change: OpportunityChange,
    if_match: IfMatch = None,
) -> Response:
    """Move a deal in the workflow, or assign it. A sync leaves that alone while it is open."""
    async with connection.transaction():
        if if_match is not None:
            # The row has to stay as it was compared.
            await lock_opportunity(connection, opportunity_id)
            check_match(if_match, etag_of((await _item(connection, opportunity_id)).encode()))
        await change_opportunity(
            connection, user, opportunity_id, change.model_dump(exclude_unset=True)
        )
    return json_response(request, await _item(connection, opportunity_id))


@router.get(
    "/opportunities/{id:int}/history",
    response_model=list[PastChange],
    responses=answers(401, 404, 422),
)
async def list_changes(
    _: Viewer,
    connection: Connection,
    opportunity_id: PathId,
    wanted: Annotated[HistoryRequest, Query()],
) -> list[DictRow]:
    """List what the CRM and the bid team changed on an opportunity, the newest first."""
    parameters = wanted.model_dump() | {"opportunity_id": opportunity_id}
    changes = await (await connection.execute(queries.HISTORY, parameters)).fetchall()
    if not changes:
        await _item(connection, opportunity_id)
    return changes


async def _item(connection: AsyncConnection[DictRow], opportunity_id: int) -> str:
    row = await (await connection.execute(queries.ITEM_BY_ID, [opportunity_id])).fetchone()
    if row is None:
        raise ProblemError(404, f"There is no opportunity {opportunity_id}.")
    item: str = row["item"]
    return item
