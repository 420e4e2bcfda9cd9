"""The audit trail: what is recorded, of whom and from where; filters and exports."""

import csv
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from api.auth import Role
from api.logs import JsonFormatter
from database.environment import ROOT
from tests.api.conftest import PASSWORD, Caller, DefaultSettings, calling, fill


def trail(caller: Caller, **wanted: str) -> list[dict[str, Any]]:
    """The entries that fulfil conditions, the newest first."""
    answer = caller.be(Role.ADMIN).get("/api/audit", params=wanted)
    assert answer.status_code == 200, answer.text
    entries: list[dict[str, Any]] = answer.json()
    return entries


@pytest.fixture
def siem() -> Iterator[list[dict[str, Any]]]:
    """The lines of the log that a SIEM collects, read back."""
    lines: list[dict[str, Any]] = []

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    handler = Reader()
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("audit")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_sign_ins_and_what_was_tried_are_recorded(
    caller: Caller, siem: list[dict[str, Any]]
) -> None:
    caller.make_user()
    caller.be(None)
    for name in ("ada", "Nobody"):
        tried = {"name": name, "password": "wrong"}
        assert caller.post("/api/session", json=tried).status_code == 401
    begun = caller.post("/api/session", json={"name": "ada", "password": PASSWORD})
    caller.headers["Authorization"] = f"Bearer {begun.json()['token']}"
    caller.delete("/api/session")
    caller.cookies.clear()

    out, in_, *failed = [
        entry for entry in trail(caller) if entry["subject"] in ("session", "name")
    ]
    assert (out["action"], out["user_name"]) == ("sign out", "ada")
    assert (in_["action"], in_["user_name"], in_["subject_name"]) == ("sign in", "ada", "ada")
    assert in_["request_id"] == begun.headers["x-request-id"]
    assert in_["address"] == "127.0.0.1"
    assert [(one["action"], one["user_name"], one["subject_id"]) for one in failed] == [
        ("fail to sign in", "(not signed in)", "Nobody"),
        ("fail to sign in", "(not signed in)", "ada"),
    ]
    (line,) = [line for line in siem if line["action"] == "sign in"]
    assert line["logger"] == "audit"
    assert (line["user"], line["address"]) == ("ada", "127.0.0.1")
    assert line["request_id"] == in_["request_id"]
    assert "wrong" not in json.dumps(siem)


def test_a_lock_out_is_recorded_once(caller: Caller) -> None:
    user_id = caller.make_user()
    caller.be(None)
    for _ in range(8):
        caller.post("/api/session", json={"name": "ada", "password": "wrong"})
    (entry,) = trail(caller, action="slow down")
    assert (entry["subject_id"], entry["subject_name"]) == (str(user_id), "ada")


def test_an_export_is_recorded_with_its_filter_and_rows(caller: Caller) -> None:
    fill(caller.database, 30)
    caller.be(Role.VIEWER)
    params = {"stage": "02 - Discovery", "format": "ndjson"}
    answer = caller.get("/api/opportunities/export", params=params)
    rows = len(answer.text.splitlines())
    assert 0 < rows < 30
    finished, started = trail(caller, subject="opportunities")
    assert started["user_name"] == "service-viewer"
    assert started["after"] == {"stage": ["02 - Discovery"], "format": "ndjson"}
    assert (finished["action"], finished["after"]) == ("finish export", {"rows": rows})
    assert finished["subject_id"] == started["subject_id"]


def test_an_export_is_recorded_though_its_reader_goes(caller: Caller) -> None:
    fill(caller.database, 20_000)
    with caller.stream("GET", "/api/opportunities/export") as answer:
        next(answer.iter_bytes())
    (started,) = trail(caller, subject="opportunities")
    assert started["action"] == "export"


def test_reads_of_raw_payloads_are_recorded(caller: Caller) -> None:
    assert caller.get("/api/rejected-records").json()["total"] == 0
    assert trail(caller, subject="rejected records") == [], "nothing was read"
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into rejected_records (record_key, stream, reason) values ('a', 'b', 'bad')"
        )
    for path in ("/api/rejected-records", "/sync", "/sync/rejects"):
        assert caller.be(Role.VIEWER).get(path).status_code == 200
    entries = trail(caller, subject="rejected records")
    assert [entry["user_name"] for entry in entries] == ["service-viewer"] * 3
    assert [entry["after"] for entry in entries] == [{"ids": [1]}] * 3


def test_what_commands_make_is_recorded(caller: Caller) -> None:
    for command, given in (
        (["api.users", "grace", "--role", "admin"], f"{PASSWORD}!\n"),
        (["api.token", "manager", "--scope", "read"], ""),
    ):
        subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            input=given,
            text=True,
            check=True,
            env=os.environ | {"DATABASE_URL": caller.database},
            stdout=subprocess.PIPE,
        )
    (user,) = trail(caller, subject="user", action="create")
    assert (user["user_name"], user["address"]) == ("(command line)", None)
    assert (user["after"]["name"], user["after"]["role"]) == ("grace", "admin")
    tokens = trail(caller, subject="token", person="(COMMAND line)")
    made = {"name": "command line", "of": "service-manager", "scopes": ["read"]}
    assert made in [token["after"] for token in tokens]
    assert "ocs_" not in json.dumps(tokens)


def test_the_trail_is_filtered_by_person_action_and_time(caller: Caller) -> None:
    caller.make_user()
    caller.be(None)
    for name in ("ada", "bob"):
        caller.post("/api/session", json={"name": name, "password": "wrong"})
    caller.post("/api/session", json={"name": "ada", "password": PASSWORD})
    caller.cookies.clear()
    of_ada = trail(caller, person="ADA")
    assert [entry["action"] for entry in of_ada] == ["sign in", "fail to sign in"]
    (failed,) = trail(caller, person="ada", action="fail to sign in")
    since_then = trail(caller, since=failed["at"])
    assert since_then[-1] == failed
    assert failed not in trail(caller, until=failed["at"])


def test_the_trail_is_exported_for_spreadsheets_and_programs(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.audit.EXPORT_ROWS", 3)
    caller.be(None)
    names = ["=1+1", "a;=2", "-3", "d", "e", "f", "g"]
    for name in names:
        caller.post("/api/session", json={"name": name, "password": "wrong"})
    caller.be(Role.ADMIN)
    params = {"action": "fail to sign in"}
    lines = caller.get("/api/audit/export", params=params | {"format": "ndjson"})
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    listed = trail(caller, **params)
    assert [json.loads(line) for line in lines.text.splitlines()] == listed
    assert [entry["subject_id"] for entry in listed] == names[::-1]
    table = caller.get("/api/audit/export", params=params)
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert [row["subject_id"] for row in rows] == [*"gfed", "'-3", "a;'=2", "'=1+1"]
    exports = trail(caller, action="export", subject="audit")
    assert [entry["after"] for entry in exports] == [params, params | {"format": "ndjson"}]


def test_where_users_are_need_not_be_kept(
    database: str, caplog: pytest.LogCaptureFixture, siem: list[dict[str, Any]]
) -> None:
    caplog.set_level(logging.INFO)
    with calling(database, DefaultSettings(api_keep_addresses=False)) as caller:
        caller.make_user()
        caller.be(None)
        for password in (*["wrong"] * 5, PASSWORD):
            given = {"name": "ada", "password": password}
            caller.post("/api/session", json=given, headers={"User-Agent": "Firefox"})
        caller.cookies.clear()
        answer = caller.post("/api/session", json=given)
        assert answer.status_code == 429, "by address, as ever"
        entries = trail(caller)
        assert {entry["address"] for entry in entries} == {None}
        assert {line["address"] for line in siem} == {None}
        own = [line for line in caplog.records if line.name.startswith(("api", "audit"))]
        assert {"api.requests", "api.users.sign_in", "audit"} <= {line.name for line in own}
        for text in (json.dumps(entries), "".join(str(vars(line)) for line in own)):
            assert "127.0.0.1" not in text
    with psycopg.connect(database) as connection:
        kept = connection.execute("select distinct address, browser from tokens").fetchall()
    assert kept == [(None, None)]
