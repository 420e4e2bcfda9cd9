"""No user and no address takes what the others need."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import httpx
import psycopg
import pytest

from api import limits
from api.auth import Role
from api.limits import Callers, Limit, Shares
from api.problems import ProblemError
from api.token import make_token
from database.settings import Settings
from tests.api.conftest import Caller, DefaultSettings
from tests.conftest import wait_until
from tests.runs import live_run

LIST = "/api/opportunities"


@pytest.fixture
def settings() -> Settings:
    """Six connections: one for health, two for changes, three for reading, one user's one of it."""
    return DefaultSettings(api_pool_size=6, api_pool_timeout=1, api_list_timeout=2)


@pytest.fixture
def as_user(caller: Caller) -> Iterator[Callable[[Role], httpx.Client]]:
    """Gives a client of a role's user of its own."""
    with ExitStack() as opened:

        def client(role: Role) -> httpx.Client:
            token = make_token(caller.database, role, timedelta(hours=1))
            headers = {"Authorization": f"Bearer {token}"}
            return opened.enter_context(
                httpx.Client(base_url=caller.base_url, headers=headers, timeout=60)
            )

        yield client


@contextmanager
def slow_lists(database: str) -> Iterator[None]:
    """Let each list wait, as for a query that takes long."""
    with psycopg.connect(database) as connection:
        connection.execute("lock table opportunities in access exclusive mode")
        yield


def test_one_user_does_not_stop_the_others(
    caller: Caller, as_user: Callable[[Role], httpx.Client]
) -> None:
    greedy, other = as_user(Role.VIEWER), as_user(Role.ASSESSOR)
    for client in (greedy, other):
        client.get("/api/session")  # whose the token is, is known from now on
    with ThreadPoolExecutor(12) as pool, slow_lists(caller.database):
        asked = [pool.submit(greedy.get, LIST) for _ in range(12)]
        time.sleep(0.5)
        assert other.get("/api/session").status_code == 200
        assert caller.get("/health/ready").status_code == 200
        assert not all(one.done() for one in asked)  # nobody waited for the lists
        answers = [one.result() for one in asked]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) >= 10
    assert (
        "The user service-viewer has as many requests at the database as one may have: 1."
        in refused[0].json()["detail"]
    )
    assert int(refused[0].headers["retry-after"]) > 0


def test_connections_are_kept_for_changes_and_health(
    caller: Caller, as_user: Callable[[Role], httpx.Client], caplog: pytest.LogCaptureFixture
) -> None:
    readers = [as_user(role) for role in (Role.VIEWER, Role.ASSESSOR, Role.MANAGER)]
    for client in (*readers, caller):
        client.get("/api/session")
    with ThreadPoolExecutor(4) as pool, slow_lists(caller.database):
        asked = [pool.submit(client.get, LIST) for client in readers]
        time.sleep(0.5)
        busy = caller.get("/api/session")
        assert busy.status_code == 503
        assert "busy" in busy.json()["detail"]
        assert int(busy.headers["retry-after"]) > 0
        new = {"name": "grace", "role": "viewer"}
        assert caller.post("/api/users", json=new).status_code == 201
        assert caller.get("/health/ready").status_code == 200
        for one in asked:
            assert one.result().status_code == 503
    lines = [record for record in caplog.records if "busy" in str(vars(record).get("detail"))]
    assert lines
    assert all(record.exc_info is None for record in caplog.records)


def test_a_list_that_takes_long_is_given_up(caller: Caller) -> None:
    for path in (LIST, "/opportunities", "/board"):
        with slow_lists(caller.database):
            started = time.monotonic()
            answer = caller.get(path)
            assert time.monotonic() - started < 10
        assert answer.status_code == 503
        assert "Narrow the filters" in answer.text
        assert caller.get(path).status_code == 200


def test_a_user_has_few_event_streams(
    caller: Caller, as_user: Callable[[Role], httpx.Client]
) -> None:
    greedy, other = as_user(Role.VIEWER), as_user(Role.ASSESSOR)
    with live_run(caller.database) as (run, _), ExitStack() as streams:
        path = f"/api/sync-runs/{run}/events"
        for _ in range(limits.STREAMS):
            assert streams.enter_context(greedy.stream("GET", path)).status_code == 200
        refused = greedy.get(path)
        assert refused.status_code == 429
        assert "event streams" in refused.json()["detail"]
        assert streams.enter_context(other.stream("GET", path)).status_code == 200


def test_an_address_has_few_requests_at_work(caller: Caller) -> None:
    server = (caller.base_url.host, caller.base_url.port or 80)
    with ExitStack() as connections, httpx.Client(base_url=caller.base_url) as slow:
        for _ in range(limits.REQUESTS):
            connection = connections.enter_context(socket.create_connection(server))
            connection.sendall(
                b"POST /sign-in HTTP/1.1\r\nHost: %s\r\nContent-Length: 9\r\n\r\na"
                % caller.base_url.netloc
            )
        # The server waits for the rest of a body for ten seconds.
        wait_until(lambda: slow.get("/sign-in").status_code == 429, 8)
        refused = slow.get("/sign-in")
        alive = slow.get("/health/live")
    assert refused.status_code == 429
    assert (
        "The address 127.0.0.1 has as many requests at work as one may have: 50."
        in refused.json()["detail"]
    )
    assert alive.status_code == 200
    wait_until(lambda: caller.get("/sign-in").status_code == 200)


def test_who_a_caller_is() -> None:
    callers = Callers(size=2)
    one, two, none = b"Bearer 1", b"Bearer 2", b""
    callers.know(one, "ada")
    assert callers.find(one, "192.0.2.7") == "user ada"
    assert callers.find(two, "192.0.2.7") == "address 192.0.2.7"
    assert callers.find(none, "2001:db8::1:2:3:4") == "address 2001:db8::/64"
    assert callers.find(none, "2001:db8::5") == "address 2001:db8::/64"
    assert callers.find(none, "not\xff one") == "address not\xff one"
    assert callers.find(none, None) == "address unknown"
    for number in range(3):
        callers.know(f"session={number}".encode(), "grace")
    assert callers.find(one, "192.0.2.7") == "address 192.0.2.7"


def test_what_has_ended_counts_no_more() -> None:
    limit = Limit(1, "things")
    for _ in range(2):
        with limit.count("user ada"), limit.count("user grace"), pytest.raises(ProblemError):
            limit.count("user ada").__enter__()

    async def run() -> None:
        shares = Shares(1, patience=0.01)
        async with shares.take("user ada"), shares.take("user grace"):
            with pytest.raises(ProblemError, match="429"):
                await shares.take("user ada").__aenter__()
        async with shares.take("user ada"):
            pass

    asyncio.run(run())
