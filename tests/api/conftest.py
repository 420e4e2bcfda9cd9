"""The API under test, on a database filled with SQL; no test needs a CRM."""

import html
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest import mock

import httpx
import psycopg
import pytest
import uvicorn
from argon2 import PasswordHasher
from fastapi import FastAPI
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from api import checks
from api.app import create_app
from api.auth import ISSUE, Role, new_token
from api.health import NEWEST
from api.server import OPTIONS
from api.token import make_token
from database.settings import Settings
from declared.assessment import Assessment
from declared.decisions import Decisions
from declared.model import Declaration
from declared.store import store
from runs import control, processes

TLS = httpx.create_ssl_context()
"""For clients that need none: each would read all the certificates of this machine."""
PASSWORD = "correct horse battery"
"""Of the people whom tests make."""
MODELS: dict[str, type[Declaration]] = {"decisions": Decisions, "assessment": Assessment}

FILL = """
insert into opportunities (
    remote_id, opty_number, name, customer, practice, geo, region, sector, deal_value, currency,
    reporting_value, win_probability, sales_owner, stage, status_code, crm_outcome, close_date,
    workflow_status, remote_created_at, remote_updated_at, deleted_at
)
select
    (300000000000000 + i)::text,
    'OPTY-' || i,
    case when i % 50 != 0 then
        (array['Café renewal', 'Cloud migration', 'Müller expansion', 'Data platform',
            'Zürich rollout', 'Network upgrade'])[1 + i % 6] || ' ' || i
    end,
    (array['Société Générale', 'Acme Corporation', 'Globex', 'Initech', 'Ørsted',
        'Łódź Works', 'شركة المثال'])[1 + i % 7],
    (array['Cloud', 'Data', 'Security', null])[1 + i % 4],
    (array['EMEA', 'APAC', 'AMER'])[1 + i % 3],
    'Region ' || i % 20,
    'Sector ' || i % 9,
    case when i % 17 != 0 then i % 40 * 1000.25 end,
    'EUR',
    case when i % 17 != 0 and i % 5 != 0 then round(i % 40 * 1000.25 * 1.1, 2) end,
    i % 101,
    'owner-' || i % 20,
    (array['01 - Qualification', '02 - Discovery', '03 - Proposal', '04 - Negotiation'])[1 + i % 4],
    'OPEN',
    case i % 10 when 7 then 'WON' when 8 then null else 'OPEN' end,
    case when i % 13 != 0 then date '2026-01-01' + i % 365 end,
    (array['NEW', 'ASSIGNED', 'UNDER_ASSESSMENT'])[1 + i % 3],
    timestamptz '2025-01-01Z' + i * interval '1 hour',
    timestamptz '2026-01-01Z' + i / 50 * interval '1 hour',
    case when i % 100 = 99 then timestamptz '2026-03-01Z' end
from generate_series(1, %s) as i
""".replace(" % ", " %% ")


EMPTY = """
do $$
begin
    -- Without triggers: the audit trail can't be emptied otherwise.
    set local session_replication_role = replica;
    execute (
        select 'truncate meltano.runs, ' || string_agg(quote_ident(tablename), ', ')
            || ' restart identity cascade'
        from pg_tables
        where schemaname = 'public' and tablename != 'alembic_version'
    );
    insert into load_fence default values;
    insert into change_feed default values;
end
$$
"""


def fill(url: str, count: int) -> None:
    """Put so many opportunities in; their ids are 1, 2, ... on a fresh database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL, [count])
        connection.execute("delete from reporting_currency")
        connection.execute("insert into reporting_currency (currency, rates) values ('USD', '{}')")
        connection.execute("analyze opportunities")


@pytest.fixture(scope="session", autouse=True)
def _quick_passwords() -> Iterator[None]:
    """Hashes that take no time: the tests make hundreds of them."""
    quick = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    unknown = quick.hash("someone unknown")
    with mock.patch.multiple("api.passwords", _hasher=quick, _UNKNOWN=unknown):
        yield


@pytest.fixture(scope="session")
def filled(postgres: str, migrated: str) -> str:
    """The URL of a database of 1,000 opportunities, ten of them deleted; tests only read it."""
    name = f"filled_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name} template {migrated}")
    url = f"{postgres}/{name}"
    fill(url, 1000)
    return url


@pytest.fixture(scope="session")
def _reused(postgres: str, migrated: str) -> str:
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database api template {migrated}")
    return f"{postgres}/api"


@pytest.fixture
def database(_reused: str) -> str:
    """The URL of an up-to-date and empty database: one for all tests, emptied for each."""
    with psycopg.connect(_reused) as connection:
        connection.execute(EMPTY)
        for section, model in MODELS.items():
            store(connection, section, None, model)
        connection.execute("update alembic_version set version_num = %s", [NEWEST])
    return _reused


class Caller(httpx.Client):
    """A client of the API, as a browser is one, that knows a token for each role."""

    database: str

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def be(self, role: Role | None) -> "Caller":
        """Call as someone of a role from now on, or as nobody."""
        self.headers.pop("Authorization", None)
        if role is not None:
            token = make_token(self.database, role, timedelta(hours=1))
            self.headers["Authorization"] = f"Bearer {token}"
        return self

    def session(self, role: Role) -> str:
        """Return a session of somebody of a role, as after a sign-in."""
        make_token(self.database, role, timedelta(hours=1))
        with psycopg.connect(self.database) as connection:
            (user_id,) = connection.execute(
                "select id from users where name = %s", [f"service-{role}"]
            ).fetchone() or (0,)
            token, values = new_token(user_id, "session", "test", timedelta(hours=1))
            connection.execute(ISSUE, values)
        return token

    def signed_in(self, role: Role = Role.ADMIN) -> dict[str, str]:
        """Return the headers of somebody of a role who has signed in."""
        return {"Authorization": f"Bearer {self.session(role)}"}

    def make_user(self, name: str = "ada", role: str = "assessor", **more: object) -> int:
        """Make a person who can sign in with PASSWORD, and return the id."""
        answer = self.post(
            "/api/users",
            json={"name": name, "role": role, "password": PASSWORD, **more},
            headers=self.signed_in(),
        )
        assert answer.status_code == 201, answer.text
        user_id: int = answer.json()["id"]
        return user_id


def seen(page: str, action: str) -> str:
    """Return what the form of a page says to have shown: it sends that back."""
    found = re.search(rf"""hx-post="{action}".*?name="seen"\s+value='(.*?)'""", page, re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


def declare(caller: Caller, **sections: dict[str, Any]) -> None:
    """Declare sections as crm.yml would; the API sees it at once."""
    with psycopg.connect(caller.database) as connection:
        for section, content in sections.items():
            read = partial(MODELS[section].model_validate, content)
            store(connection, section, content, read)


class DefaultSettings(Settings):
    """The settings, whatever the environment and `.env` say."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *others: PydanticBaseSettingsSource,
        **named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what the test says."""
        return (init_settings,)


@pytest.fixture
def settings() -> Settings:
    """The default settings, but for tests not to wait long."""
    return DefaultSettings(api_lock_timeout=1)


@contextmanager
def running(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Serve an application by a real server, and give its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, **OPTIONS))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the application does not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:  # else a test that fails would never end
        server.should_exit = True
        thread.join()


def serving(url: str, settings: Settings) -> AbstractContextManager[str]:
    """Serve the API on a database by a real server, and give its address."""
    return running(create_app(settings, url))


@contextmanager
def calling(url: str, settings: Settings) -> Iterator[Caller]:
    """Give a caller of the API on a database, an admin until told otherwise."""
    with (
        serving(url, settings) as address,
        Caller(base_url=address, follow_redirects=True, timeout=60, verify=TLS) as caller,
    ):
        caller.database = url
        yield caller.be(Role.ADMIN)


@pytest.fixture(scope="session")
def reader(filled: str) -> Iterator[Caller]:
    """A viewer of the 1,000 opportunities."""
    with calling(filled, DefaultSettings()) as caller:
        yield caller.be(Role.VIEWER)


@pytest.fixture
def caller(database: str, settings: Settings) -> Iterator[Caller]:
    """An admin, on an empty database of this test's own."""
    with calling(database, settings) as caller:
        yield caller


@pytest.fixture
def server(database: str, settings: Settings) -> Iterator[httpx.Client]:
    """An admin who calls a real server, on an empty database of this test's own."""
    token = make_token(database, Role.ADMIN, timedelta(hours=1))
    with (
        serving(database, settings) as address,
        httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {token}"}, verify=TLS
        ) as client,
    ):
        yield client


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings of no doctor and no check, which would take seconds."""

    async def findings(*_: str) -> list[dict[str, str]]:
        words = {"detail": "a detail", "advice": "an advice"}
        return [words | {"check": one, "about": one, "status": one} for one in ("ok", "warning")]

    monkeypatch.setattr(checks, "findings", findings)


class Command:
    """What `runs.control` starts instead of Meltano."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.full: list[bool] = []

    def __call__(self, full: bool) -> list[str]:
        self.full.append(full)
        return [sys.executable, "-c", self.script]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Command]:
    """A process that waits for the test's end in place of the pipeline."""
    end = tmp_path / "end"
    command = Command(
        f"import pathlib, time\nwhile not pathlib.Path({str(end)!r}).exists(): time.sleep(0.02)"
    )
    monkeypatch.setattr(control, "command", command)
    monkeypatch.setattr(control, "refresh_command", lambda: [sys.executable, "-c", command.script])
    monkeypatch.setattr(processes, "LOGS", tmp_path / "logs")
    yield command
    end.touch()


def until(caller: Caller, status: str) -> dict[str, Any]:
    """Wait for the last sync to have a status, and return it."""
    for _ in range(500):
        run: dict[str, Any] = caller.get("/api/sync-status").json()
        if run["status"] == status:
            return run
        time.sleep(0.02)
    raise AssertionError(f"no {status}: {run}")
