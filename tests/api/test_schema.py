"""The OpenAPI document against the API: schemathesis sends what fits it and what does not."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from pydantic import SecretStr

from api.app import create_app
from api.auth import Role
from api.token import make_token
from runs import control, processes
from tests.api.conftest import DefaultSettings, fill, serving

SECRET = "of the webhook"
CONFIGURATION = {
    "checks": {
        # What is well-formed may still be refused: a text may be no cursor, an ETag an old one.
        "positive_data_acceptance": {"enabled": False},
        "missing_required_header": {"expected-statuses": [422, 428]},
    }
}
# Its cases are made when the test runs: each worker collects all tests, and making them takes long.
schema = schemathesis.pytest.from_fixture("document").exclude(
    path="/api/events"  # which has no end: see test_events.py
)


@pytest.fixture(scope="module")
def document() -> schemathesis.BaseSchema:
    """What the API says of itself."""
    document = create_app(DefaultSettings(), "").openapi()
    return schemathesis.openapi.from_dict(
        document, config=schemathesis.Config.from_dict(CONFIGURATION)
    )


@pytest.fixture(scope="module")
def database(postgres: str, migrated: str) -> str:
    """The URL of a database of 100 deals, for all of these tests."""
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database schema template {migrated}")
    fill(f"{postgres}/schema", 100)
    return f"{postgres}/schema"


@pytest.fixture(scope="module")
def address(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the API listens, whose syncs end at once."""
    configuration = DefaultSettings(api_lock_timeout=2, oracle_webhook_secret=SecretStr(SECRET))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "command", lambda full: ["true"])
        patch.setattr(control, "refresh_command", lambda: ["true"])
        patch.setattr(processes, "LOGS", tmp_path_factory.mktemp("logs"))
        with serving(database, configuration) as address:
            yield address


@pytest.fixture(scope="module")
def admin(database: str, address: str) -> Iterator[Callable[[], requests.Session]]:
    """An admin who is one again for each request, whatever the last one did to them."""
    token = make_token(database, Role.ADMIN, timedelta(hours=1))
    with (
        psycopg.connect(database, autocommit=True) as connection,
        requests.Session() as session,
    ):
        session.headers["Authorization"] = f"Bearer {token}"

        def renewed() -> requests.Session:
            connection.execute("update users set role = 'admin', active = true where id = 1")
            connection.execute("update tokens set revoked_at = null where id = 1")
            session.cookies.clear()
            return session

        yield renewed


@schema.parametrize()
@settings(
    max_examples=5,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_api_does_what_it_says(
    case: schemathesis.Case[Any], address: str, admin: Callable[[], requests.Session]
) -> None:
    case.call_and_validate(base_url=address, session=admin())
