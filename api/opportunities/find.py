"""What Ctrl-K finds: deals by words or numbers, people, views and pages."""

from collections.abc import Iterable
from typing import Annotated, Any, LiteralString, NamedTuple

from fastapi import Query, Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field

from api.auth import CurrentUser, Role, User
from api.console.pages import console_router, page
from api.database import Connection
from api.fields import CurrentFields, Fields
from api.opportunities import service, views
from api.opportunities.page import View, presets
from api.opportunities.turns import given_up_in_time
from api.opportunities.unchanged import unchanged_for
from api.workflow import read_rules

router = console_router()

MOST_DEALS = 8
MOST = 5
PAGES = (
    ("Today", "/today"),
    ("Opportunities", "/opportunities"),
    ("Board", "/board"),
    ("Dashboard", "/dashboard"),
    ("Sync", "/sync"),
    ("Rejected records", "/sync/rejects"),
    ("Account and tokens", "/account"),
)
PAGES_OF_ADMINS = (
    ("Users", "/admin/users"),
    ("Fields", "/admin/fields"),
    ("Audit trail", "/admin/audit"),
    ("Erasure", "/admin/erasure"),
)
PEOPLE: LiteralString = """
(
    select coalesce(full_name, name) as label, id::text as key, true as is_user
    from users
    where active and lower(concat_ws(' ', full_name, name)) like %(pattern)s
    order by 1
    limit %(limit)s
)
union all
(
    select name, remote_id, false
    from sales_owners
    where lower(name) like %(pattern)s and %(has_owners)s
    order by 1
    limit %(limit)s
)
"""


class Found(NamedTuple):
    """A place to go to."""

    words: str
    path: str
    note: str = ""


class Wanted(BaseModel):
    """What is looked for."""

    search: str = Field("", max_length=200, pattern="^[^\x00]*$")


@router.get("/find")
async def find(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    wanted: Annotated[Wanted, Query()],
) -> Response:
    """Show the places that fit what is looked for; without anything, where one can go."""
    words = wanted.search.casefold().split()
    groups: dict[str, Iterable[Found]] = {}
    if words:
        async with given_up_in_time(request):
            deals, _, _ = await service.read_deals(
                connection,
                user,
                unchanged_for(request, user.seen),
                fields,
                View.model_validate({"search": wanted.search.strip(), "limit": MOST_DEALS}),
            )
        rules = await read_rules(connection)
        groups["Deals"] = [
            Found(
                (deal["name"] or "").strip() or "(no name)",
                f"/opportunities/{deal['id']}",
                _note(fields, deal, rules.label(deal["workflow_status"])),
            )
            for deal in deals
        ]
        groups["People"] = await _people(connection, user, fields, wanted.search.strip())
    actions = [(name, path) for name, path in PAGES]
    if user.role.includes(Role.ADMIN):
        actions += PAGES_OF_ADMINS
    reporting = await service.read_reporting_currency(connection, user)
    actions += [
        (f"Deals: {name}", f"/opportunities?{query}")
        for name, query in presets(user, fields, reporting)[1:]
    ]
    for view in await views.list_views(connection, user, fields):
        path = "/board" if view["page"] == "board" else "/opportunities"
        actions.append((f"View: {view['name']}", f"{path}?{view['query']}"))
    fitting = [
        Found(name, path)
        for name, path in actions
        if all(word in name.casefold() for word in words)
    ]
    groups["Go to"] = fitting if not words else fitting[:MOST_DEALS]
    return page(request, "_found.html", groups=groups, search=wanted.search)


def _note(fields: Fields, deal: dict[str, Any], status: str) -> str:
    parts = [
        None if fields.is_hidden("opty_number") else deal["opty_number"],
        None if fields.is_hidden("customer") else deal["customer"],
        status,
    ]
    return " · ".join(part for part in parts if part)


async def _people(
    connection: AsyncConnection[DictRow], user: User, fields: Fields, search: str
) -> list[Found]:
    user.must_be(Role.VIEWER)
    escaped = search.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    parameters = {
        "pattern": f"%{escaped}%",
        "limit": MOST,
        "has_owners": fields.offers("sales_owner"),
    }
    found = await (await connection.execute(PEOPLE, parameters)).fetchall()
    owner = fields.title("sales_owner", "Owner")
    return [
        Found(
            row["label"],
            f"/opportunities?{'assigned_to' if row['is_user'] else 'sales_owner'}={row['key']}",
            "Assigned deals" if row["is_user"] else f"{owner} of deals",
        )
        for row in found
    ]
