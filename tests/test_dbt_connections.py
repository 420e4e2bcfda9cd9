"""dbt keeps its connections, and its transactions are those that it means."""

from collections.abc import Iterator
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from dbt.adapters.postgres.connections import PostgresCredentials
from dbt_common.exceptions import DbtDatabaseError
from dbt_common.helper_types import Port

from database.address import parameters
from orchestrate import dbt_connections
from orchestrate.dbt_connections import KeptConnections


class Models:
    """dbt's connections, as its models use them."""

    def __init__(self, database: str) -> None:
        """Take the URL of a database."""
        read = parameters(database)
        credentials = PostgresCredentials(
            host=read["host"],
            port=Port(int(read["port"])),
            user=read["user"],
            password=read["password"],
            database=read["dbname"],
            schema="public",
        )
        self.manager: Any = KeptConnections(SimpleNamespace(credentials=credentials), get_context())

    def begin(self) -> None:
        """Begin a model."""
        self.manager.set_connection_name("a model")

    def ask(self, statement: str, *, in_transaction: bool = True) -> list[Any]:
        """Send a statement; return the first row."""
        _, table = self.manager.execute(statement, auto_begin=in_transaction, fetch=True)
        return list(table.rows[0])


@pytest.fixture
def models(database: str) -> Iterator[Models]:
    """Models on a database."""
    models = Models(database)
    models.begin()
    yield models
    models.manager.cleanup_all()


SESSION = "select pg_backend_pid()"


def test_a_thread_keeps_its_connection(
    models: Models, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    (first,) = models.ask(SESSION)
    models.manager.release()
    models.begin()
    assert models.ask(SESSION) == [first]
    models.manager.release()

    # A connection that was idle for long may be dead.
    with monkeypatch.context() as patch:
        patch.setattr(dbt_connections, "KEPT_SECONDS", -1)
        models.begin()
    (second,) = models.ask(SESSION)
    assert second != first

    # It died while a model used it: the next one gets another.
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", [second])
    with pytest.raises(DbtDatabaseError):
        models.ask(SESSION)
    models.manager.release()
    models.begin()
    assert models.ask(SESSION) != [second]


def test_transactions_are_those_that_dbt_begins(models: Models, database: str) -> None:
    def values() -> list[int]:
        with psycopg.connect(database) as other:
            return [value for (value,) in other.execute("select value from kept order by value")]

    models.ask("create table kept (value integer); select 1", in_transaction=False)
    assert values() == []

    models.ask("insert into kept values (1) returning value")
    models.ask("insert into kept values (2) returning value")
    assert values() == []
    models.manager.commit()
    assert values() == [1, 2]

    models.ask("insert into kept values (3) returning value")
    models.manager.release()
    models.begin()
    models.ask("insert into kept values (4) returning value")
    with pytest.raises(DbtDatabaseError, match="division by zero"):
        models.ask("select 1 / 0")
    models.ask("insert into kept values (5) returning value")
    models.manager.commit()
    assert values() == [1, 2, 5]

    models.manager.clear_transaction()  # dbt's hooks rely on it
    assert models.ask("insert into kept values (6) returning value", in_transaction=False) == [6]
    assert values() == [1, 2, 5, 6]
