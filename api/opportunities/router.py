"""The endpoints of opportunities."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from psycopg.rows import DictRow
from starlette.types import Receive, Scope, Send

from api.auth import CurrentUser, UserWithoutConnection
from api.caching import IfMatch, json_response
from api.database import Connection, connection_of
from api.fields import CurrentFields
from api.opportunities import service
from api.opportunities.export import export
from api.opportunities.schemas import (
    Export,
    HistoryRequest,
    MoveRefused,
    Opportunity,
    OpportunityChange,
    Page,
    PageRequest,
    PastChange,
)
from api.opportunities.turns import given_up_in_time, take_turn
from api.opportunities.unchanged import unchanged_for
from api.problems import answers
from api.spreadsheets import CONTENT_TYPES
from api.types import PathId, Text

router = APIRouter(prefix="/api", tags=["opportunities"])


@router.get(
    "/opportunities",
    response_model=Page,
    responses=answers(401, 422),
    # Before anything of the request, its sign-in included, takes the database's time.
    dependencies=[Depends(take_turn)],
)
async def list_opportunities(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    wanted: Annotated[PageRequest, Query()],
) -> Response:
    """List the opportunities that fulfil every condition, a page at a time.

    The next page begins after the last row of the one before: rows that a sync adds or takes
    away meanwhile are neither skipped nor given twice.
    """
    async with given_up_in_time(request):
        rows, total, next_cursor = await service.read_page(
            connection, user, unchanged_for(request, user.seen), fields, wanted
        )
    items = ",".join(row["item"] for row in rows)
    return json_response(
        request,
        f'{{"items":[{items}],"total":{total},"next_cursor":{json.dumps(next_cursor)}}}',
    )


@router.get(
    "/opportunities/export",
    response_class=StreamingResponse,
    responses=answers(401, 422, 503)
    | {
        200: {
            "description": "All that match",
            "content": {type_.split(";")[0]: {"schema": {}} for type_ in CONTENT_TYPES.values()},
        }
    },
)
async def export_opportunities(
    request: Request,
    user: UserWithoutConnection,
    fields: CurrentFields,
    wanted: Annotated[Export, Query()],
) -> StreamingResponse:
    """Stream all opportunities that fulfil every condition, as of one moment.

    In CSV a text that begins with `=`, `+`, `-`, `@`, a tab or a line break, with which a
    spreadsheet begins a formula, gets a `'` before it, also after a `;`, where a cell ends in
    many countries. Numbers, dates and `remote_id` are as they are, and so is everything in NDJSON.
    In a workbook the types of cells prevent formulas, and the users and owners have their names.
    """
    state = request.app.state
    connections = partial(connection_of, request)
    chunks = export(
        connections, state.exports, state.limits.exports, user, state.unchanged, fields, wanted
    )
    first = await anext(chunks, b"")  # an error of the query still gets an answer of its own
    return _ClosedInTime(
        _follow(request, first, chunks),
        media_type=CONTENT_TYPES[wanted.format],
        headers={
            "Content-Disposition": f'attachment; filename="opportunities.{wanted.format}"',
        },
    )


@router.get("/opportunities/{id:int}", response_model=Opportunity, responses=answers(401, 404, 422))
async def get_opportunity(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    opportunity_id: PathId,
) -> Response:
    """Get an opportunity by its id here."""
    return json_response(request, await service.get_item(connection, user, fields, opportunity_id))


@router.get(
    "/oracle-opportunity/{remote_id}", response_model=Opportunity, responses=answers(401, 404, 422)
)
async def get_oracle_opportunity(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    remote_id: Annotated[Text, Path()],
) -> Response:
    """Get an opportunity by the CRM's OptyId."""
    item = await service.get_item_by_remote_id(connection, user, fields, remote_id)
    return json_response(request, item)


@router.patch(
    "/opportunities/{id:int}",
    response_model=Opportunity,
    responses=answers(401, 404, 412, 422, 503)
    | {403: {"model": MoveRefused}, 409: {"model": MoveRefused}},
)
async def patch_opportunity(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    opportunity_id: PathId,
    change: OpportunityChange,
    if_match: IfMatch = None,
) -> Response:
    """Move a deal in the workflow, or assign it. A sync leaves that alone while it is open.

    Only an assessment leads to PENDING_REVIEW, APPROVED and REJECTED: submit and decide it. Where
    crm.yml declares `require_assessment: false`, this does, too.
    """
    wanted = change.model_dump(exclude_unset=True)
    change_made = await service.change(
        connection, user, fields, opportunity_id, wanted, if_match=if_match
    )
    return json_response(request, change_made.item)


@router.get(
    "/opportunities/{id:int}/history",
    response_model=list[PastChange],
    responses=answers(401, 404, 422),
)
async def list_changes(
    user: CurrentUser,
    connection: Connection,
    opportunity_id: PathId,
    wanted: Annotated[HistoryRequest, Query()],
) -> list[DictRow]:
    """List what the CRM and the bid team changed on an opportunity, the newest first."""
    return await service.list_changes(connection, user, opportunity_id, wanted)


class _ClosedInTime(StreamingResponse):
    """Ends its export when its reader goes, not when the memory is tidied up."""

    body_iterator: AsyncGenerator[bytes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


async def _follow(
    request: Request, first: bytes, chunks: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    async with aclosing(chunks):
        yield first
        async for chunk in chunks:
            if await request.is_disconnected():
                return
            yield chunk
