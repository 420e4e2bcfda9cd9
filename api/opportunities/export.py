"""The export: all opportunities of a list as a table, lines of JSON, or a workbook."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.audit import record
from api.auth import Role, User
from api.fields import Fields
from api.limits import Limit
from api.opportunities import queries
from api.opportunities.choices import people
from api.opportunities.schemas import Export, Opportunity
from api.opportunities.service import conditions_of
from api.opportunities.unchanged import Unchanged
from api.problems import ProblemError
from api.spreadsheets import Format, Workbook
from declared.fields import Field

CHUNK_BYTES = 64 * 1024
# Each export holds a connection for as long as its reader takes; others need some too.
EXPORTS_AT_ONCE = 3
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
BYTE_ORDER_MARK = "\ufeff".encode()
KINDS = {date: "date", datetime: "timestamp"}

Connections = Callable[[], AbstractAsyncContextManager[AsyncConnection[DictRow]]]


async def export(
    connections: Connections,
    at_once: asyncio.Semaphore,
    of_one: Limit,
    user: User,
    unchanged: Unchanged,
    fields: Fields,
    wanted: Export,
) -> AsyncGenerator[bytes]:
    """Yield all opportunities that fulfil every condition, as of one moment, in chunks of bytes.

    Raises:
        RequestValidationError: before the first chunk: 422, there is no such column.
        ProblemError: before the first chunk: 429, the user has some under way; 503, others have.
    """
    user.must_be(Role.VIEWER)
    if at_once.locked():
        detail = "Several exports are under way. Wait for one of them to end."
        raise ProblemError(503, detail, headers={"Retry-After": "10"})
    columns = _columns(fields, wanted.columns)
    async with AsyncExitStack() as taken:
        taken.enter_context(of_one.count(f"user {user.name}"))
        await taken.enter_async_context(at_once)
        chunks = _copy(connections, user, unchanged, fields, wanted, columns)
        if wanted.format is Format.XLSX:
            async with connections() as connection:
                users = await people(connection, user)
            names = {person["id"]: person["label"] for person in users}
            chunks = _as_workbook(chunks, columns, fields, names)
        mark = BYTE_ORDER_MARK if wanted.byte_order_mark else b""
        async with aclosing(chunks):
            async for chunk in chunks:
                yield mark + chunk
                mark = b""


def _columns(fields: Fields, wanted: Iterable[str]) -> dict[str, Field | None]:
    """Return the columns of a table; own ones with their fields."""
    known: dict[str, Field | None] = dict.fromkeys(Opportunity.model_fields)
    known.pop("custom")
    known |= {field.name: field for field in fields.own}
    if unknown := sorted(set(wanted) - known.keys()):
        words = f"There is no field {unknown[0][:100]!r}"
        raise RequestValidationError(
            [{"loc": ("query", "columns"), "msg": words, "type": "columns"}]
        )
    return {name: known[name] for name in wanted} or known


async def _copy(
    connections: Connections,
    user: User,
    unchanged: Unchanged,
    fields: Fields,
    wanted: Export,
    columns: dict[str, Field | None],
) -> AsyncGenerator[bytes]:
    """Yield what PostgreSQL copies out, whole rows at a time: CSV, or else lines of JSON."""
    # Of the transaction, so that the connection goes back to the pool as it came, also after an
    # error: the reader sets the pace.
    limit = "set local statement_timeout = '30min'"
    async with connections() as connection:
        conditions = await conditions_of(connection, user, unchanged, fields, wanted)
        query = queries.export(
            fields,
            tuple(conditions),
            wanted.key,
            wanted.descending,
            columns if wanted.format is Format.CSV else None,
            SEPARATORS[wanted.separator],
        )
        # Before the first row, so that it is there whatever becomes of the reader.
        export_id = uuid.uuid4()
        asked = wanted.model_dump(mode="json", exclude_defaults=True)
        await record(connection, user, "export", "opportunities", export_id, after=asked)
        async with connection.transaction():
            await connection.execute(limit)
            buffer = bytearray()
            parameters = conditions | {"search": wanted.search}
            cursor = connection.cursor()
            async with cursor.copy(query, parameters) as rows:
                try:
                    async for row in rows:
                        buffer += row
                        if len(buffer) >= CHUNK_BYTES:
                            yield bytes(buffer)
                            buffer.clear()
                except (GeneratorExit, asyncio.CancelledError):
                    await connection.close()  # the reader has gone: ends the COPY at once
                    raise
            sent = {"rows": cursor.rowcount}
            await record(connection, user, "finish export", "opportunities", export_id, after=sent)
    yield bytes(buffer)


async def _as_workbook(
    chunks: AsyncGenerator[bytes],
    columns: dict[str, Field | None],
    fields: Fields,
    people: dict[int, str],
) -> AsyncGenerator[bytes]:
    """Yield a workbook of lines of JSON.

    Its bytes come after the last line has been read. Until then come empty chunks, the first one
    after the first line: the query has no error, so the answer begins, and has no time limit.
    """

    def row_of(line: bytes) -> list[Any]:
        item = json.loads(line, parse_int=Decimal, parse_float=Decimal)
        item["assigned_to"] = people.get(item["assigned_to"], item["assigned_to"])
        item["sales_owner"] = item["sales_owner_name"] or item["sales_owner"]
        return [
            item[name] if field is None else item["custom"][name] for name, field in columns.items()
        ]

    def write(lines: bytes) -> None:
        book.write(map(row_of, lines.splitlines()))

    with TemporaryDirectory(prefix="export-") as folder:
        path = Path(folder) / "opportunities.xlsx"
        titles = [(_title(fields, name), _kind(name, field)) for name, field in columns.items()]
        book = Workbook(path, "Opportunities", titles)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield b""
                # If the reader goes, the thread's work ends before its files and its place go.
                await run_in_threadpool(write, chunk)
        await run_in_threadpool(book.close)
        with path.open("rb") as file:
            while part := file.read(CHUNK_BYTES):
                yield part


def _title(fields: Fields, name: str) -> str:
    return fields.labels.get(name) or name.replace("_", " ").capitalize()


def _kind(name: str, field: Field | None) -> str:
    if field is not None:
        return field.type or "text"
    annotation = Opportunity.model_fields[name].annotation
    types = {annotation, *get_args(annotation)}
    return next((kind for type_, kind in KINDS.items() if type_ in types), "text")
