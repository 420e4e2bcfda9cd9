"""Runs that read one CRM share how many calls it gets, in an hour and at once."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import Any

import psycopg
import pytest
from oracle_crm_sandbox import PASSWORD, USER, Sandbox
from tap_oracle_crm.tap import TapOracleCRM

SHARE = "select processes, others, found from share_crm_calls(%s, %s, %s, %s)"


def _share(
    connection: psycopg.Connection[Any], process: str, calls: int, served: int | None = None
) -> tuple[int, int, int | None]:
    row = connection.execute(SHARE, ("user@crm", process, calls, served)).fetchone()
    assert row is not None
    processes, others, found = row
    assert len(others) == 61
    return processes, sum(others), found


def test_a_process_learns_of_the_others(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        assert _share(connection, "one", 50) == (1, 0, None)
        assert _share(connection, "two", 30, served=6) == (2, 50, 6)
        assert _share(connection, "one", 50) == (2, 30, 6)
        assert _share(connection, "two", 0) == (2, 100, None)
        other = connection.execute(SHARE, ("user@other", "three", 1, None)).fetchone()
        assert other is not None
        assert other[0] == 1, "another account has limits of its own"


def test_a_killed_process_is_forgotten_but_its_calls_count(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        _share(connection, "killed", 70, served=3)
        connection.execute(
            "update crm_calls set seen_at = seen_at - interval '31 s', "
            "minute = minute - interval '1 minute'"
        )
        assert _share(connection, "next", 0) == (1, 70, 3)
        connection.execute("update crm_calls set minute = minute - interval '3 hours'")
        _share(connection, "next", 0)
        rows = connection.execute("select process from crm_calls").fetchall()
    assert rows == [("next",)]


@pytest.fixture
def read(
    database: str,
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., str]]:
    """Let the tap read all deals in small pages; returns its log."""
    caplog.set_level("INFO")
    monkeypatch.setenv("TAP_ORACLE_CRM_LIMITS_DATABASE_URL", database)

    ended: list[TapOracleCRM] = []

    def read(**settings: Any) -> str:
        caplog.clear()
        config = {"base_url": sandbox.url, "username": USER, "password": PASSWORD, "page_size": 20}
        tap = TapOracleCRM(config=config | settings)
        with redirect_stdout(io.TextIOWrapper(io.BytesIO())):
            tap.streams["opportunities"].sync()
        ended.append(tap)
        return caplog.text

    yield read
    for tap in ended:
        tap.client.close()


def test_the_tap_tells_its_calls(database: str, sandbox: Sandbox, read: Callable[..., str]) -> None:
    sandbox.fault("latency", ms=50)
    sandbox.clear_requests()
    read()
    sent = sandbox.requests()["total"]
    with psycopg.connect(database, autocommit=True) as connection:
        end = time.monotonic() + 30
        while connection.execute("select sum(calls) from crm_calls").fetchone() != (sent,):
            assert time.monotonic() < end, "its calls were not told"
            time.sleep(0.1)


def test_the_tap_leaves_another_run_its_share(
    database: str, sandbox: Sandbox, read: Callable[..., str]
) -> None:
    sandbox.fault("latency", ms=100)
    account = f"{USER}@{sandbox.url.removeprefix('http://')}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SHARE, (account, "another run", 5, 4))
    log = read()
    assert "2 requests at once" in log, "half of what the CRM serves"
    assert "the CRM throttled at 3" in log


def test_the_tap_reads_on_without_the_database(read: Callable[..., str], sandbox: Sandbox) -> None:
    sandbox.fault("latency", ms=50)
    log = read(limits_database_url="postgresql://nobody@127.0.0.1:1/none")
    assert "can't be shared with other runs" in log
    assert "read 1,000 rows" in log
