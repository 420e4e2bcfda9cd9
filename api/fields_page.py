"""The console's page of fields: what is declared, what is new in the CRM, and a check of both."""

import asyncio
import json
import os
import sys
from typing import Any, LiteralString

from fastapi import Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import CurrentUser, Role, UserWithoutConnection
from api.console.pages import console_router, page
from api.database import Connection, connection_of
from api.problems import ProblemError
from database.environment import ROOT

# A request may take a minute.
CHECK_SECONDS = 50
_FIELDS: LiteralString = "select * from fields order by position"
_NEWS: LiteralString = """
select kind, attribute, detail, advice, since
from field_news
order by since desc, kind, attribute
limit 200
"""

router = console_router()


@router.get("/admin/fields")
async def show_fields(request: Request, user: CurrentUser, connection: Connection) -> Response:
    """Show the declared fields, and what has changed in the CRM's attributes."""
    user.must_be(Role.ADMIN)
    return page(request, "fields.html", findings=None, **await _declared(connection))


@router.post("/admin/fields/check")
async def check_fields(request: Request, user: UserWithoutConnection) -> Response:
    """Compare crm.yml with the CRM and the database, and show what the next sync would change."""
    user.must_be(Role.ADMIN)
    findings = await _check(request.app.state.database_url)
    async with connection_of(request) as connection:
        return page(request, "fields.html", findings=findings, **await _declared(connection))


async def _declared(connection: AsyncConnection[DictRow]) -> dict[str, Any]:
    return {
        "fields": await (await connection.execute(_FIELDS)).fetchall(),
        "news": await (await connection.execute(_NEWS)).fetchall(),
    }


async def _check(database_url: str) -> list[DictRow]:
    """Run `make check` in a process of its own: it asks the CRM, and changes its environment.

    Raises:
        ProblemError: 503, it took too long, or failed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "orchestrate.check",
        "--json",
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            printed, _ = await process.communicate()
        findings: list[dict[str, Any]] = json.loads(printed)
    except TimeoutError as error:
        raise ProblemError(503, "The check took too long: run make check on the server.") from error
    except json.JSONDecodeError as error:
        raise ProblemError(503, "The check failed: run make check on the server.") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return findings
