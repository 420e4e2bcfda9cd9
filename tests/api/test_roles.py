"""Who may call what: every route, pages included, by every role."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.routing import Mount

from api.app import create_app
from api.auth import USUAL_SCOPES, Role, Scope
from api.token import make_token
from tests.api.conftest import PASSWORD, Caller, Command, DefaultSettings, fill

ANYBODY, NOBODY = "anybody", "nobody"
"""No sign-in is needed; none helps, since the route asks for a secret of its own."""


class Call(NamedTuple):
    """The least role that a route takes, and a call of it that makes sense."""

    least: Role | str
    json: Any = None
    form: dict[str, str] | None = None
    scope: Scope | None = None
    """What an API token has to be made for; None: as usual for the role."""
    query: dict[str, str] | None = None
    is_for_sessions: bool = False
    """No API token takes it, whatever it is made for."""


VIEWER, ASSESSOR, MANAGER, ADMIN = (Call(role) for role in Role)
SYNC = Call(Role.MANAGER, scope=Scope.SYNC)
OWN_OR_ADMIN = Call(Role.VIEWER, scope=Scope.ADMIN)
LISTS_USERS = Call(Role.MANAGER, scope=Scope.READ)
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
    "GET /api/audit/export": ADMIN,
    "GET /api/erasure": Call(Role.ADMIN, query={"owner": "999"}, is_for_sessions=True),
    "POST /api/erasure": Call(Role.ADMIN, {"owner": "999"}, is_for_sessions=True),
    "GET /api/changes": VIEWER,
    "GET /api/events": VIEWER,
    "GET /api/opportunities": VIEWER,
    "PATCH /api/opportunities": Call(Role.ASSESSOR, {"ids": [999], "workflow_status": "ASSIGNED"}),
    "GET /api/opportunities/export": VIEWER,
    "POST /api/opportunities/{remote_id}/refresh": Call(Role.ASSESSOR, scope=Scope.SYNC),
    "GET /api/opportunities/{remote_id}/lineage": VIEWER,
    "GET /api/opportunities/{id:int}": VIEWER,
    "PATCH /api/opportunities/{id:int}": Call(Role.ASSESSOR, {"workflow_status": "ASSIGNED"}),
    "GET /api/opportunities/{id:int}/history": VIEWER,
    "GET /api/opportunities/{id:int}/parts": VIEWER,
    "PATCH /api/opportunities/{id:int}/parts": Call(
        Role.ASSESSOR, {"part": "architect", "user_id": None}
    ),
    "GET /api/oracle-opportunity/{remote_id}": VIEWER,
    "GET /api/pipeline": VIEWER,
    "GET /api/pipeline/deals": Call(Role.VIEWER, query={"step": "new", "currency": "EUR"}),
    "PUT /api/password": Call(
        Role.VIEWER, {"present": PASSWORD, "new": f"{PASSWORD}!"}, is_for_sessions=True
    ),
    "GET /api/rejected-records": VIEWER,
    "GET /api/schedules": VIEWER,
    "PATCH /api/schedules/{name}": Call(Role.ADMIN, {"paused": True}),
    "POST /api/schedules/{name}/run": ADMIN,
    "DELETE /api/session": VIEWER,
    "GET /api/session": VIEWER,
    "POST /api/password": Call(ANYBODY, {"secret": "x", "new": PASSWORD}),
    "POST /api/session": Call(NOBODY, {"name": "nobody", "password": PASSWORD}),
    "GET /api/sessions": VIEWER,
    "DELETE /api/sessions/{id:int}": VIEWER,
    "POST /api/sync-database": SYNC,
    "GET /api/sync-history": VIEWER,
    "GET /api/sync-runs/{run_id}": VIEWER,
    "POST /api/sync-runs/{run_id}/cancel": SYNC,
    "GET /api/sync-runs/{run_id}/events": VIEWER,
    "GET /api/sync-status": VIEWER,
    "GET /api/tokens": VIEWER,
    "POST /api/tokens": Call(Role.VIEWER, {"name": "report"}, is_for_sessions=True),
    "DELETE /api/tokens/{id:int}": VIEWER,
    "GET /api/users": LISTS_USERS,
    "POST /api/users": Call(Role.ADMIN, NEW_USER),
    "GET /api/users/{id:int}": LISTS_USERS,
    "PATCH /api/users/{id:int}": Call(Role.ADMIN, {}),
    "DELETE /api/users/{id:int}/access": OWN_OR_ADMIN,
    "DELETE /api/users/{id:int}/lock": ADMIN,
    "GET /api/users/{id:int}/functions": LISTS_USERS,
    "PUT /api/users/{id:int}/functions": Call(Role.ADMIN, []),
    "POST /api/users/{id:int}/password-link": Call(Role.ADMIN, is_for_sessions=True),
    "POST /api/webhooks/oracle": Call(NOBODY),
    "GET /api/views": VIEWER,
    "POST /api/views": Call(Role.VIEWER, {"name": "Mine"}, scope=Scope.WORKFLOW),
    "DELETE /api/views/{id:int}": Call(Role.VIEWER, scope=Scope.WORKFLOW),
    "GET /api/workflow": VIEWER,
    # Pages
    "GET /": VIEWER,
    "GET /account": VIEWER,
    "POST /account/digest": Call(Role.VIEWER, form={"wanted": "true"}, is_for_sessions=True),
    "POST /account/end-access": Call(Role.VIEWER, is_for_sessions=True),
    "POST /account/password": Call(
        Role.VIEWER, form={"present": PASSWORD, "new": f"{PASSWORD}!"}, is_for_sessions=True
    ),
    "POST /account/tokens": Call(Role.VIEWER, form={"name": "report"}, is_for_sessions=True),
    "GET /admin/audit": ADMIN,
    "GET /admin/erasure": ADMIN,
    "GET /admin/fields": ADMIN,
    "POST /admin/fields/check": Call(Role.ADMIN),
    "POST /admin/erasure": Call(Role.ADMIN, form={"owner": "999"}, is_for_sessions=True),
    "GET /admin/health": ADMIN,
    "GET /admin/health/findings": ADMIN,
    "POST /admin/health/notification": ADMIN,
    "POST /admin/schedules/{name}/{order}": ADMIN,
    "GET /admin/users": ADMIN,
    "POST /admin/users": Call(Role.ADMIN, form=NEW_USER | {"name": "hedy"}),
    "POST /admin/users/{id}": Call(
        Role.ADMIN, form={"role": "viewer", "seen": '{"role": "viewer", "active": false}'}
    ),
    "POST /admin/users/{id}/end-access": OWN_OR_ADMIN,
    "POST /admin/users/{id}/profile": Call(
        Role.ADMIN, form={"full_name": "Grace Hopper", "seen": '{"full_name": null}'}
    ),
    "POST /admin/users/{id}/password-link": Call(Role.ADMIN, is_for_sessions=True),
    "GET /admin/users/{id}/tokens": ADMIN,
    "POST /admin/users/{id}/functions": Call(
        Role.ADMIN, form={"function": "", "value": "", "seen": "[]"}
    ),
    "POST /admin/users/{id}/unlock": ADMIN,
    "GET /board": VIEWER,
    "GET /dashboard": VIEWER,
    "GET /dashboard/pipeline": VIEWER,
    "GET /fields/{name}/values": VIEWER,
    "GET /find": Call(Role.VIEWER, query={"search": "renewal"}),
    "GET /lineage": VIEWER,
    "GET /opportunities": VIEWER,
    "GET /opportunities/{id}": VIEWER,
    "POST /opportunities/bulk/undo": Call(
        Role.ASSESSOR,
        form={"steps": '[{"id": 999, "wanted": {"assigned_to": null}, "if_match": "x"}]'},
    ),
    "POST /opportunities/bulk": Call(
        Role.ASSESSOR, form={"deal": "999 NEW", "workflow_status": "ASSIGNED"}
    ),
    "POST /opportunities/{id}/assessment": ASSESSOR,
    "POST /opportunities/{id}/assessments/{assessment_id}": Call(Role.ASSESSOR, form={"etag": "x"}),
    "POST /opportunities/{id}/assessments/{assessment_id}/comments": Call(
        Role.ASSESSOR, form={"body": "Good."}
    ),
    "POST /opportunities/{id}/assessments/{assessment_id}/decision": Call(
        Role.MANAGER, form={"etag": "x", "decision": "APPROVED"}
    ),
    "POST /opportunities/{id}/assign": Call(Role.ASSESSOR, form={"assigned_to": ""}),
    "POST /opportunities/{id}/part": Call(
        Role.ASSESSOR, form={"part": "architect", "assigned_to": ""}
    ),
    "POST /opportunities/{id}/status": Call(
        Role.ASSESSOR, form={"workflow_status": "ASSIGNED", "seen": "NEW"}
    ),
    "POST /opportunities/{id}/refresh": Call(Role.ASSESSOR, scope=Scope.SYNC),
    "GET /opportunities/{id}/lineage": VIEWER,
    "GET /opportunities/{id}/timeline": VIEWER,
    "GET /remote/{remote_id}": VIEWER,
    "POST /assessments/{assessment_id}/score": VIEWER,
    "POST /sessions/{id}/end": VIEWER,
    "GET /sync": VIEWER,
    "GET /sync/indicator": VIEWER,
    "GET /sync/rejects": VIEWER,
    "GET /sync/runs/{run_id}": VIEWER,
    "POST /sync/start": SYNC,
    "POST /sync/{run_id}/cancel": SYNC,
    "GET /today": VIEWER,
    "POST /today/seen": VIEWER,
    "POST /tokens/{id}/revoke": VIEWER,
    "POST /views": Call(
        Role.VIEWER, form={"page": "list", "name": "Mine", "query": ""}, scope=Scope.WORKFLOW
    ),
    "POST /views/{id}/delete": Call(Role.VIEWER, scope=Scope.WORKFLOW),
    "GET /oidc/callback": Call(ANYBODY),
    "GET /oidc/sign-in": Call(ANYBODY),
    # What is there before a sign-in, and for machines
    "GET /docs": Call(ANYBODY),
    "GET /docs/start.js": Call(ANYBODY),
    "GET /health/live": Call(ANYBODY),
    "GET /health/ready": Call(ANYBODY),
    "GET /metrics": VIEWER,
    "GET /openapi.json": Call(ANYBODY),
    "HEAD /openapi.json": Call(ANYBODY),
    "GET /set-password": Call(ANYBODY),
    "POST /set-password": Call(ANYBODY, form={"secret": "x", "new": PASSWORD}),
    "GET /sign-in": Call(ANYBODY),
    "GET /signed-in": VIEWER,
    "POST /sign-in": Call(NOBODY, form={"name": "nobody", "password": PASSWORD}),
    "POST /sign-out": Call(ANYBODY),
}
SIGNS_OUT = ("/sign-out", "/account/end-access", "/account/password")
VALUES = {
    "{id:int}": "999",
    "{id}": "999",
    "{assessment_id}": "999",
    "{remote_id}": "999",
    "{name}": "nightly",
    "{order}": "pause",
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


def ask(caller: Caller, route: str, call: Call, token: str | None) -> int:
    """The status of a call with a token; the way to the sign-in counts as 401."""
    method, path = route.split(" ")
    for name, value in VALUES.items():
        path = path.replace(name, value)
    headers = {"If-Match": '"x"'}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    caller.headers.pop("Authorization", None)
    caller.cookies.clear()
    # An event stream has no end.
    with caller.stream(
        method,
        path,
        headers=headers,
        params=call.query,
        json=call.json,
        data=call.form,
        follow_redirects=False,
    ) as answer:
        if answer.status_code == 422:
            pytest.fail(f"{route} needs a call that makes sense: {answer.read().decode()}")
    to_sign_in = answer.headers.get("location", "").startswith("/sign-in")
    return 401 if to_sign_in and path not in SIGNS_OUT else answer.status_code


# One token for each call: the call may revoke it.
@pytest.mark.parametrize("role", [None, *Role])
def test_who_may_and_who_may_not(
    caller: Caller, command: Command, no_checks: None, role: Role | None
) -> None:
    fill(caller.database, 1)
    for route, call in ROUTES.items():
        token = None if role is None else caller.session(role)
        status = ask(caller, route, call, token)
        if call.least == ANYBODY:
            assert status not in (401, 403), route
        elif call.least == NOBODY or role is None:
            assert status == 401, route
        elif role.includes(Role(call.least)):
            assert status not in (401, 403), route
        else:
            assert status == 403, route


def test_what_a_token_is_good_for(caller: Caller, command: Command, no_checks: None) -> None:
    fill(caller.database, 1)
    for route, call in ROUTES.items():
        if call.least in (ANYBODY, NOBODY):
            continue
        needed = call.scope or USUAL_SCOPES[Role(call.least)]

        def try_with(scopes: set[Scope], route: str = route, call: Call = call) -> int:
            token = make_token(caller.database, Role.ADMIN, timedelta(hours=1), scopes)
            return ask(caller, route, call, token)

        if needed is not Scope.READ:
            assert try_with(set(Scope) - {needed}) == 403, route
        assert (try_with({needed}) == 403) is call.is_for_sessions, route


def test_the_administration_shows_a_manager_not_even_their_own_tokens(caller: Caller) -> None:
    caller.be(Role.MANAGER)
    own = caller.get("/api/session").json()["id"]
    assert caller.get(f"/admin/users/{own}/tokens").status_code == 403
