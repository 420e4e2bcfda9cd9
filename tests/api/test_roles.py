"""Who may call what: every route, pages included, by every role."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.routing import Mount

from api.app import create_app
from api.auth import Role
from api.token import make_token
from tests.api.conftest import Caller, Command, DefaultSettings, fill

ANYBODY, NOBODY = "anybody", "nobody"
"""No sign-in is needed; none helps, since the route asks for a secret of its own."""


class Call(NamedTuple):
    """The least role that a route takes, and a call of it that makes sense."""

    least: Role | str
    json: Any = None
    form: dict[str, str] | None = None


VIEWER, ASSESSOR, MANAGER, ADMIN = (Call(role) for role in Role)
PASSWORD = "correct horse battery"
CONTENT: dict[str, Any] = {"scores": {}, "summary": "", "recommendation": None}
NEW_USER = {"name": "grace", "role": "viewer"}
ROUTES = {
    # The API
    "GET /api/assessment-criteria": VIEWER,
    "GET /api/assessments": VIEWER,
    "POST /api/assessments": Call(Role.ASSESSOR, {"opportunity_id": 999}),
    "GET /api/assessments/{id:int}": VIEWER,
    "PUT /api/assessments/{id:int}": Call(Role.ASSESSOR, CONTENT),
    "GET /api/assessments/{id:int}/comments": VIEWER,
    "POST /api/assessments/{id:int}/comments": Call(Role.ASSESSOR, {"body": "Good."}),
    "POST /api/assessments/{id:int}/decision": Call(
        Role.MANAGER, {"decision": "APPROVED", "comment": ""}
    ),
    "POST /api/assessments/{id:int}/submit": ASSESSOR,
    "GET /api/audit": ADMIN,
    "GET /api/opportunities": VIEWER,
    "GET /api/opportunities/export": VIEWER,
    "GET /api/opportunities/{id:int}": VIEWER,
    "PATCH /api/opportunities/{id:int}": Call(Role.ASSESSOR, {"workflow_status": "ASSIGNED"}),
    "GET /api/opportunities/{id:int}/history": VIEWER,
    "GET /api/oracle-opportunity/{remote_id}": VIEWER,
    "PUT /api/password": Call(Role.VIEWER, {"present": PASSWORD, "new": f"{PASSWORD}!"}),
    "GET /api/rejected-records": VIEWER,
    "GET /api/schedules": VIEWER,
    "DELETE /api/session": VIEWER,
    "GET /api/session": VIEWER,
    "POST /api/session": Call(NOBODY, {"name": "nobody", "password": PASSWORD}),
    "POST /api/sync-database": MANAGER,
    "GET /api/sync-history": VIEWER,
    "GET /api/sync-runs/{run_id}": VIEWER,
    "POST /api/sync-runs/{run_id}/cancel": MANAGER,
    "GET /api/sync-runs/{run_id}/events": VIEWER,
    "GET /api/sync-status": VIEWER,
    "GET /api/tokens": VIEWER,
    "POST /api/tokens": Call(Role.VIEWER, {"name": "report"}),
    "DELETE /api/tokens/{id:int}": VIEWER,
    "GET /api/users": MANAGER,
    "POST /api/users": Call(Role.ADMIN, NEW_USER),
    "GET /api/users/{id:int}": MANAGER,
    "PATCH /api/users/{id:int}": Call(Role.ADMIN, {}),
    "POST /api/webhooks/oracle": Call(NOBODY),
    "GET /api/workflow": VIEWER,
    # Pages
    "GET /": VIEWER,
    "GET /account": VIEWER,
    "POST /account/password": Call(Role.VIEWER, form={"present": PASSWORD, "new": f"{PASSWORD}!"}),
    "POST /account/tokens": Call(Role.VIEWER, form={"name": "report"}),
    "GET /admin/audit": ADMIN,
    "GET /admin/users": ADMIN,
    "POST /admin/users": Call(Role.ADMIN, form=NEW_USER | {"name": "hedy"}),
    "POST /admin/users/{id}": Call(Role.ADMIN, form={"role": "viewer"}),
    "GET /admin/users/{id}/tokens": ADMIN,
    "GET /board": VIEWER,
    "GET /dashboard": VIEWER,
    "GET /lineage": VIEWER,
    "GET /opportunities": VIEWER,
    "GET /opportunities/{id}": VIEWER,
    "POST /opportunities/{id}/assessment": ASSESSOR,
    "POST /opportunities/{id}/assessments/{assessment_id}": Call(Role.ASSESSOR, form={"etag": "x"}),
    "POST /opportunities/{id}/assessments/{assessment_id}/comments": Call(
        Role.ASSESSOR, form={"body": "Good."}
    ),
    "POST /opportunities/{id}/assessments/{assessment_id}/decision": Call(
        Role.MANAGER, form={"etag": "x", "decision": "APPROVED"}
    ),
    "POST /opportunities/{id}/assign": Call(Role.ASSESSOR, form={"assigned_to": ""}),
    "POST /opportunities/{id}/status": Call(
        Role.ASSESSOR, form={"workflow_status": "ASSIGNED", "seen": "NEW"}
    ),
    "GET /opportunities/{id}/timeline": VIEWER,
    "GET /remote/{remote_id}": VIEWER,
    "POST /score": VIEWER,
    "GET /sync": VIEWER,
    "GET /sync/indicator": VIEWER,
    "GET /sync/rejects": VIEWER,
    "POST /sync/start": MANAGER,
    "POST /sync/{run_id}/cancel": MANAGER,
    "POST /tokens/{id}/revoke": VIEWER,
    # What is there before a sign-in, and for machines
    "GET /docs": Call(ANYBODY),
    "GET /docs/start.js": Call(ANYBODY),
    "GET /health/live": Call(ANYBODY),
    "GET /health/ready": Call(ANYBODY),
    "GET /metrics": VIEWER,
    "GET /openapi.json": Call(ANYBODY),
    "HEAD /openapi.json": Call(ANYBODY),
    "GET /sign-in": Call(ANYBODY),
    "POST /sign-in": Call(NOBODY, form={"name": "nobody", "password": PASSWORD}),
    "POST /sign-out": Call(ANYBODY),
}
VALUES = {
    "{id:int}": "999",
    "{id}": "999",
    "{assessment_id}": "999",
    "{remote_id}": "999",
    "{run_id}": "00000000-0000-0000-0000-000000000000",
}


def routes(app: FastAPI) -> Iterator[str]:
    """Every method and path that a program can call."""
    yield from _of(app.routes)


def _of(found: Iterable[Any]) -> Iterator[str]:
    for route in found:
        if hasattr(route, "original_router"):
            yield from _of(route.original_router.routes)
        elif not _is_folder_of_files(route):
            yield from (f"{method} {route.path}" for method in route.methods)


def _is_folder_of_files(route: Any) -> bool:
    """Tell whether a route gives out files; another application in its place has to be named."""
    return isinstance(route, Mount) and isinstance(route.app, StaticFiles)


def test_it_is_said_of_every_route_who_may() -> None:
    assert sorted(routes(create_app(DefaultSettings(), ""))) == sorted(ROUTES)


@pytest.mark.parametrize("role", [None, *Role])
def test_who_may_and_who_may_not(caller: Caller, command: Command, role: Role | None) -> None:
    fill(caller.database, 1)
    for route, call in ROUTES.items():
        method, path = route.split(" ")
        for name, value in VALUES.items():
            path = path.replace(name, value)
        headers = {"If-Match": '"x"'}
        if role is not None:
            # One for each: a call may revoke it.
            token = make_token(caller.database, role, timedelta(hours=1))
            headers["Authorization"] = f"Bearer {token}"
        caller.headers.pop("Authorization", None)
        caller.cookies.clear()
        answer = caller.request(
            method, path, headers=headers, json=call.json, data=call.form, follow_redirects=False
        )
        to_sign_in = answer.headers.get("location", "").startswith("/sign-in")
        status = 401 if to_sign_in and path != "/sign-out" else answer.status_code
        assert status != 422, f"{route} needs a call that makes sense: {answer.text}"
        if call.least == ANYBODY:
            assert status not in (401, 403), route
        elif call.least == NOBODY or role is None:
            assert status == 401, route
        elif role.includes(Role(call.least)):
            assert status not in (401, 403), route
        else:
            assert status == 403, route


def test_the_administration_shows_a_manager_not_even_their_own_tokens(caller: Caller) -> None:
    caller.be(Role.MANAGER)
    own = caller.get("/api/session").json()["id"]
    assert caller.get(f"/admin/users/{own}/tokens").status_code == 403
