"""Links with which people set their passwords: once, for a while, and by nobody else."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from api.auth import Role
from tests.api.conftest import PASSWORD, Caller, DefaultSettings, calling

NEW = "another long one"


def make_link(caller: Caller, user_id: int) -> str:
    """Return the secret of a new link."""
    answer = caller.post(f"/api/users/{user_id}/password-link", headers=caller.signed_in())
    assert answer.status_code == 201, answer.text
    address, _, secret = answer.json()["link"].partition("#")
    assert address == f"{caller.base_url}/set-password"
    assert len(secret) > 40
    return str(secret)


def use(caller: Caller, secret: str, new: str = NEW) -> int:
    answer = caller.post("/api/password", json={"secret": secret, "new": new})
    return int(answer.status_code)


def sign_in(caller: Caller, password: str = NEW) -> int:
    answer = caller.post("/api/session", json={"name": "ada", "password": password})
    caller.cookies.clear()
    return int(answer.status_code)


def invite(caller: Caller) -> int:
    """Make a person without a password, by an API token."""
    made = caller.be(Role.ADMIN).post("/api/users", json={"name": "ada", "role": "viewer"})
    caller.be(None)
    return int(made.json()["id"])


def test_an_invited_person_sets_the_password(caller: Caller) -> None:
    ada = invite(caller)
    assert sign_in(caller) == 401
    secret = make_link(caller, ada)
    assert caller.get("/set-password").status_code == 200  # as mail scanners do
    assert use(caller, secret, "ada-ada-ada-ada") == 422
    assert use(caller, secret) == 204
    assert sign_in(caller) == 201
    assert use(caller, secret, f"{NEW}!") == 410
    assert sign_in(caller) == 201


def test_a_reset_ends_all_access_when_it_is_used(caller: Caller) -> None:
    ada = caller.make_user()
    caller.be(None)
    session = caller.post("/api/session", json={"name": "ada", "password": PASSWORD}).json()
    caller.cookies.clear()
    bearer = {"Authorization": f"Bearer {session['token']}"}
    token = caller.post("/api/tokens", json={"name": "report"}, headers=bearer).json()["token"]
    for _ in range(7):
        sign_in(caller, "wrong")
    secret = make_link(caller, ada)
    assert caller.get("/api/session", headers=bearer).status_code == 200
    assert use(caller, secret) == 204
    for one in (session["token"], token):
        answer = caller.get("/api/session", headers={"Authorization": f"Bearer {one}"})
        assert answer.status_code == 401
    assert sign_in(caller, PASSWORD) == 401
    assert sign_in(caller) == 201


@pytest.mark.parametrize("end", ["expired", "replaced", "reset", "barred", "ended", "erased"])
def test_a_link_ends(caller: Caller, end: str) -> None:
    ada = caller.make_user()
    secret, admin = make_link(caller, ada), caller.signed_in()
    path = f"/api/users/{ada}"
    if end == "expired":
        with psycopg.connect(caller.database) as connection:
            connection.execute(
                "update password_links set expires_at = expires_at - interval '24 hours'"
            )
    elif end == "replaced":
        make_link(caller, ada)
    elif end == "reset":
        caller.patch(path, json={"password": PASSWORD}, headers=admin).raise_for_status()
    elif end == "barred":
        for active in (False, True):
            caller.patch(path, json={"active": active}, headers=admin).raise_for_status()
    elif end == "ended":
        caller.delete(f"{path}/access", headers=admin).raise_for_status()
    else:
        caller.post("/api/erasure", json={"user_id": ada}, headers=admin).raise_for_status()
    assert use(caller, secret) == 410
    assert sign_in(caller) == 401


def test_a_link_works_once_however_many_use_it_at_once(caller: Caller) -> None:
    secret = make_link(caller, caller.make_user())
    with ThreadPoolExecutor(6) as threads:
        used = threads.map(lambda number: use(caller, secret, f"{NEW} {number}"), range(6))
    assert sorted(used) == [204, *[410] * 5]


def test_who_gets_no_link(caller: Caller) -> None:
    service = {"name": "report", "role": "viewer", "is_service": True}
    admin = caller.signed_in()
    made = caller.post("/api/users", json=service).json()["id"]
    ada = caller.make_user()
    caller.patch(f"/api/users/{ada}", json={"active": False}).raise_for_status()
    for user_id, status in ((made, 409), (ada, 409), (999, 404)):
        answer = caller.post(f"/api/users/{user_id}/password-link", headers=admin)
        assert answer.status_code == status
    assert caller.post(f"/api/users/{ada}/password-link").status_code == 403  # an API token


def test_where_passwords_are_off_there_are_no_links(database: str) -> None:
    with calling(database, DefaultSettings()) as caller:
        ada = caller.make_user()
        secret = make_link(caller, ada)
    company = DefaultSettings(
        oidc_issuer="https://login.example.com",
        oidc_client_id="desk",
        oidc_roles={"admins": "admin"},
        api_public_url="https://crm.example.com",
        password_sign_in=False,
    )
    with calling(database, company) as caller:
        path = f"/api/users/{ada}/password-link"
        assert caller.post(path, headers=caller.signed_in()).status_code == 409
        assert use(caller, secret) == 410
        caller.be(None)
        assert "Forgotten" not in caller.get("/sign-in").text


def test_nothing_that_is_kept_has_the_secret(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ada = caller.make_user()
    secret = make_link(caller, ada)
    assert use(caller, secret) == 204
    wanted = {"subject": "user", "subject_id": str(ada)}
    entries = caller.get("/api/audit", params=wanted).json()
    actions = [entry["action"] for entry in entries]
    assert actions == ["set password", "make password link", "create"]
    assert secret not in json.dumps(entries)
    assert secret not in "".join(str(vars(line)) for line in caplog.records)
    with psycopg.connect(caller.database) as connection:
        assert connection.execute("select count(*) from password_links").fetchone() == (0,)
