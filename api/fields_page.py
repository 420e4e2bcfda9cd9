"""The console's page of fields: what is declared, what is new in the CRM, and a check of both."""

from typing import Any, LiteralString

from fastapi import Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api import checks
from api.auth import CurrentUser, Role, UserWithoutConnection
from api.console.pages import console_router, page
from api.database import Connection, connection_of

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
    findings = await checks.findings(request.app.state.database_url, "orchestrate.check")
    async with connection_of(request) as connection:
        return page(request, "fields.html", findings=findings, **await _declared(connection))


async def _declared(connection: AsyncConnection[DictRow]) -> dict[str, Any]:
    return {
        "fields": await (await connection.execute(_FIELDS)).fetchall(),
        "news": await (await connection.execute(_NEWS)).fetchall(),
    }
