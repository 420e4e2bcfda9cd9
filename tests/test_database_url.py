"""psycopg, SQLAlchemy, libpq's tools and dbt all understand the same DATABASE_URL."""

from urllib.parse import quote

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from database.address import database_url, libpq_environment, sqlalchemy_url

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(
    user=words,
    password=words,
    database=words.filter(lambda name: "?" not in name),
    socket=st.booleans(),
)
def test_every_form_names_the_same_database(
    user: str, password: str, database: str, socket: bool
) -> None:
    credentials = f"{quote(user, '')}:{quote(password, '')}"
    name = quote(database, "")
    url = (
        f"postgresql://{credentials}@/{name}?host=%2Frun%2Fpg&sslmode=require"
        if socket
        else f"postgresql://{credentials}@db.example.com:5433/{name}?sslmode=require"
    )
    libpq = libpq_environment(url)
    expected = {
        "PGHOST": "/run/pg" if socket else "db.example.com",
        "PGPORT": "5432" if socket else "5433",
        "PGUSER": user,
        "PGPASSWORD": password,
        "PGDATABASE": database,
        "PGSSLMODE": "require",
    }
    assert libpq == expected
    understood = psycopg.conninfo.conninfo_to_dict(url)
    assert (understood["user"], understood["password"]) == (user, password)
    alchemy = make_url(sqlalchemy_url(url, "loader", timezone="UTC"))
    assert alchemy.get_backend_name() == "postgresql"
    assert (alchemy.username, alchemy.password, alchemy.database) == (user, password, database)
    assert alchemy.query["options"] == "-ctimezone=UTC"
    assert alchemy.query["sslmode"] == "require"


def test_another_database_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://db.example.com/crm")
    database_url.cache_clear()
    with pytest.raises(SystemExit, match="postgresql://"):
        database_url()
    database_url.cache_clear()
