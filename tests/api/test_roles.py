"""Who may call what: every endpoint by every role."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from api.app import create_app
from api.auth import Role
from api.token import make_token
from tests.api.conftest import Caller, Command, DefaultSettings

ANYBODY, NOBODY = "anybody", "nobody"

# The least role that each operation takes; NOBODY: no role, but the webhook's own secret.
LEAST = {
    "GET /health/live": ANYBODY,
    "GET /health/ready": ANYBODY,
    "GET /metrics": Role.VIEWER,
    "GET /api/opportunities": Role.VIEWER,
    "GET /api/opportunities/export": Role.VIEWER,
    "GET /api/opportunities/{id}": Role.VIEWER,
    "PATCH /api/opportunities/{id}": Role.ASSESSOR,
    "GET /api/opportunities/{id}/history": Role.VIEWER,
    "GET /api/oracle-opportunity/{remote_id}": Role.VIEWER,
    "GET /api/workflow": Role.VIEWER,
    "GET /api/assessment-criteria": Role.VIEWER,
    "GET /api/assessments": Role.VIEWER,
    "POST /api/assessments": Role.ASSESSOR,
    "GET /api/assessments/{id}": Role.VIEWER,
    "PUT /api/assessments/{id}": Role.ASSESSOR,
    "POST /api/assessments/{id}/submit": Role.ASSESSOR,
    "POST /api/assessments/{id}/decision": Role.MANAGER,
    "GET /api/assessments/{id}/comments": Role.VIEWER,
    "POST /api/assessments/{id}/comments": Role.ASSESSOR,
    "GET /api/rejected-records": Role.VIEWER,
    "GET /api/schedules": Role.VIEWER,
    "POST /api/webhooks/oracle": NOBODY,
    "POST /api/sync-database": Role.MANAGER,
    "GET /api/sync-status": Role.VIEWER,
    "GET /api/sync-history": Role.VIEWER,
    "GET /api/sync-runs/{run_id}": Role.VIEWER,
    "GET /api/sync-runs/{run_id}/events": Role.VIEWER,
    "POST /api/sync-runs/{run_id}/cancel": Role.MANAGER,
    "POST /api/session": ANYBODY,
    "GET /api/session": Role.VIEWER,
    "DELETE /api/session": Role.VIEWER,
    "PUT /api/password": Role.VIEWER,
    "GET /api/tokens": Role.VIEWER,
    "POST /api/tokens": Role.VIEWER,
    "DELETE /api/tokens/{id}": Role.VIEWER,
    "GET /api/users": Role.MANAGER,
    "POST /api/users": Role.ADMIN,
    "GET /api/users/{id}": Role.MANAGER,
    "PATCH /api/users/{id}": Role.ADMIN,
    "GET /api/audit": Role.ADMIN,
}


def operations() -> Iterator[str]:
    openapi: dict[str, Any] = create_app(DefaultSettings(), "").openapi()
    for path, methods in openapi["paths"].items():
        for method in methods:
            yield f"{method.upper()} {path}"


def test_it_is_said_of_every_operation_who_may() -> None:
    assert sorted(operations()) == sorted(LEAST)


@pytest.mark.parametrize("role", [None, *Role])
def test_who_may_and_who_may_not(caller: Caller, command: Command, role: Role | None) -> None:
    for operation, least in LEAST.items():
        method, path = operation.split(" ")
        path = path.replace("{id}", "999").replace("{run_id}", str(uuid.uuid4()))
        headers = {}
        if role is not None:
            # One for each: an operation may revoke it.
            token = make_token(caller.database, role, timedelta(hours=1))
            headers["Authorization"] = f"Bearer {token}"
        caller.headers.pop("Authorization", None)
        caller.cookies.clear()
        status = caller.request(method, path, headers=headers).status_code
        if least == ANYBODY:
            assert status not in (401, 403), operation
        elif least == NOBODY or role is None:
            assert status == 401, operation
        elif role.includes(Role(least)):
            assert status not in (401, 403), operation
        else:
            assert status == 403, operation


def test_the_lineage_needs_someone(caller: Caller) -> None:
    assert caller.be(None).get("/lineage").status_code == 401
    assert caller.be(Role.VIEWER).get("/lineage").status_code in (200, 404)
