"""The feed of changes: each change once, in the order of commits, however transactions overlap."""

import base64
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrate.housekeeping import clean
from tests.api.conftest import Caller, fill

PATH = "/api/changes"


def read(caller: Caller, cursor: str | None, limit: int = 2) -> tuple[list[dict[str, Any]], str]:
    """All that comes after a cursor, and where it ends."""
    items: list[dict[str, Any]] = []
    while True:
        asked = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
        answer = caller.get(PATH, params=asked)
        assert answer.status_code == 200, answer.text
        feed = answer.json()
        items += feed["items"]
        cursor = feed["next_cursor"]
        if not feed["has_more"]:
            return items, str(cursor)


def what(item: dict[str, Any]) -> tuple[Any, ...]:
    return (item["kind"], item["remote_id"], item["field"], item["new_value"])


@pytest.fixture
def connection(caller: Caller) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(caller.database, autocommit=True) as connection:
        yield connection


def test_what_becomes_of_a_deal(caller: Caller, connection: psycopg.Connection[Any]) -> None:
    fill(caller.database, 3)
    items, cursor = read(caller, None)
    assert [item["kind"] for item in items] == ["new"] * 3
    assert [item["opportunity_id"] for item in items] == [1, 2, 3]
    connection.execute("update opportunities set deal_value = 7, stage = 'x' where id = 2")
    connection.execute("update opportunities set deleted_at = now() where id = 1")
    connection.execute("update opportunities set deleted_at = null where id = 1")
    assert caller.patch("/api/opportunities/3", json={"workflow_status": "NEW"}).status_code == 200
    items, cursor = read(caller, cursor)
    assert [(item["kind"], item["opportunity_id"], item["field"]) for item in items] == [
        ("changed", 2, "stage"),
        ("changed", 2, "deal_value"),
        ("deleted", 1, "deleted_at"),
        ("returned", 1, "deleted_at"),
    ]
    assert items[1]["old_value"] == "2000.50"
    assert items[1]["new_value"] == "7"
    assert read(caller, cursor)[0] == []


def counts(caller: Caller) -> dict[str, int]:
    """What the page Today counts; the kinds that it counts nothing of are left out."""
    found = re.findall(
        r"<strong>\s*<data[^>]*>(\d+)</data>\s*</strong>\s*<span>(.*?)</span>",
        caller.get("/today", params={"since": "week"}).text,
    )
    assert len(found) >= 8
    return {kind: int(count) for count, kind in found if count != "0"}


def test_a_number_in_other_digits_is_no_change(
    caller: Caller, connection: psycopg.Connection[Any]
) -> None:
    fill(caller.database, 3)
    connection.execute("truncate opportunity_arrivals")
    _, cursor = read(caller, None)
    connection.execute("update opportunities set deal_value = 100, win_probability = 50")
    items, cursor = read(caller, cursor)
    connection.execute("truncate opportunity_changes")
    connection.execute(
        "update opportunities set deal_value = 100.00, win_probability = 50.0, stage = 'x'"
    )
    items, cursor = read(caller, cursor)
    assert [item["field"] for item in items] == ["stage"] * 3
    assert counts(caller) == {"Stage moved": 3}

    # And if it comes back from another number.
    connection.execute("update opportunities set deal_value = 101 where id = 1")
    connection.execute("update opportunities set deal_value = 100 where id = 1")
    connection.execute("update opportunities set deal_value = null where id = 2")
    connection.execute("update opportunities set win_probability = null where id = 2")
    items, cursor = read(caller, cursor)
    assert [(item["old_value"], item["new_value"]) for item in items] == [
        ("100.00", "101"),
        ("101", "100"),
        ("100.00", None),
        ("50.0", None),
    ]
    assert counts(caller) == {"Stage moved": 3, "Value down": 1}


@pytest.mark.parametrize(("before", "after"), [(None, "EUR"), ("EUR", "JPY"), ("EUR", None)])
def test_a_value_in_another_currency_is_not_more_or_less(
    caller: Caller, connection: psycopg.Connection[Any], before: str | None, after: str | None
) -> None:
    fill(caller.database, 2)
    connection.execute("update opportunities set deal_value = 100, currency = %s", [before])
    connection.execute("truncate opportunity_arrivals, opportunity_changes")
    connection.execute("update opportunities set deal_value = 15000, currency = %s", [after])
    assert counts(caller) == {"Currency changed": 2}
    connection.execute("truncate opportunity_changes")
    connection.execute("update opportunities set deal_value = 16000")
    assert counts(caller) == {"Value up": 2}


def test_a_reader_may_begin_at_a_time(caller: Caller, connection: psycopg.Connection[Any]) -> None:
    fill(caller.database, 5)
    connection.execute(
        "update opportunity_arrivals set arrived_at = now() - interval '3 days', xid = '0'"
    )
    connection.execute("update opportunities set stage = 'x' where id = 4")
    connection.execute("update opportunity_changes set changed_at = now() - interval '1 day'")
    connection.execute("update opportunities set stage = 'y' where id = 5")

    def since(interval: str) -> list[int]:
        ((at,),) = connection.execute("select now() - %s::interval", [interval]).fetchall()
        items = caller.get(PATH, params={"since": at.isoformat()}).json()["items"]
        return [item["opportunity_id"] for item in items]

    assert since("4 days") == [1, 2, 3, 4, 5, 4, 5]
    assert since("2 days") == [4, 5]
    assert since("1 hour") == [5]
    assert since("-1 hour") == []
    assert caller.get(PATH, params={"since": "yesterday"}).status_code == 422


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(0, 2), st.integers(1, 3)),
        st.tuples(st.just("update"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("commit"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("roll back"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 4)),
    ),
    max_size=25,
)


@pytest.fixture
def writers(caller: Caller) -> Iterator[list[psycopg.Connection[Any]]]:
    """Three connections, each with a deal of its own: none waits for another."""
    with ExitStack() as stack:
        writers = [stack.enter_context(psycopg.connect(caller.database)) for _ in range(3)]
        for who, writer in enumerate(writers):
            writer.execute("insert into opportunities (remote_id) values (%s)", [f"deal {who}"])
            writer.commit()
        yield writers


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_readers_miss_nothing_and_see_nothing_twice(
    caller: Caller, writers: list[psycopg.Connection[Any]], steps: list[tuple[str, int, int]]
) -> None:
    """Three writers whose transactions overlap, and two readers who page along."""
    for writer in writers:
        writer.rollback()
    end = caller.get(PATH, params={"since": "2100-01-01"}).json()["next_cursor"]
    cursors = [end, end]
    pending: list[list[tuple[Any, ...]]] = [[], [], []]
    committed: list[tuple[Any, ...]] = []
    seen: list[list[tuple[Any, ...]]] = [[], []]

    def finish(who: int) -> None:
        writers[who].commit()
        committed.extend(pending[who])
        pending[who].clear()

    for step, who, size in steps:
        if step == "insert":
            made = [str(uuid.uuid4()) for _ in range(size)]
            writers[who].execute(
                "insert into opportunities (remote_id) select unnest(%s::text[])", [made]
            )
            pending[who] += [("new", one, None, None) for one in made]
        elif step == "update":
            stage = str(uuid.uuid4())
            writers[who].execute(
                "update opportunities set stage = %s where remote_id = %s", [stage, f"deal {who}"]
            )
            pending[who].append(("changed", f"deal {who}", "stage", stage))
        elif step == "commit":
            finish(who)
        elif step == "roll back":
            writers[who].rollback()
            pending[who].clear()
        else:
            items, cursors[who] = read(caller, cursors[who], size)
            seen[who] += map(what, items)
            assert set(seen[who]) <= set(committed)
    for who in range(3):
        finish(who)
    for who in range(2):
        items, cursors[who] = read(caller, cursors[who])
        seen[who] += map(what, items)
        assert sorted(seen[who], key=repr) == sorted(committed, key=repr)
        for deal in ("deal 0", "deal 1", "deal 2"):
            in_order = [one for one in committed if one[1] == deal]
            assert [one for one in seen[who] if one[1] == deal] == in_order


def test_a_cursor_is_good_until_what_comes_after_it_is_deleted(
    caller: Caller, connection: psycopg.Connection[Any]
) -> None:
    fill(caller.database, 3)
    start = caller.get(PATH, params={"limit": 1}).json()["next_cursor"]
    _, end = read(caller, None)
    connection.execute("update opportunity_arrivals set arrived_at = now() - interval '9 years'")
    connection.execute("update opportunities set stage = 'x'")
    connection.execute(
        "update opportunity_changes set changed_at = now() - interval '8 years' where id < 3"
    )
    removed = dict(clean(connection, 1))
    assert removed["changes of deals after 1095 days (CHANGE_RETENTION_DAYS)"] == 2
    answer = caller.get(PATH, params={"cursor": start})
    assert answer.status_code == 410
    assert answer.headers["content-type"] == "application/problem+json"
    assert "too old" in answer.json()["detail"]
    items, newest = read(caller, None)
    assert [item["opportunity_id"] for item in items] == [3]
    connection.execute("update opportunities set stage = 'y' where id = 2")
    assert [item["new_value"] for item in read(caller, newest)[0]] == ["y"]
    assert caller.get(PATH, params={"cursor": end}).status_code == 410


def test_a_restored_order_begins_anew(caller: Caller, connection: psycopg.Connection[Any]) -> None:
    fill(caller.database, 3)
    connection.execute("update opportunities set stage = 'x'")
    _, cursor = read(caller, None)
    connection.execute("select renew_change_feed(false)")
    assert read(caller, cursor)[0] == []
    # As in a server whose transactions count from a lower number.
    connection.execute("update opportunity_changes set xid = '4000000000000'")
    assert len(read(caller, None)[0]) == 3
    connection.execute("select renew_change_feed(false)")
    items, newest = read(caller, None)
    assert len(items) == 6
    assert caller.get(PATH, params={"cursor": cursor}).status_code == 410
    connection.execute("update opportunities set stage = 'y' where id = 1")
    assert len(read(caller, newest)[0]) == 1


@pytest.mark.parametrize(
    "parts",
    [
        "no json",
        [],
        [1, "0", "-infinity", 0],
        [1, "-1", "-infinity", 0, 0],
        [1, "1" * 30, "-infinity", 0, 0],
        [1, "0", "never", 0, 0],
        [1, "0", "2026-01-01", 2**70, 0],
        [1, "0", "\ud800", 0, 0],
    ],
)
def test_what_is_no_cursor_is_refused(caller: Caller, parts: Any) -> None:
    text = parts if isinstance(parts, str) else json.dumps(parts)
    cursor = base64.urlsafe_b64encode(text.encode()).decode()
    assert caller.get(PATH, params={"cursor": cursor}).status_code == 422


def test_a_million_new_deals_come_in_pages_that_cost_the_same(
    caller: Caller, connection: psycopg.Connection[Any]
) -> None:
    fill(caller.database, 2000)
    (row,) = connection.execute("select count(*), sum(deals) from opportunity_arrivals").fetchall()
    assert row == (1, 2000)  # no row for each deal
    items, _ = read(caller, None, 1000)
    assert [item["opportunity_id"] for item in items] == list(range(1, 2001))
