"""A server that does not carry pg_trgm: lists and search work, by words as they are typed."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from database.environment import ROOT
from tests.api.conftest import Caller, DefaultSettings, calling, fill

pytestmark = pytest.mark.usefixtures("one_role")


@pytest.fixture
def plain(postgres: str) -> Iterator[Caller]:
    """A caller of the API on a database whose server has no extension to offer."""
    url = f"{postgres}/without_trigrams"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        if connection.info.server_version < 180000:
            pytest.skip("only PostgreSQL 18 can be told to look for extensions elsewhere")
        connection.execute("create database without_trigrams")
        connection.execute(
            "alter database without_trigrams set extension_control_path = '/nowhere'"
        )
    migration = subprocess.run(
        [sys.executable, "-m", "database", "migrate"],
        cwd=ROOT,
        check=False,
        text=True,
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
    )
    assert migration.returncode == 0, migration.stderr
    fill(url, 100)
    with calling(url, DefaultSettings()) as caller:
        yield caller


def found(caller: Caller, search: str) -> set[str]:
    items = caller.get("/api/opportunities", params={"search": search, "limit": 1000}).json()
    return {item["customer"] for item in items["items"]}


def test_search_without_the_extension(plain: Caller) -> None:
    with psycopg.connect(plain.database) as connection:
        assert connection.execute("select extname from pg_extension").fetchall() == [("plpgsql",)]
    assert found(plain, "societe GENERALE") == {"Société Générale"}
    assert found(plain, "orst") == {"Ørsted"}
    assert found(plain, "acme renewal") == {"Acme Corporation"}
    assert found(plain, "300000000000002") == {"Globex"}
    assert found(plain, "acne") == set()  # a slip of the pen takes trigrams
    best = plain.get("/api/opportunities", params={"search": "acme", "sort": "-relevance"})
    assert best.json()["total"] == len(best.json()["items"]) > 0
