"""What FastAPI's part is measured by: the same page by plain ASGI, with the API's own SQL.

`uvicorn tests.api.plain:app`, with DATABASE_URL. It has no sign-in, no validation, no limits, no
ETag and no log.
"""

import os
from urllib.parse import parse_qs

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from starlette.types import Receive, Scope, Send

from api.database import Pool
from api.fields import Fields
from api.opportunities.queries import page, total
from api.opportunities.schemas import SortKey

NAMES = ("stage", "existing")
PAGE = page(Fields(), NAMES, SortKey.DEAL_VALUE, True, False)
TOTAL = total(Fields(), NAMES)

pool: Pool = AsyncConnectionPool(
    os.environ["DATABASE_URL"],
    kwargs={
        "autocommit": True,
        "row_factory": dict_row,
        "options": "-cplan_cache_mode=force_custom_plan -cjit=off",
    },
    min_size=1,
    max_size=10,
    open=False,
)
totals: dict[str, int] = {}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the page that the benchmark asks for: filtered, and sorted by value."""
    if scope["type"] == "lifespan":
        await receive()
        await pool.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await pool.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    query = parse_qs(scope["query_string"].decode())
    stage, limit = query["stage"][0], int(query["limit"][0])
    async with pool.connection() as connection:
        if stage not in totals:
            found = await (await connection.execute(TOTAL, {"stage": [stage]})).fetchone()
            totals[stage] = found["count"] if found else 0
        rows = await connection.execute(PAGE, {"stage": [stage], "limit": limit})
        items = ",".join([row["item"] async for row in rows])
    body = f'{{"items":[{items}],"total":{totals[stage]}}}'.encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
