"""Users, their sessions and tokens, and the trail of what they change."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import psycopg
import pytest
from argon2 import PasswordHasher

from api.auth import Role
from database.environment import ROOT
from tests.api.conftest import PASSWORD, Caller, DefaultSettings, calling, seen


def sign_in(caller: Caller, name: str = "ada", password: str = PASSWORD) -> int:
    answer = caller.post("/api/session", json={"name": name, "password": password})
    return int(answer.status_code)


def begin_session(caller: Caller, name: str = "ada", password: str = PASSWORD) -> str:
    """Sign in as a program that keeps no cookie, and return the session's token."""
    answer = caller.post("/api/session", json={"name": name, "password": password})
    assert answer.status_code == 201, answer.text
    caller.cookies.clear()
    token: str = answer.json()["token"]
    return token


def status(caller: Caller, token: str, path: str = "/api/session") -> int:
    answer = caller.get(path, headers={"Authorization": f"Bearer {token}"})
    return int(answer.status_code)


def post(caller: Caller, token: str, path: str, given: object = None) -> httpx.Response:
    return caller.post(path, json=given, headers={"Authorization": f"Bearer {token}"})


def age(caller: Caller, minutes: int) -> None:
    """Let time pass for sessions and attempts to sign in."""
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            """
            update tokens
            set
                created_at = created_at - %(ago)s, last_used_at = last_used_at - %(ago)s,
                confirmed_at = confirmed_at - %(ago)s,
                expires_at = case kind when 'session' then expires_at - %(ago)s else expires_at end
            """,
            {"ago": timedelta(minutes=minutes)},
        )
        connection.execute("update sign_in_attempts set at = at - %s", [timedelta(minutes=minutes)])


def fail(
    caller: Caller,
    count: int,
    address: str = "127.0.0.1",
    *,
    name: str = "ada",
    is_known: bool = True,
) -> None:
    """Let so many sign-ins with a name have failed just now, at an address known for it or not."""
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into sign_in_attempts (name, client, is_known)"
            " select %s, %s, %s from generate_series(1, %s)",
            [name, address, is_known, count],
        )


def at(caller: Caller, address: str) -> httpx.Client:
    """A client at another address of this machine, 127.0.0.0/8, that knows no token."""
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(base_url=caller.base_url, transport=transport, timeout=60)


def test_a_user_signs_in_and_out(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    answer = caller.post("/api/session", json={"name": "ADA", "password": PASSWORD})
    assert answer.status_code == 201
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert caller.get("/api/session").json()["name"] == "ada"  # by the cookie
    bearer = {"Authorization": f"Bearer {answer.json()['token']}"}
    assert caller.delete("/api/session").status_code == 204
    assert caller.get("/api/session", headers=bearer).status_code == 401


def test_a_session_lives_while_it_is_used_but_no_longer_than_a_day(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    sign_in(caller)
    for used, alive in ((50, True), (50, True), (61, False)):
        age(caller, used)
        assert (caller.get("/api/session").status_code == 200) is alive
    token = begin_session(caller)
    for _ in range(13):
        age(caller, 55)
        assert status(caller, token) == 200
    age(caller, 5)
    assert status(caller, token) == 401


def test_what_a_page_asks_by_itself_keeps_no_session_alive(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    sign_in(caller)
    age(caller, 50)
    assert caller.get("/sync/indicator").status_code == 200
    run = "/api/sync-runs/00000000-0000-0000-0000-000000000000/events"
    assert caller.get(run).status_code == 404
    age(caller, 11)
    assert caller.get("/api/session").status_code == 401


def test_no_session_and_no_token_outlives_what_it_came_from(caller: Caller) -> None:
    user_id = caller.make_user()
    caller.be(None)
    session = begin_session(caller)
    made = post(caller, session, "/api/tokens", {"name": "report", "scopes": ["workflow"]}).json()
    token = made["token"]
    assert post(caller, token, "/api/tokens", {"name": "child"}).status_code == 403
    assert (
        post(caller, token, "/api/tokens", {"name": "x", "password": PASSWORD}).status_code == 403
    )
    assert caller.post("/sign-in", data={"token": session}).status_code == 401
    assert caller.post("/sign-in", data={"token": token}).status_code == 200
    console = caller.cookies["session"]
    assert caller.post("/sign-in", data={"token": console}).status_code == 401
    caller.cookies.clear()
    assert post(caller, console, "/api/tokens", {"name": "child"}).status_code == 403
    assert post(caller, console, "/api/sync-database").status_code == 403
    assert status(caller, console) == 200
    ended = caller.be(Role.ADMIN).delete(f"/api/tokens/{made['id']}")
    assert ended.status_code == 204
    assert [status(caller, one) for one in (session, token, console)] == [200, 401, 401]
    assert caller.get("/api/sessions", params={"user_id": user_id}).json()[0]["token_name"] is None


def test_a_token_needs_the_password_some_minutes_after_the_sign_in(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    sign_in(caller)
    assert caller.post("/api/tokens", json={"name": "at once"}).status_code == 201
    age(caller, 11)
    later = {"name": "later"}
    assert caller.post("/api/tokens", json=later).status_code == 403
    assert caller.post("/api/tokens", json=later | {"password": "wrong"}).status_code == 409
    assert caller.post("/api/tokens", json=later | {"password": PASSWORD}).status_code == 201
    assert caller.post("/api/tokens", json={"name": "once more"}).status_code == 201


@pytest.mark.parametrize("how", ["reset", "bar", "button", "own button"])
def test_one_action_ends_all_access(caller: Caller, how: str) -> None:
    user_id = caller.make_user()
    caller.make_user("eve")
    token = begin_session(caller)
    others = begin_session(caller, "eve")
    access = [token, post(caller, token, "/api/tokens", {"name": "report"}).json()["token"]]
    by_token = httpx.post(f"{caller.base_url}/sign-in", data={"token": access[1]})
    access.append(by_token.cookies["session"])
    assert [status(caller, one) for one in access] == [200] * 3
    path = f"/api/users/{user_id}"
    if how == "reset":
        new = {"password": "another long one"}
        assert caller.patch(path, json=new).status_code == 403  # by an API token
        caller.patch(path, json=new, headers=caller.signed_in()).raise_for_status()
    elif how == "bar":
        for active in (False, True):
            caller.patch(path, json={"active": active}).raise_for_status()
    else:
        bearer = {"Authorization": f"Bearer {token}"} if how == "own button" else None
        assert caller.delete(f"{path}/access", headers=bearer).status_code == 204
    assert [status(caller, one) for one in access] == [401] * 3
    assert status(caller, others) == 200
    assert status(caller, others, f"/api/users/{user_id}") == 403


def test_sessions_are_listed_and_ended(caller: Caller) -> None:
    ada = caller.make_user()
    caller.make_user("eve")
    mine, other = begin_session(caller), begin_session(caller)
    eves = {"Authorization": f"Bearer {begin_session(caller, 'eve')}"}
    bearer = {"Authorization": f"Bearer {mine}"}
    listed = caller.get("/api/sessions", headers=bearer).json()
    assert [one["is_current"] for one in listed] == [True, False]
    assert all(one["address"] == "127.0.0.1" for one in listed)
    assert all(one["browser"].startswith("python-httpx") for one in listed)
    assert caller.get("/api/sessions", headers=eves, params={"user_id": ada}).status_code == 403
    path = f"/api/sessions/{listed[1]['id']}"
    assert caller.delete(path, headers=eves).status_code == 404
    assert caller.delete(path, headers=bearer).status_code == 204
    assert [status(caller, one) for one in (mine, other)] == [200, 401]
    (left,) = caller.get("/api/sessions", params={"user_id": ada}).json()
    assert caller.delete(f"/api/sessions/{left['id']}").status_code == 204
    assert status(caller, mine) == 401


def test_a_weak_hash_is_renewed_by_a_sign_in(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.passwords._hasher", PasswordHasher())
    user_id = caller.make_user()
    weak = PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
    with psycopg.connect(caller.database, autocommit=True) as connection:

        def stored() -> str:
            query = "select password_hash from users where id = %s"
            (text,) = connection.execute(query, [user_id]).fetchone() or ("",)
            return str(text)

        connection.execute("update users set password_hash = %s where id = %s", [weak, user_id])
        assert sign_in(caller, password="wrong") == 401
        assert stored() == weak
        assert sign_in(caller) == 201
        renewed = stored()
        assert not PasswordHasher().check_needs_rehash(renewed)
        assert sign_in(caller) == 201
        assert stored() == renewed


def test_guessing_is_locked_out_where_the_user_is_not_known(caller: Caller) -> None:
    user_id = caller.make_user()
    caller.be(None)
    assert [sign_in(caller, password="wrong") for _ in range(6)] == [401] * 5 + [429]
    locked = caller.post("/api/session", json={"name": "ada", "password": PASSWORD})
    assert locked.status_code == 429
    assert 0 < int(locked.headers["retry-after"]) <= 900
    caller.be(Role.ADMIN)
    wanted = {"subject": "user", "subject_id": str(user_id)}
    (entry,) = caller.get("/api/audit", params=wanted).json()[:1]
    assert (entry["action"], entry["user_name"]) == ("slow down", "(not signed in)")
    assert entry["after"] == {"tried": "ada", "address": "127.0.0.1", "failed": 5}
    assert "5 failed sign-ins" in caller.get("/admin/users").text
    assert caller.delete(f"/api/users/{user_id}/lock").status_code == 204
    told = caller.post("/api/session", json={"name": "ada", "password": PASSWORD}).json()
    assert told["failed_attempts"] == 5
    assert "127.0.0.1" in caller.get("/account").text


def test_nobody_is_locked_out_by_others(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    for number in range(2, 7):
        with at(caller, f"127.0.0.{number}") as stranger:
            wrong = {"name": "ada", "password": "wrong"}
            assert stranger.post("/api/session", json=wrong).status_code == 401
    assert sign_in(caller) == 201
    caller.cookies.clear()
    # After more of them the strangers have to wait, and ada has not.
    for number in range(7, 27):
        fail(caller, 1, f"127.0.0.{number}", is_known=False)
    with at(caller, "127.0.0.27") as stranger:
        assert stranger.post("/api/session", json=wrong).status_code == 429
    assert sign_in(caller) == 201


def test_fifty_wrong_passwords_at_an_address_lock_nobody_else_out_there(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    for number in range(10):
        fail(caller, 6, name=f"name-{number}", is_known=False)
    assert sign_in(caller, name="name-1", password="wrong") == 429
    assert sign_in(caller) == 201


@pytest.mark.parametrize(("failed", "pause"), [(10, 32), (11, 60), (200, 60)])
def test_where_the_user_is_known_there_are_only_pauses(
    caller: Caller, failed: int, pause: int
) -> None:
    caller.make_user()
    caller.be(None)
    sign_in(caller)
    caller.cookies.clear()
    assert [sign_in(caller, password="wrong") for _ in range(5)] == [401] * 5
    fail(caller, failed - 5)
    paused = caller.post("/api/session", json={"name": "ada", "password": PASSWORD})
    assert paused.status_code == 429
    assert 0 < int(paused.headers["retry-after"]) <= pause
    with psycopg.connect(caller.database) as connection:
        # The pause is over, and the time for which attempts count is not.
        connection.execute("update sign_in_attempts set at = at - %s", [timedelta(seconds=pause)])
    assert sign_in(caller) == 201


def test_a_browser_with_a_session_is_not_slowed_down_by_its_neighbours(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    sign_in(caller)
    fail(caller, 20)
    with httpx.Client(base_url=caller.base_url) as neighbour:
        right = {"name": "ada", "password": PASSWORD}
        assert neighbour.post("/api/session", json=right).status_code == 429
    assert sign_in(caller) == 201
    # It has expired by itself, and the browser still has it.
    age(caller, 61)
    fail(caller, 20)
    form = right | {"next": "/board"}
    answer = caller.post("/sign-in", data=form, follow_redirects=False)
    assert answer.headers["location"] == "/account?failed=20&next=%2Fboard"
    page = caller.get(answer.headers["location"]).text
    assert "20 attempts to sign in with your name have failed" in page
    assert 'href="/board"' in page


def test_unknown_names_are_treated_like_known_ones(caller: Caller) -> None:
    caller.be(None)
    answers = [sign_in(caller, name="nobody") for _ in range(6)]
    assert answers == [401] * 5 + [429]


def test_guesses_at_the_same_moment_count_each(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    together = threading.Barrier(12)

    def guess(_: int) -> int:
        together.wait()
        return sign_in(caller, password="wrong")

    with ThreadPoolExecutor(12) as threads:
        assert sorted(threads.map(guess, range(12))) == [401] * 5 + [429] * 7


def test_a_success_forgets_the_failures(caller: Caller) -> None:
    caller.make_user()
    for _ in range(2):
        assert [sign_in(caller, password="wrong") for _ in range(4)] == [401] * 4
        assert sign_in(caller) == 201


@pytest.mark.parametrize("change", [{"role": "viewer"}, {"active": False}])
def test_a_change_of_rights_ends_sessions_at_once(
    caller: Caller, change: dict[str, object]
) -> None:
    user_id = caller.make_user()
    token = caller.post("/api/session", json={"name": "ada", "password": PASSWORD}).json()["token"]
    caller.cookies.clear()
    assert caller.patch(f"/api/users/{user_id}", json=change).status_code == 200
    answer = caller.get("/api/session", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert sign_in(caller) == (201 if "role" in change else 401)


def test_an_old_page_undoes_nothing(caller: Caller) -> None:
    user_id = caller.make_user("bob", "assessor", full_name="Bob", email="bob@example.com")
    path, of_bob = f"/admin/users/{user_id}", f"/api/users/{user_id}"
    page = caller.get("/admin/users").text
    profile = caller.get(f"{path}/tokens").text

    def save(path: str, page: str, **form: str) -> tuple[int, str]:
        form["seen"] = seen(page, path)
        answer = caller.post(path, data=form, headers={"HX-Request": "true"})
        refused = answer.status_code == 409
        words = answer.json()["detail"] if refused else answer.headers["hx-trigger"]
        return answer.status_code, words

    def now(*names: str) -> list[object]:
        return [caller.get(of_bob).json()[name] for name in names]

    barred = {"active": False, "role": "viewer"}
    assert caller.patch(of_bob, json=barred).status_code == 200
    meanwhile = "It has been changed meanwhile: "
    for form, words in (
        ({"role": "manager", "active": "true"}, "the role is viewer"),
        ({"role": "manager"}, "the role is viewer and the user is barred"),
        ({"role": "assessor"}, "the user is barred"),
    ):
        assert save(path, page, **form) == (409, f"{meanwhile}{words}. Reload the page.")
    assert now("role", "active") == ["viewer", False]
    # What the admin leaves as it was shown is not changed, nor a reason to refuse the rest.
    assert "Nothing to change." in save(path, page, role="assessor", active="true")[1]
    assert caller.patch(of_bob, json={"role": "assessor"}).status_code == 200
    assert "bob is changed." in save(path, page, role="manager", active="true")[1]
    assert now("role", "active") == ["manager", False]

    assert caller.patch(of_bob, json={"email": None}).status_code == 200
    known = {"full_name": "Bob", "email": "bob@example.com"}
    assert save(f"{path}/profile", profile, **known | {"full_name": "Robert"})[0] == 204
    assert now("full_name", "email") == ["Robert", None]
    words = "the full name is Robert and the e-mail is empty"
    refused = (409, f"{meanwhile}{words}. Reload the page.")
    assert save(f"{path}/profile", profile, full_name="Bobby", email="b@example.com") == refused
    assert now("full_name", "email") == ["Robert", None]


def test_the_last_admin_stays(caller: Caller) -> None:
    user_id = caller.make_user("root", "admin")
    caller.be(None)  # and the admin of `make token` stays active
    sign_in(caller, "root")
    for change in ({"role": "manager"}, {"active": False}):
        answer = caller.patch(f"/api/users/{user_id}", json=change)
        assert answer.status_code == 409
        assert "last" in answer.json()["detail"]
    assert caller.get("/api/session").json()["role"] == "admin"
    assert caller.patch("/api/users/1", json={"active": False}).status_code == 200
    assert caller.patch(f"/api/users/{user_id}", json={"full_name": "Root"}).status_code == 200


def test_an_admin_who_cannot_sign_in_is_not_the_last(database: str) -> None:
    only_there = DefaultSettings(
        oidc_issuer="https://login.example.com",
        oidc_client_id="desk",
        oidc_roles={"admins": "admin"},
        api_public_url="https://crm.example.com",
        password_sign_in=False,
    )
    with calling(database, only_there) as caller:
        caller.make_user("ada", "admin")
        eve = caller.make_user("eve", "admin")
        caller.be(Role.ADMIN)
        with psycopg.connect(database, autocommit=True) as connection:
            for can_sign_in in (
                "is_break_glass = true",
                "oidc_subject = 'eve', oidc_issuer = 'https://login.example.com'",
            ):
                connection.execute(f"update users set {can_sign_in} where name = 'eve'")  # noqa: S608
                answer = caller.patch(f"/api/users/{eve}", json={"active": False})
                assert answer.status_code == 409, "ada's password is of no use"
                connection.execute("update users set is_break_glass = false where name = 'eve'")
            connection.execute(
                "update users set oidc_issuer = 'https://old.example.com' where name = 'eve'"
            )
        assert caller.patch(f"/api/users/{eve}", json={"active": False}).status_code == 200


def test_a_service_has_no_password(caller: Caller) -> None:
    service = {"name": "report", "role": "viewer", "is_service": True}
    admin = caller.signed_in()
    answer = caller.post("/api/users", json=service | {"password": PASSWORD}, headers=admin)
    assert answer.status_code == 422
    made = caller.post("/api/users", json=service).json()
    path = f"/api/users/{made['id']}"
    assert caller.patch(path, json={"password": PASSWORD}, headers=admin).status_code == 409


def test_no_api_token_gives_anybody_a_password(caller: Caller) -> None:
    new = {"name": "ada", "role": "admin", "password": PASSWORD}
    assert caller.post("/api/users", json=new).status_code == 403
    assert caller.post("/api/users", json=new, headers=caller.signed_in()).status_code == 201


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
        {"name": "ada\u200b"},
        {"name": "\u202eada"},
        {"name": "ad\u0430"},  # the last letter is Cyrillic
        {"name": "ada\u3164"},
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
    user_id = caller.make_user("grace.hopper")
    new = {"name": "ada", "full_name": "Grace Hopper", "role": "viewer", "password": password}
    path, admin = f"/api/users/{user_id}", caller.signed_in()
    answers = [
        caller.post("/api/users", json=new | {"name": "Grace.Hopper"}, headers=admin),
        caller.patch(path, json={"password": password}, headers=admin),
    ]
    caller.be(None)
    sign_in(caller, "grace.hopper")
    answers.append(caller.put("/api/password", json={"present": PASSWORD, "new": password}))
    for answer in answers:
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("This password is easy to guess. ")
        assert password not in answer.text
    assert sign_in(caller, "grace.hopper") == 201


@pytest.mark.parametrize("other", ["Ada", "\uff41\uff44\uff41"])
def test_one_name_has_several_spellings(caller: Caller, other: str) -> None:
    caller.make_user()
    answer = caller.post("/api/users", json={"name": other, "role": "viewer"})
    assert answer.status_code == 409
    assert sign_in(caller, other) == 201


def test_ones_own_password(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    sign_in(caller)
    change = {"present": "wrong", "new": "another long one"}
    assert caller.put("/api/password", json=change).status_code == 409
    assert caller.put("/api/password", json=change | {"present": PASSWORD}).status_code == 204
    assert caller.get("/api/session").status_code == 401
    assert sign_in(caller) == 401
    assert sign_in(caller, password="another long one") == 201


def test_guessing_the_present_password_locks_too(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    sign_in(caller)
    change = {"present": "wrong", "new": "another long one"}
    answers = [caller.put("/api/password", json=change).status_code for _ in range(5)]
    assert answers == [409] * 5
    with psycopg.connect(caller.database) as connection:
        # Each of them counted for the session: as if there had been many more.
        connection.execute(
            "insert into sign_in_attempts (name, client, session_id, is_known)"
            " select name, client, session_id, is_known"
            " from sign_in_attempts, generate_series(1, 3) where session_id is not null"
        )
    locked = caller.put("/api/password", json=change | {"present": PASSWORD})
    assert locked.status_code == 429
    assert 0 < int(locked.headers["retry-after"]) <= 900


def test_personal_tokens(caller: Caller) -> None:
    user_id = caller.make_user()
    caller.be(None)
    sign_in(caller)
    made = caller.post("/api/tokens", json={"name": "report", "days": 7, "scopes": ["workflow"]})
    assert made.status_code == 201
    token = made.json()["token"]
    caller.cookies.clear()
    caller.headers["Authorization"] = f"Bearer {token}"
    assert caller.get("/api/session").json()["name"] == "ada"
    (listed,) = caller.get("/api/tokens").json()
    assert listed == {name: value for name, value in made.json().items() if name != "token"} | {
        "last_used_at": listed["last_used_at"],
        "address": "127.0.0.1",
    }
    assert listed["last_used_at"] is not None
    assert listed["scopes"] == ["read", "workflow"]
    assert caller.delete("/api/tokens/1").status_code == 404  # the admin's
    assert caller.get("/api/tokens", params={"user_id": 1}).status_code == 403
    caller.be(Role.ADMIN)
    assert len(caller.get("/api/tokens", params={"user_id": user_id}).json()) == 1
    assert caller.delete(f"/api/tokens/{listed['id']}").status_code == 204
    caller.headers["Authorization"] = f"Bearer {token}"
    assert caller.get("/api/session").status_code == 401


def test_the_trail_says_who_changed_what_and_no_secret(caller: Caller) -> None:
    user_id = caller.make_user()
    changed = caller.patch(
        f"/api/users/{user_id}",
        json={"role": "manager", "password": "another long one"},
        headers=caller.signed_in() | {"X-Request-ID": "another-request"},
    )
    newest, oldest = caller.get("/api/audit", params={"subject": "user"}).json()
    assert (oldest["action"], oldest["user_name"]) == ("create", "service-admin")
    assert newest["request_id"] == changed.headers["x-request-id"]
    assert newest["before"]["role"] == "assessor"
    assert newest["after"] == newest["before"] | {"role": "manager", "password": "new"}
    wanted = {"subject": "user", "before": newest["id"], "limit": 1}
    older = caller.get("/api/audit", params=wanted).json()
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
