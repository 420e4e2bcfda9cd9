"""The daily digest: off until a user wants it, once a day, and nothing is left out."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr, ValidationError

from tests.api.conftest import PASSWORD, Caller, DefaultSettings, fill, serving
from tests.conftest import wait_until
from tests.receiver import Receiver


@pytest.fixture
def connection(caller: Caller) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(caller.database, autocommit=True) as connection:
        fill(caller.database, 3)
        yield connection


def test_what_has_changed_comes_once_a_day(
    caller: Caller, connection: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caller.make_user("ada")
    caller.make_user("bob")
    caller.post("/api/session", json={"name": "ada", "password": PASSWORD})
    caller.be(None)
    assert caller.post("/account/digest", data={"wanted": "true"}).status_code == 200
    with Receiver() as receiver:
        url = SecretStr(f"json://{receiver.address}/{{name}}")
        settings = DefaultSettings(
            digest_url=url, digest_hour=0, api_public_url="https://bids.example.com"
        )

        def next_day(*, refused: bool = False) -> None:
            """Let a day go by, and a server look for what is due."""
            ((before,),) = connection.execute(
                "update digests set tried_at = now() - interval '25 hours' returning sent_at"
            ).fetchall()

            def is_done() -> bool:
                ((sent,),) = connection.execute("select sent_at from digests").fetchall()
                return "not accepted" in caplog.text if refused else bool(sent != before)

            with serving(caller.database, settings):
                wait_until(is_done)

        next_day()
        assert receiver.received == [], "nothing has changed since ada wanted it"
        connection.execute("update opportunities set deal_value = 5000 where id = 1")
        connection.execute("insert into opportunities (remote_id, name) values ('9', 'New one')")
        receiver.refusing["ada"] = 503
        next_day(refused=True)
        assert receiver.received == []
        del receiver.refusing["ada"]
        connection.execute("update opportunities set stage = 'Signed' where id = 2")
        next_day()
        ((service, message),) = receiver.received
        assert service == "ada"
        assert message["title"] == "Deals: 1 new, 1 value up, 1 stage moved"
        assert "- New one: " in message["message"]
        assert "1000.25 → 5000 EUR" in message["message"]
        assert "→ Signed" in message["message"]
        assert message["message"].endswith("https://bids.example.com/today")
        with ExitStack() as servers:  # none sends it again
            for _ in range(2):
                servers.enter_context(serving(caller.database, settings))
        next_day()
        assert len(receiver.received) == 1

        caller.post("/account/digest", data={})
        assert connection.execute("select * from digests").fetchall() == []


def test_an_address_without_a_place_for_the_user_is_refused() -> None:
    with pytest.raises(ValidationError, match="in the place of the user"):
        DefaultSettings(digest_url=SecretStr("mailto://user:pass@example.com"))
