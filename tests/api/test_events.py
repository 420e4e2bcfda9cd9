"""The event stream: what changed, what the syncs do, and on from where a reader left off."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from api.app import create_app
from api.auth import Role
from api.changes import events as changes_events
from api.changes.cursor import Position
from api.token import make_token
from tests.api.conftest import DefaultSettings, fill, running
from tests.console.demo import add_run

PATH = "/api/events"
Event = tuple[str, Any, str | None]


@contextmanager
def following(
    server: httpx.Client, headers: dict[str, str] | None = None, **asked: Any
) -> Iterator[Iterator[Event]]:
    """The events of a stream, as they come: name, data and id."""
    with server.stream("GET", PATH, params=asked, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _events(answer.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id")
        if not line:
            fields = {}


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    fill(database, 5)
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def test_changes_come_when_they_are_committed(
    server: httpx.Client, connection: psycopg.Connection[Any], database: str
) -> None:
    with following(server) as events:
        assert next(events) == ("sync", {"run": None, "last_success": None}, None)
        with psycopg.connect(database) as merge:
            merge.execute("update opportunities set stage = 'x', deal_value = 1 where id <= 2")
            merge.execute("insert into opportunities (id, remote_id) values (77, 'new')")
        name, data, cursor = next(events)
        assert name == "changes"
        assert data == {"deals": 3, "opportunity_ids": [1, 2, 77]}
    connection.execute("update opportunities set stage = 'y' where id = 4")
    feed = server.get("/api/changes", params={"cursor": cursor}).json()
    assert [item["opportunity_id"] for item in feed["items"]] == [4]
    # Whatever has happened while the stream was broken off is told when it goes on.
    for headers, asked in (
        ({"Last-Event-ID": str(cursor)}, {}),
        ({}, {"cursor": str(cursor)}),
        ({"Last-Event-ID": str(cursor)}, {"cursor": "of the page, long ago"}),
    ):
        with following(server, headers, **asked) as events:
            assert next(events)[0] == "sync"
            assert next(events)[1] == {"deals": 1, "opportunity_ids": [4]}
    with following(server, cursor=feed["next_cursor"]) as events:
        assert next(events)[0] == "sync"
        connection.execute("update opportunities set stage = 'z' where id = 5")
        assert next(events)[1] == {"deals": 1, "opportunity_ids": [5]}


def test_many_are_counted_and_not_named(
    server: httpx.Client, connection: psycopg.Connection[Any], database: str
) -> None:
    with following(server) as events:
        next(events)
        fill_again = "insert into opportunities (remote_id) select generate_series(1, 2000)::text"
        connection.execute(fill_again)
        assert next(events)[1] == {"deals": 2000, "opportunity_ids": None}


def test_ones_own_changes_may_be_left_out(
    server: httpx.Client, connection: psycopg.Connection[Any], database: str
) -> None:
    connection.execute("update opportunities set workflow_status = 'NEW', crm_outcome = 'OPEN'")
    other = make_token(database, Role.MANAGER, timedelta(hours=1))
    with following(server, of_others=True) as events:
        next(events)
        for id_, headers in ((1, {}), (2, {"Authorization": f"Bearer {other}"})):
            moved = server.patch(
                f"/api/opportunities/{id_}", json={"workflow_status": "ASSIGNED"}, headers=headers
            )
            assert moved.status_code == 200, moved.text
        assert next(events)[1]["opportunity_ids"] == [2]


def test_a_cursor_that_is_too_old_is_told_of(
    server: httpx.Client, connection: psycopg.Connection[Any]
) -> None:
    (old,) = connection.execute("select generation from change_feed").fetchone() or (0,)
    with following(server, cursor=Position().encode(old - 1)) as events:
        assert next(events)[0] == "sync"
        name, _, cursor = next(events)
        assert name == "reset"
        connection.execute("update opportunities set stage = 'z' where id = 5")
        assert next(events)[0] == "changes"
    assert server.get("/api/changes", params={"cursor": cursor}).status_code == 200
    assert server.get(PATH, params={"cursor": "none"}).status_code == 422


def test_a_sync_is_followed_to_its_end(
    server: httpx.Client, connection: psycopg.Connection[Any]
) -> None:
    with following(server) as events:
        next(events)
        run_id = add_run(connection, datetime.now(UTC), None, 250)
        name, data, _ = next(events)
        assert name == "sync"
        assert (data["run"]["run_id"], data["run"]["status"]) == (run_id, "RUNNING")
        connection.execute(
            "update sync_runs set transform_succeeded = true, transform_completed_at = now(),"
            " transform_started_at = now(), extraction_completed = true, ended_at = now()"
        )
        while (data := next(events)[1])["run"]["status"] == "RUNNING":
            pass
        assert data["run"]["status"] == "SUCCESS"
        assert data["last_success"] is not None


def test_it_ends_with_the_token(
    server: httpx.Client, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_events, "LET_IN_SECONDS", 0)
    with following(server) as events:
        next(events)
        connection.execute("update tokens set revoked_at = now()")
        assert next(events)[0] == "signed-out"
        assert next(events, None) is None


def test_a_frontend_of_another_origin_may_go_on_where_it_left_off(database: str) -> None:
    origin = "https://desk.example.com"
    token = make_token(database, Role.VIEWER, timedelta(hours=1))
    settings = DefaultSettings.model_validate({"api_cors_origins": origin})
    with running(create_app(settings, database)) as address:
        wanted = {
            "Origin": origin,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization, last-event-id",
        }
        answer = httpx.options(address + PATH, headers=wanted)
        assert answer.status_code == 200
        assert "Last-Event-ID" in answer.headers["access-control-allow-headers"]
        headers = {
            "Origin": origin,
            "Authorization": f"Bearer {token}",
            "Last-Event-ID": Position().encode(1),
        }
        with httpx.stream("GET", address + PATH, headers=headers) as answer:
            assert answer.headers["access-control-allow-origin"] == origin
            assert next(_events(answer.iter_lines()))[0] == "sync"
