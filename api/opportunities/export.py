"""The export of opportunities: everything that matches, streamed from PostgreSQL's COPY."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from api.auth import CurrentUser, Role
from api.database import Pool
from api.opportunities import queries
from api.opportunities.schemas import Listing
from api.problems import ProblemError, answers

router = APIRouter(prefix="/api/opportunities", tags=["opportunities"])

CHUNK_BYTES = 64 * 1024
# Each holds a connection for as long as its reader takes; others need some too.
AT_ONCE_MOST = 3


class Format(StrEnum):
    """How to write rows."""

    CSV = "csv"
    NDJSON = "ndjson"


class Export(Listing):
    """What to export, and how."""

    format: Format = Field(
        Format.CSV,
        description="`csv`: for spreadsheets; `ndjson`: for programs, a JSON object on each line",
    )


CONTENT_TYPES = {Format.CSV: "text/csv; charset=utf-8", Format.NDJSON: "application/x-ndjson"}


@router.get(
    "/export",
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
    request: Request, user: CurrentUser, wanted: Annotated[Export, Query()]
) -> StreamingResponse:
    """Stream all opportunities that fulfil every condition, as of one moment.

    In CSV a text that begins with `=`, `+`, `-`, `@`, a tab or a line break, with which a
    spreadsheet begins a formula, gets a `'` before it. Numbers, dates and `remote_id` are as
    they are, and so is everything in NDJSON.
    """
    user.must_be(Role.VIEWER)
    at_once: asyncio.Semaphore = request.app.state.exports
    if at_once.locked():
        detail = "Several exports are under way. Wait for one of them to end."
        raise ProblemError(503, detail, headers={"Retry-After": "10"})
    conditions = queries.conditions(wanted)
    query = queries.export(
        tuple(conditions), wanted.key, wanted.descending, wanted.format is Format.CSV
    )
    chunks = _copy(at_once, request.app.state.pool, query, conditions | {"search": wanted.search})
    first = await anext(chunks, b"")  # an error of the query still gets an answer of its own
    return StreamingResponse(
        _follow(request, first, chunks),
        media_type=CONTENT_TYPES[wanted.format],
        headers={
            "Content-Disposition": f'attachment; filename="opportunities.{wanted.format}"',
        },
    )


async def _copy(
    at_once: asyncio.Semaphore, pool: Pool, query: bytes, parameters: dict[str, Any]
) -> AsyncGenerator[bytes]:
    # Of the transaction, so that the connection goes back to the pool as it came, also after an
    # error: the reader sets the pace.
    limit = "set local statement_timeout = '30min'"
    async with at_once, pool.connection() as connection, connection.transaction():
        await connection.execute(limit)
        buffer = bytearray()
        async with connection.cursor().copy(query, parameters) as rows:
            try:
                async for row in rows:
                    buffer += row
                    if len(buffer) >= CHUNK_BYTES:
                        yield bytes(buffer)
                        buffer.clear()
            except (GeneratorExit, asyncio.CancelledError):
                await connection.close()  # the reader has gone: ends the COPY at once
                raise
    yield bytes(buffer)


async def _follow(
    request: Request, first: bytes, chunks: AsyncGenerator[bytes]
) -> AsyncIterator[bytes]:
    async with aclosing(chunks):
        yield first
        async for chunk in chunks:
            if await request.is_disconnected():
                return
            yield chunk
