"""A person is erased: nothing that the database keeps has the name or the e-mail any more."""

import json
import os
import subprocess
import sys
from typing import Any
from unicodedata import normalize

import httpx
import psycopg
import pytest
from psycopg import sql

from api.auth import Role
from database.environment import ROOT
from tests.api.conftest import PASSWORD, Caller, fill

# With letters that no hash and no UUID has: one of thousands would have "ada".
NAME = "adalov"
FULL_NAME, EMAIL = 'Ada "Countess" Łovelace', "ada.l@example.com"
OWNER = "300000000000123"
OWNER_NAME, OWNER_EMAIL = "Mira Kowalchik", "mira.k@example.com"


def search(database: str, *words: str) -> list[str]:
    """Return the tables and columns, of all there are, in which one of the words stands."""
    found = []
    with psycopg.connect(database) as connection:
        columns = connection.execute(
            """
            select nspname, relname, attname
            from pg_attribute
            join pg_class on pg_class.oid = attrelid
            join pg_namespace on pg_namespace.oid = relnamespace
            where nspname in ('public', 'raw', 'meltano', 'staging')
                and relkind in ('r', 'v', 'm') and attnum > 0 and not attisdropped
            """
        ).fetchall()
        assert len(columns) > 200
        for schema, table, column in columns:
            query = sql.SQL("select count(*) from {} where {}::text ilike any(%s)").format(
                sql.Identifier(schema, table), sql.Identifier(column)
            )
            patterns = [f"%{word}%" for word in words]
            (count,) = connection.execute(query, [patterns]).fetchone() or (0,)
            found += [f"{table}.{column}"] * bool(count)
    return found


def ask(caller: Caller, method: str, headers: dict[str, str], **person: object) -> httpx.Response:
    given: dict[str, Any] = {"params" if method == "GET" else "json": person}
    return caller.request(method, "/api/erasure", headers=headers, **given)


def as_user(caller: Caller) -> dict[str, str]:
    """Sign in as the user to be erased, as a program does."""
    answer = caller.post("/api/session", json={"name": NAME, "password": PASSWORD})
    caller.cookies.clear()
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def work_as_ada(caller: Caller) -> int:
    """Let a user do a bit of all that leaves traces; return the id."""
    fill(caller.database, 10)
    ada = caller.make_user(NAME, "manager", full_name=FULL_NAME, email=EMAIL)
    admin = caller.signed_in()
    caller.patch(f"/api/users/{ada}", json={"full_name": f"{FULL_NAME}"}, headers=admin)
    caller.be(None)
    caller.post("/api/session", json={"name": NAME.capitalize(), "password": "wrong"})
    own = as_user(caller)
    as_user(caller)
    caller.post("/api/tokens", json={"name": f"report of {FULL_NAME}"}, headers=own)
    for deal, change in ((1, {"workflow_status": "ASSIGNED"}), (3, {"assigned_to": ada})):
        answer = caller.patch(f"/api/opportunities/{deal}", json=change, headers=own)
        assert answer.status_code == 200, answer.text
    made = caller.post("/api/assessments", json={"opportunity_id": 2}, headers=own).json()
    body = {"body": f"Ask {FULL_NAME.upper()} <{EMAIL}>, not xada.l@example.com."}
    caller.post(f"/api/assessments/{made['id']}/comments", json=body, headers=own)
    caller.get("/api/audit/export", params={"person": NAME}, headers=admin)
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            """
            insert into sync_runs (run_id, requested_by, cancelled_by, error_message)
            values (gen_random_uuid(), %s, %s, 'Ask ' || %s)
            """,
            [NAME, NAME, FULL_NAME],
        )
        connection.execute(
            "insert into user_functions values (%s, 'practice_head', 'Cloud')", [ada]
        )
    session = caller.get("/api/sessions", params={"user_id": ada}, headers=admin).json()[0]
    caller.delete(f"/api/sessions/{session['id']}", headers=admin)
    return ada


def test_a_user_is_erased_everywhere(caller: Caller) -> None:
    ada = work_as_ada(caller)
    namesake = caller.make_user("countess", full_name=FULL_NAME, email="other@example.com")
    admin = caller.signed_in()
    words = (NAME, "ada ", "lovelace", "Łovelace", EMAIL)
    before = search(caller.database, *words)
    assert {"users.name", "opportunity_changes.changed_by", "sync_runs.cancelled_by"} <= {*before}
    assert {"assessment_comments.body", "tokens.name", "audit_log.after"} <= {*before}

    rehearsed = ask(caller, "GET", admin, user_id=ada)
    assert rehearsed.status_code == 200, rehearsed.text
    assert search(caller.database, *words) == before
    erased = ask(caller, "POST", admin, user_id=ada)
    assert erased.json() == rehearsed.json()
    own = {"tokens": 3, "sign_in_attempts": 1, "user_functions": 1, "users": 1}
    rows = erased.json()["rows"]
    assert own.items() <= {table.removeprefix("public."): n for table, n in rows.items()}.items()

    with psycopg.connect(caller.database, autocommit=True) as connection:
        (body,) = connection.execute("select body from assessment_comments").fetchone() or ("",)
        assert body == f"Ask erased user {ada} <erased user {ada}>, not xada.l@example.com."
        connection.execute("delete from assessment_comments")
    kept = caller.get(f"/api/users/{namesake}", headers=admin).json()
    assert kept["full_name"] == FULL_NAME
    ask(caller, "POST", admin, user_id=namesake)
    assert search(caller.database, *words) == []

    history = caller.get("/api/opportunities/3/history", headers=admin).json()
    assert {entry["changed_by"] for entry in history} == {f"erased user {ada}"}
    assert history[0]["new_value"] == f"erased user {ada}"
    assert caller.get("/api/assessments", headers=admin).json()[0]["created_by"] == ada
    assert caller.get(f"/api/users/{ada}", headers=admin).status_code == 404
    assert ada not in [one["id"] for one in caller.get("/api/users", headers=admin).json()]
    assert as_user_fails(caller)
    (entry,) = caller.get(
        "/api/audit", params={"action": "erase", "subject_id": str(ada)}, headers=admin
    ).json()
    assert entry["user_name"] == "service-admin"
    assert entry["after"] == erased.json()["rows"]
    with psycopg.connect(caller.database) as connection:
        addresses = connection.execute(
            "select address from audit_log where user_id = %s", [ada]
        ).fetchall()
        assert len(addresses) >= 5
        assert {address for (address,) in addresses} == {None}


def as_user_fails(caller: Caller) -> bool:
    given = {"name": NAME, "password": PASSWORD}
    return bool(caller.post("/api/session", json=given).status_code == 401)


def test_the_trail_is_as_unchangeable_as_before(caller: Caller) -> None:
    ada = caller.make_user()
    ask(caller, "POST", caller.signed_in(), user_id=ada)
    with (
        psycopg.connect(caller.database) as connection,
        pytest.raises(psycopg.Error, match="trail"),
    ):
        connection.execute("update audit_log set user_name = 'eve'")


def load(database: str) -> None:
    """Write of an owner what a loader does, and what a merge makes of it."""
    record = {
        "OwnerResourcePartyId": int(OWNER),
        "PartyName1": OWNER_NAME,
        "EmailAddress": OWNER_EMAIL,
        "CreatedBy": OWNER_EMAIL.upper(),
        "WinProb": 101,
    }
    with psycopg.connect(database) as connection:
        for statement in (
            """
            insert into raw.resources ("PartyId", "PartyName", "EmailAddress", "CreatedBy")
            values (%(owner)s, %(name)s, %(email)s, %(email)s)
            on conflict ("PartyId") do update
            set "PartyName" = excluded."PartyName", "EmailAddress" = excluded."EmailAddress"
            """,
            """
            insert into raw.opportunity_team ("OptyResourceId", "ResourceId", "PartyName")
            values (1, %(owner)s, %(name)s)
            on conflict ("OptyResourceId") do update set "PartyName" = excluded."PartyName"
            """,
            """
            insert into raw.opportunities ("OptyId", "OwnerResourcePartyId", "PartyName1", custom)
            values (1, %(owner)s, %(name)s, jsonb_build_object('Contact_c', %(email)s::text))
            on conflict ("OptyId") do update
            set "PartyName1" = excluded."PartyName1", custom = excluded.custom
            """,
            """
            insert into raw.rejected_records (id, stream, payload)
            values ('a', 'opportunities', %(payload)s)
            on conflict (id) do update set payload = excluded.payload
            """,
            """
            insert into sales_owners (remote_id, name, email)
            select "PartyId"::text, "PartyName", "EmailAddress" from raw.resources
            on conflict (remote_id) do update set name = excluded.name, email = excluded.email
            """,
            """
            insert into rejected_records (record_key, stream, reason, payload)
            select 'a', 'opportunities', 'WinProb', payload::jsonb from raw.rejected_records
            on conflict (record_key) do update set payload = excluded.payload
            """,
        ):
            connection.execute(
                statement,
                {
                    "owner": int(OWNER),
                    "name": OWNER_NAME,
                    "email": OWNER_EMAIL,
                    "payload": json.dumps(record),
                },
            )


@pytest.fixture
def loaded(caller: Caller) -> Any:
    """The database after a load, and with no trace of the erased owner afterwards."""
    load(caller.database)
    yield caller.database
    with psycopg.connect(caller.database, autocommit=True) as connection:
        connection.execute(
            """
            truncate raw.resources, raw.opportunity_team, raw.opportunities, raw.rejected_records;
            delete from erased_owners;
            do $$
            declare
                name text;
            begin
                foreach name in array array[
                    'opportunities', 'rejected_records', 'accounts', 'resources', 'revenue_lines',
                    'opportunity_team'
                ] loop
                    execute format(
                        'drop trigger if exists leave_out_erased_owners on raw.%I', name
                    );
                end loop;
            end
            $$
            """
        )


def test_an_owner_is_erased_and_does_not_come_back(caller: Caller, loaded: str) -> None:
    words = ("kowalchik", OWNER_EMAIL)
    assert len(search(loaded, *words)) >= 8
    with psycopg.connect(loaded) as connection:
        batches = connection.execute("select batch from load_fence").fetchone()
    same = caller.make_user("mira", email=OWNER_EMAIL)
    admin = caller.signed_in()
    rehearsed = ask(caller, "GET", admin, owner=OWNER).json()
    assert rehearsed["same_users"] == [{"id": same, "name": "mira"}]
    assert ask(caller, "POST", admin, owner=OWNER).status_code == 200
    ask(caller, "POST", admin, user_id=same)
    assert search(loaded, *words) == []
    with psycopg.connect(loaded) as connection:
        assert connection.execute("select batch from load_fence").fetchone() == batches

    load(loaded)
    assert search(loaded, *words) == []
    with psycopg.connect(loaded) as connection:
        (payload,) = connection.execute("select payload from rejected_records").fetchone() or ({},)
    assert payload == {
        "OwnerResourcePartyId": int(OWNER),
        "PartyName1": None,
        "EmailAddress": None,
        "CreatedBy": f"erased owner {OWNER}",
        "WinProb": 101,
    }


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        ('"abc"', "abc"),
        ("7", 7),
        ("null", None),
        (None, None),
        ("[]", []),
        (
            json.dumps([2, OWNER_EMAIL, {"To_c": [OWNER_EMAIL.upper(), "z"]}, 1]),
            [2, f"erased owner {OWNER}", {"To_c": [f"erased owner {OWNER}", "z"]}, 1],
        ),
    ],
)
def test_a_reject_that_is_no_record_stops_no_erasure_and_no_load(
    caller: Caller, loaded: str, payload: str | None, kept: Any
) -> None:
    """The CRM sent a text, a number or a list where a record belongs."""
    with psycopg.connect(loaded, autocommit=True) as connection:
        reject = """
            insert into raw.rejected_records (id, stream, payload) values ('b', 'x', %s)
            on conflict (id) do update set payload = excluded.payload
            returning payload
            """
        connection.execute(reject, [payload])
        answer = ask(caller, "POST", caller.signed_in(), owner=OWNER)
        assert answer.status_code == 200, answer.text
        (stored,) = connection.execute(reject, [payload]).fetchone() or ("",)
    assert (stored and json.loads(stored)) == kept


def test_an_erased_e_mail_in_a_list_does_not_come_back(caller: Caller, loaded: str) -> None:
    custom = {"Team_c": [OWNER_EMAIL, "z", {"To_c": [[OWNER_EMAIL]]}], "Empty_c": [], "Number_c": 1}
    with psycopg.connect(loaded, autocommit=True) as connection:
        load_again = "update raw.opportunities set custom = %s returning custom"
        connection.execute(load_again, [json.dumps(custom)])
        ask(caller, "POST", caller.signed_in(), owner=OWNER)
        ((kept,),) = connection.execute(load_again, [json.dumps(custom)]).fetchall()
    erased = f"erased owner {OWNER}"
    assert kept == custom | {"Team_c": [erased, "z", {"To_c": [[erased]]}]}


@pytest.mark.parametrize(("of_owner", "of_text"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_however_its_accents_are_written(
    caller: Caller, loaded: str, of_owner: Any, of_text: Any
) -> None:
    name = "José García"
    with psycopg.connect(loaded, autocommit=True) as connection:
        connection.execute("update sales_owners set name = %s", [normalize(of_owner, name)])
        connection.execute(
            "insert into opportunities (remote_id, name) values ('1', %s), ('2', 'Jose Garcia')",
            [f"Deal of {normalize(of_text, name)}"],
        )
        ask(caller, "POST", caller.signed_in(), owner=OWNER)
        names = connection.execute("select name from opportunities order by remote_id").fetchall()
    assert names == [(f"Deal of erased owner {OWNER}",), ("Jose Garcia",)]


def test_who_may_not_be_erased(caller: Caller) -> None:
    admin = caller.signed_in()
    own = caller.get("/api/session", headers=admin).json()["id"]
    assert ask(caller, "POST", admin, user_id=own).status_code == 409
    assert ask(caller, "POST", admin, user_id=999).status_code == 404
    assert ask(caller, "POST", admin, owner="999").status_code == 404
    both = {"owner": "999", "user_id": own}
    assert ask(caller, "POST", admin, **both).status_code == 422
    assert caller.get("/admin/erasure", params=both, headers=admin).status_code == 200
    assert caller.post("/admin/erasure", data=both, headers=admin).status_code == 422
    caller.be(Role.ADMIN)
    assert ask(caller, "POST", {}, user_id=999).status_code == 403, "by an API token"


def test_the_command_rehearses_unless_told_otherwise(caller: Caller) -> None:
    ada = caller.make_user(full_name=FULL_NAME)

    def make(*options: str) -> str:
        done = subprocess.run(
            ["make", "-s", "erase", *options, f"PYTHON={sys.executable}"],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": caller.database},
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout

    assert "add APPLY=1" in make("PERSON=Ada")
    assert caller.get(f"/api/users/{ada}").status_code == 200
    assert "ada: this was erased" in make("PERSON=Ada", "APPLY=1")
    assert caller.get(f"/api/users/{ada}").status_code == 404
    assert "There is no user ada." in make("PERSON=ada", "APPLY=1")
    assert "required" in make()
