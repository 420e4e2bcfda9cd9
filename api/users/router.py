"""The endpoints of users."""

from fastapi import APIRouter, Request
from psycopg.rows import DictRow

from api.auth import CurrentUser
from api.database import Connection
from api.problems import answers
from api.types import PathId
from api.users import service
from api.users.links import make_link
from api.users.schemas import (
    HeldFunction,
    HeldFunctions,
    NewUser,
    PasswordLinkAnswer,
    UserAnswer,
    UserChange,
)

router = APIRouter(prefix="/api/users", tags=["users"])


@router.get("", response_model=list[UserAnswer], responses=answers(401, 403))
async def list_users(user: CurrentUser, connection: Connection) -> list[DictRow]:
    """List all users: deals are assigned to them."""
    return await service.list_users(connection, user)


@router.post("", status_code=201, response_model=UserAnswer, responses=answers(401, 403, 409, 422))
async def create_user(user: CurrentUser, connection: Connection, new: NewUser) -> DictRow:
    """Create a user, a person or a service. Only an admin who signed in can give a password."""
    return await service.create_user(connection, user, new)


@router.get("/{id:int}", response_model=UserAnswer, responses=answers(401, 403, 404, 422))
async def get_user(user: CurrentUser, connection: Connection, user_id: PathId) -> DictRow:
    """Get a user."""
    return await service.get_user(connection, user, user_id)


@router.patch("/{id:int}", response_model=UserAnswer, responses=answers(401, 403, 404, 409, 422))
async def change_user(
    user: CurrentUser,
    request: Request,
    connection: Connection,
    user_id: PathId,
    change: UserChange,
) -> DictRow:
    """Change a user. A new password, or barring them, ends all their access; a role, sessions."""
    ways = request.app.state.settings
    return await service.change_user(connection, user, user_id, change, ways)


@router.get(
    "/{id:int}/functions", response_model=list[HeldFunction], responses=answers(401, 403, 404, 422)
)
async def list_functions(
    user: CurrentUser, connection: Connection, user_id: PathId
) -> list[DictRow]:
    """List the functions that a user has beside the role: one's own, or a manager anybody's."""
    return await service.list_functions(connection, user, user_id)


@router.put(
    "/{id:int}/functions", response_model=list[HeldFunction], responses=answers(401, 403, 404, 422)
)
async def set_functions(
    user: CurrentUser, connection: Connection, user_id: PathId, functions: HeldFunctions
) -> list[DictRow]:
    """Give a user exactly these functions, of those that crm.yml declares."""
    return await service.set_functions(connection, user, user_id, functions)


def address_of(request: Request, secret: str) -> str:
    """Return the link with a secret, as browsers call the console."""
    return f"{request.base_url}set-password#{secret}"


@router.post(
    "/{id:int}/password-link",
    status_code=201,
    response_model=PasswordLinkAnswer,
    responses=answers(401, 403, 404, 409, 422),
)
async def make_password_link(
    user: CurrentUser, request: Request, connection: Connection, user_id: PathId
) -> dict[str, object]:
    """Make a link with which a user sets a password, once: an admin passes it on.

    It ends the one before, and expires after `PASSWORD_LINK_HOURS`.
    """
    made = await make_link(connection, user, user_id, request.app.state.settings)
    return {"link": address_of(request, made.secret), "expires_at": made.expires_at}


@router.delete("/{id:int}/access", status_code=204, responses=answers(401, 403, 404, 422))
async def end_access(user: CurrentUser, connection: Connection, user_id: PathId) -> None:
    """End all sessions of a user and revoke all tokens: one's own, or an admin anybody's."""
    await service.end_access(connection, user, user_id)


@router.delete("/{id:int}/lock", status_code=204, responses=answers(401, 403, 404, 422))
async def unlock(user: CurrentUser, connection: Connection, user_id: PathId) -> None:
    """Forget the wrong passwords that were tried with a user's name."""
    await service.unlock(connection, user, user_id)
