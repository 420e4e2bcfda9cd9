"""Users, their sessions and tokens, and the trail of what they change."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from api.auth import Role
from database.environment import ROOT
from tests.api.conftest import Caller

PASSWORD = "correct horse battery"


def make_user(caller: Caller, name: str = "ada", role: str = "assessor") -> int:
    answer = caller.post("/api/users", json={"name": name, "role": role, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    user_id: int = answer.json()["id"]
    return user_id


def sign_in(caller: Caller, name: str = "ada", password: str = PASSWORD) -> int:
    answer = caller.post("/api/session", json={"name": name, "password": password})
    return int(answer.status_code)


def test_a_user_signs_in_and_out(caller: Caller) -> None:
    make_user(caller)
    caller.be(None)
    answer = caller.post("/api/session", json={"name": "ADA", "password": PASSWORD})
    assert answer.status_code == 201
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert caller.get("/api/session").json()["name"] == "ada"  # by the cookie
    bearer = {"Authorization": f"Bearer {answer.json()['token']}"}
    assert caller.delete("/api/session").status_code == 204
    assert caller.get("/api/session", headers=bearer).status_code == 401


def test_a_session_lives_while_it_is_used_but_no_longer_than_a_day(caller: Caller) -> None:
    make_user(caller)
    caller.be(None)
    sign_in(caller)
    for used, alive in ((50, True), (50, True), (61, False)):
        with psycopg.connect(caller.database) as connection:
            connection.execute(
                "update tokens set expires_at = expires_at - %(ago)s * interval '1 minute',"
                " last_used_at = last_used_at - %(ago)s * interval '1 minute'"
                " where kind = 'session'",
                {"ago": used},
            )
        assert (caller.get("/api/session").status_code == 200) is alive


def test_guessing_locks_the_name_out(caller: Caller) -> None:
    make_user(caller)
    caller.be(None)
    assert [sign_in(caller, password="wrong") for _ in range(6)] == [401] * 5 + [429]
    locked = caller.post("/api/session", json={"name": "ada", "password": PASSWORD})
    assert locked.status_code == 429
    assert 0 < int(locked.headers["retry-after"]) <= 900
    assert caller.be(Role.ADMIN).patch("/api/users/2", json={"password": PASSWORD}).is_success
    assert sign_in(caller) == 201


def test_unknown_names_are_treated_like_known_ones(caller: Caller) -> None:
    caller.be(None)
    answers = [sign_in(caller, name="nobody") for _ in range(6)]
    assert answers == [401] * 5 + [429]


def test_guesses_at_the_same_moment_count_each(caller: Caller) -> None:
    make_user(caller)
    caller.be(None)
    together = threading.Barrier(12)

    def guess(_: int) -> int:
        together.wait()
        return sign_in(caller, password="wrong")

    with ThreadPoolExecutor(12) as threads:
        assert sorted(threads.map(guess, range(12))) == [401] * 5 + [429] * 7


def test_a_success_forgets_the_failures(caller: Caller) -> None:
    make_user(caller)
    for _ in range(2):
        assert [sign_in(caller, password="wrong") for _ in range(4)] == [401] * 4
        assert sign_in(caller) == 201


@pytest.mark.parametrize("change", [{"role": "viewer"}, {"active": False}])
def test_a_change_of_rights_ends_sessions_at_once(
    caller: Caller, change: dict[str, object]
) -> None:
    user_id = make_user(caller)
    token = caller.post("/api/session", json={"name": "ada", "password": PASSWORD}).json()["token"]
    caller.cookies.clear()
    assert caller.patch(f"/api/users/{user_id}", json=change).status_code == 200
    answer = caller.get("/api/session", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert sign_in(caller) == (201 if "role" in change else 401)


def test_the_last_admin_stays(caller: Caller) -> None:
    user_id = make_user(caller, "root", "admin")
    assert caller.patch("/api/users/1", json={"active": False}).status_code == 200
    caller.be(None)
    sign_in(caller, "root")
    for change in ({"role": "manager"}, {"active": False}):
        answer = caller.patch(f"/api/users/{user_id}", json=change)
        assert answer.status_code == 409
        assert "last" in answer.json()["detail"]
    assert caller.get("/api/session").json()["role"] == "admin"


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "too short"},
        {"name": "a b"},
        {"name": ""},
        {"role": "king"},
        {"email": "nowhere"},
        {"role": None},
        {"unknown": 1},
        {"full_name": "a\0b"},
    ],
)
def test_users_that_make_no_sense(caller: Caller, wrong: dict[str, object]) -> None:
    good = {"name": "ada", "role": "viewer", "password": PASSWORD}
    answer = caller.post("/api/users", json=good | wrong)
    assert answer.status_code == 422
    assert PASSWORD not in answer.text
    assert str(wrong.get("password", PASSWORD)) not in answer.text


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "123456789012",
        "aaaaaaaaaaaa",
        "Password1234",
        "grace.hopper",
        "Grace.Hopper-GRACE.hopper",
        "grace.hopper1906",
    ],
)
def test_passwords_that_are_easy_to_guess(caller: Caller, password: str) -> None:
    user_id = make_user(caller, "grace.hopper")
    new = {"name": "ada", "full_name": "Grace Hopper", "role": "viewer", "password": password}
    answers = [
        caller.post("/api/users", json=new | {"name": "Grace.Hopper"}),
        caller.patch(f"/api/users/{user_id}", json={"password": password}),
    ]
    caller.be(None)
    sign_in(caller, "grace.hopper")
    answers.append(caller.put("/api/password", json={"present": PASSWORD, "new": password}))
    for answer in answers:
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("This password is easy to guess. ")
        assert password not in answer.text
    assert sign_in(caller, "grace.hopper") == 201


def test_names_are_unique_whatever_their_case(caller: Caller) -> None:
    make_user(caller)
    answer = caller.post("/api/users", json={"name": "Ada", "role": "viewer"})
    assert answer.status_code == 409


def test_ones_own_password(caller: Caller) -> None:
    make_user(caller)
    caller.be(None)
    sign_in(caller)
    change = {"present": "wrong", "new": "another long one"}
    assert caller.put("/api/password", json=change).status_code == 409
    assert caller.put("/api/password", json=change | {"present": PASSWORD}).status_code == 204
    assert caller.get("/api/session").status_code == 401
    assert sign_in(caller) == 401
    assert sign_in(caller, password="another long one") == 201


def test_guessing_the_present_password_locks_too(caller: Caller) -> None:
    make_user(caller)
    caller.be(None)
    sign_in(caller)
    change = {"present": "wrong", "new": "another long one"}
    answers = [caller.put("/api/password", json=change).status_code for _ in range(6)]
    assert answers == [409] * 5 + [429]
    locked = caller.put("/api/password", json=change | {"present": PASSWORD})
    assert locked.status_code == 429
    assert 0 < int(locked.headers["retry-after"]) <= 900


def test_personal_tokens(caller: Caller) -> None:
    user_id = make_user(caller)
    caller.be(None)
    sign_in(caller)
    made = caller.post("/api/tokens", json={"name": "report", "days": 7})
    assert made.status_code == 201
    token = made.json()["token"]
    caller.cookies.clear()
    caller.headers["Authorization"] = f"Bearer {token}"
    assert caller.get("/api/session").json()["name"] == "ada"
    (listed,) = caller.get("/api/tokens").json()
    assert listed == {name: value for name, value in made.json().items() if name != "token"} | {
        "last_used_at": listed["last_used_at"]
    }
    assert caller.delete("/api/tokens/1").status_code == 404  # the admin's
    assert caller.get("/api/tokens", params={"user_id": 1}).status_code == 403
    caller.be(Role.ADMIN)
    assert len(caller.get("/api/tokens", params={"user_id": user_id}).json()) == 1
    assert caller.delete(f"/api/tokens/{listed['id']}").status_code == 204
    caller.headers["Authorization"] = f"Bearer {token}"
    assert caller.get("/api/session").status_code == 401


def test_the_trail_says_who_changed_what_and_no_secret(caller: Caller) -> None:
    user_id = make_user(caller)
    caller.patch(
        f"/api/users/{user_id}",
        json={"role": "manager", "password": "another long one"},
        headers={"X-Request-ID": "my-request"},
    )
    newest, oldest = caller.get("/api/audit", params={"subject": "user"}).json()
    assert (oldest["action"], oldest["user_name"]) == ("create", "service-admin")
    assert newest["request_id"] == "my-request"
    assert newest["before"]["role"] == "assessor"
    assert newest["after"] == newest["before"] | {"role": "manager", "password": "new"}
    older = caller.get("/api/audit", params={"before": newest["id"]}).json()
    assert older == [oldest]


def test_the_first_admin_is_made_by_a_command(caller: Caller) -> None:
    def make(password: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "api.users", "ada", "--role", "admin"],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": caller.database},
            input=password + "\n",
            text=True,
            capture_output=True,
            check=False,
        )

    refused = make("short")
    assert refused.returncode == 1
    assert refused.stderr.startswith("password: ")
    refused = make("ada-ada-ada-ada")
    assert refused.returncode == 1
    assert refused.stderr.startswith("This password is easy to guess. ")
    assert make(PASSWORD).returncode == 0
    caller.be(None)
    assert sign_in(caller) == 201
    assert caller.get("/api/session").json()["role"] == "admin"
    again = make(PASSWORD)
    assert (again.returncode, again.stderr) == (1, "There is a user ada already.\n")
