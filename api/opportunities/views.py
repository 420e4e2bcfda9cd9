"""Saved views of the list and of the board, of a user's own or for everybody."""

from collections.abc import Iterable
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal, LiteralString, get_origin
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Response
from fastapi.exceptions import RequestValidationError
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field, ValidationError

from api.audit import record
from api.auth import CurrentUser, Role, Scope, User
from api.database import Connection, fetch_one, fetch_or_404
from api.fields import CurrentFields, Fields
from api.opportunities.schemas import PageRequest, SortKey
from api.problems import ProblemError, answers
from api.types import Input, PathId
from declared.fields import BUILT_IN, BUILT_IN_PARAMETERS

router = APIRouter(prefix="/api/views", tags=["opportunities"])

MOST = 100
"""So many views may each user have."""
KNOWN = {*PageRequest.model_fields, "columns"}

LIST: LiteralString = """
select
    saved_views.id, page, saved_views.name, query, is_shared, created_by,
    coalesce(users.full_name, users.name) as created_by_name, saved_views.created_at
from saved_views
join users on users.id = created_by
where (is_shared or created_by = %(user_id)s) and (%(page)s::text is null or page = %(page)s)
order by is_shared, lower(saved_views.name), saved_views.id
"""
COUNT: LiteralString = "select count(*) from saved_views where created_by = %s"
FIND: LiteralString = """
select id, name, query, is_shared from saved_views
where created_by = %(user_id)s and page = %(page)s and name = %(name)s
"""
SAVE: LiteralString = """
insert into saved_views (page, name, query, is_shared, created_by)
values (%(page)s, %(name)s, %(query)s, %(is_shared)s, %(user_id)s)
on conflict (created_by, page, name) do update
set query = excluded.query, is_shared = excluded.is_shared
returning id
"""
GET: LiteralString = """
select id, page, name, query, is_shared, created_by from saved_views
where id = %s and (is_shared or created_by = %s)
for update
"""
DELETE: LiteralString = "delete from saved_views where id = %s"

PageName = Literal["list", "board"]


class SavedView(BaseModel):
    """A view by its name."""

    id: int
    page: PageName
    name: str
    query: str = Field(
        description="Of the address of the page; its parameters are those of "
        "`GET /api/opportunities`, and `columns`",
        examples=["geo=EMEA&sort=-deal_value"],
    )
    is_shared: bool = Field(description="Whether everybody has it, or its maker alone")
    created_by: int
    created_by_name: str
    created_at: datetime
    closed: list[str] = Field(
        description="Its parameters that lists do not have any more, since crm.yml has changed: "
        "the console leaves them out, and says so"
    )


class NewView(Input):
    """A view to save; one of the same name, page and maker is replaced."""

    name: str = Field(min_length=1, max_length=60, pattern=r"^[^\x00]*\S[^\x00]*$")
    page: PageName = "list"
    query: str = Field("", max_length=4000, description="As in an address, without `?`")
    is_shared: bool = Field(False, strict=True)


def closed_in(fields: Fields, names: Iterable[str], sort: str | None) -> list[str]:
    """Return the parameters of lists, among those with these names, that there are no more."""
    closed = [
        name
        for name in names
        if not fields.can_filter(name) or not (name in KNOWN or name in fields.parameters)
    ]
    if sort is not None and sort.removeprefix("-") not in fields.sort_keys(SortKey):
        closed.append("sort")
    return closed


def title_of(fields: Fields, parameter: str) -> str:
    """Return what people call a parameter of lists."""
    if parameter == "sort":
        return "the order"
    for name, parameters in BUILT_IN_PARAMETERS.items():
        if parameter in parameters:
            return fields.title(name, BUILT_IN[name].label or name)
    known = fields.parameters.get(parameter)
    return fields.labels[known.field.name] if known else parameter


def _given(query: str) -> dict[str, list[str]]:
    try:
        return parse_qs(query, max_num_fields=500)
    except ValueError:
        raise ProblemError(422, "body.query: it has too many parameters") from None


def _check(fields: Fields, query: str) -> None:
    """Refuse a query that no list has.

    Raises:
        ProblemError: 422.
    """
    given = _given(query)
    lists = {
        name
        for name, field in PageRequest.model_fields.items()
        if get_origin(field.annotation) is list
    }
    values: dict[str, Any] = {
        name: found if name in lists or len(found) > 1 else found[0]
        for name, found in given.items()
        if name != "columns"
    }
    try:
        wanted = PageRequest.model_validate(values)
        fields.parse(wanted.model_extra)
    except (ValidationError, RequestValidationError) as error:
        words = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()[:3])
        raise ProblemError(422, f"body.query: {words}") from None
    if closed := closed_in(fields, given, wanted.sort):
        raise ProblemError(422, f"body.query: lists have no {', '.join(closed)}")


async def list_views(
    connection: AsyncConnection[DictRow], user: User, fields: Fields, page: PageName | None = None
) -> list[dict[str, Any]]:
    """List the views that a user has, the own ones first."""
    user.must_be(Role.VIEWER)
    found = await connection.execute(LIST, {"user_id": user.id, "page": page})
    views = []
    for row in await found.fetchall():
        given = parse_qs(row["query"])
        views.append(row | {"closed": closed_in(fields, given, given.get("sort", [None])[-1])})
    return views


async def save_view(
    connection: AsyncConnection[DictRow], user: User, fields: Fields, new: NewView
) -> dict[str, Any]:
    """Save a view, in place of one with the same name.

    Raises:
        ProblemError: 409, the user has too many; 422, lists have no such parameters.
    """
    user.must_be(Role.VIEWER, Scope.WORKFLOW)
    _check(fields, new.query)
    values = new.model_dump() | {"name": new.name.strip(), "user_id": user.id}
    states = ("name", "page", "query", "is_shared")
    async with connection.transaction():
        before = await (await connection.execute(FIND, values)).fetchone()
        if before is None and (await fetch_one(connection, COUNT, [user.id]))["count"] >= MOST:
            raise ProblemError(409, f"You have {MOST} views: delete one first.")
        saved: int = (await fetch_one(connection, SAVE, values))["id"]
        await record(
            connection,
            user,
            "create" if before is None else "update",
            "view",
            saved,
            before and {name: before[name] for name in states if name in before},
            {name: values[name] for name in states},
        )
        return next(
            view for view in await list_views(connection, user, fields) if view["id"] == saved
        )


async def delete_view(connection: AsyncConnection[DictRow], user: User, view_id: int) -> None:
    """Delete a view of one's own; a manager deletes what others share.

    Raises:
        ProblemError: 403; 404, the user has no such view.
    """
    user.must_be(Role.VIEWER, Scope.WORKFLOW)
    async with connection.transaction():
        missing = f"There is no view {view_id}."
        view = await fetch_or_404(connection, GET, [view_id, user.id], missing)
        if view["created_by"] != user.id and not user.role.includes(Role.MANAGER):
            raise ProblemError(403, "Its maker or a manager deletes it.")
        await connection.execute(DELETE, [view_id])
        states = {name: view[name] for name in ("name", "page", "query", "is_shared")}
        await record(connection, user, "delete", "view", view_id, states)


@router.get("", response_model=list[SavedView], responses=answers(401, 422))
async def get_views(
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    page: Annotated[PageName | None, Query()] = None,
) -> list[dict[str, Any]]:
    """List the views of the list and of the board: your own, and those that others share."""
    return await list_views(connection, user, fields, page)


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    response_model=SavedView,
    responses=answers(401, 403, 409, 422),
)
async def post_view(
    user: CurrentUser, connection: Connection, fields: CurrentFields, new: NewView
) -> dict[str, Any]:
    """Save a view, in place of your own one with the same name."""
    return await save_view(connection, user, fields, new)


@router.delete(
    "/{id:int}", status_code=HTTPStatus.NO_CONTENT, responses=answers(401, 403, 404, 422)
)
async def remove_view(user: CurrentUser, connection: Connection, view_id: PathId) -> Response:
    """Delete a view of your own; a manager deletes what others share."""
    await delete_view(connection, user, view_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)
