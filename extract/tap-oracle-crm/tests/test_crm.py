"""What programs beside the tap may ask of a CRM: the tap's public surface."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from oracle_crm_sandbox import Sandbox
from tap_oracle_crm.crm import BUILT_IN, CHANGED, KEY, Crm
from tap_oracle_crm.errors import ConfigError, RefusedError
from tap_user import TapUser


@pytest.fixture
def asked(tap: TapUser) -> Iterator[Crm]:
    with Crm(tap.config(page_size=100)) as crm:
        yield crm


def test_how_many_there_are_and_the_time(asked: Crm, crm: Sandbox) -> None:
    crm.clock(7200)
    seen = asked.overview()
    assert (seen.total, seen.is_empty) == (1000, False)
    assert seen.server_time is not None
    assert seen.server_time - datetime.now().astimezone() > timedelta(seconds=7100)
    keys = sorted(row[KEY] for row in crm.rows(fields=[KEY]))
    assert asked.count() == 1000
    assert asked.count(upto=keys[249]) == 250
    assert asked.keys() == (keys[0], keys[-1])


def test_a_crm_that_shows_nothing(asked: Crm, crm: Sandbox) -> None:
    crm.settings(visible="OptyId < 0")
    seen = asked.overview()
    assert (seen.total, seen.is_empty) == (0, True)
    assert asked.keys() is None
    assert asked.newest_change() is None
    assert list(asked.pages(["Name"])) == [[]]


def test_the_newest_change(asked: Crm, crm: Sandbox) -> None:
    key = crm.rows(fields=[KEY])[0][KEY]
    changed = crm.update(key, Name="Changed just now")[CHANGED]
    newest = asked.newest_change()
    assert newest is not None
    assert newest == datetime.fromisoformat(changed)


def test_attributes(asked: Crm, crm: Sandbox) -> None:
    crm.add_attribute("Uplift_c", "number")
    found = asked.attributes()
    assert found["Uplift_c"] == "number"
    assert {name: found[name] for name in (KEY, CHANGED)} == {
        name: BUILT_IN[name] for name in (KEY, CHANGED)
    }


def test_annotations(asked: Crm, crm: Sandbox) -> None:
    crm.add_attribute("Products_c", "array")
    found = asked.annotations()
    assert found.keys() == asked.attributes().keys()
    assert found["Products_c"] == {"title": "Products", "description": "array"}


def test_all_pages_and_only_what_changed(asked: Crm, crm: Sandbox) -> None:
    rows = [row for page in asked.pages(["Name"]) for row in page]
    assert rows == crm.rows(fields=[KEY, "Name"])
    newest = asked.newest_change()
    assert newest is not None
    later = newest + timedelta(seconds=60)
    key = rows[0][KEY]
    crm.update(key, at=later.strftime("%Y-%m-%dT%H:%M:%S+00:00"), Name="Changed later")
    assert list(asked.pages(["Name"], since=later)) == [[{KEY: key, "Name": "Changed later"}]]


def test_errors_say_what_is_wrong_and_what_to_do(tap: TapUser) -> None:
    with pytest.raises(ConfigError, match="page_size must be a whole number"):
        Crm(tap.config(page_size=0))
    with Crm(tap.config(password="wrong")) as crm, pytest.raises(RefusedError) as caught:
        crm.count()
    assert caught.value.status == 401
    assert caught.value.problem == "Oracle refused the user name or password (401)."
    assert caught.value.advice.startswith("Check ORACLE_USER and ORACLE_PASS")
