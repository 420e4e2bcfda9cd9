"""Connections without session state, and errors without values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy
from psycopg import errors
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine
from target_postgres.connector import PostgresConnector  # type: ignore[import-untyped]

_COPIED_COLUMN = re.compile(r"^COPY .+, line \d+, column ([^:]+)", re.MULTILINE)


class LoadRefusedError(Exception):
    """PostgreSQL refused a batch; the text contains no value of it."""


@dataclass(frozen=True)
class Table:
    """A table or view of the database.

    Attributes:
        columns: by name.
        key: the columns of its primary key.
    """

    columns: Mapping[str, sqlalchemy.Column[Any]]
    key: frozenset[str]


class CopyConnector(PostgresConnector):  # type: ignore[misc]
    """The stock connector, changed to work with a pooler in transaction mode."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Set up the connector; accepts the configuration of the stock one."""
        super().__init__(config)
        self._tables: dict[tuple[str | None, str], Table] = {}

    def table(self, schema: str | None, name: str) -> Table | None:
        """Return a table as it is, None if there is none; all of it is read at once."""
        known = self._tables.get((schema, name))
        if known is not None:
            return known
        with self._connect() as connection, connection.begin():
            inspector = sqlalchemy.inspect(connection)
            columns = inspector.get_multi_columns(schema, filter_names=[name], kind=ObjectKind.ANY)
            keys = inspector.get_multi_pk_constraint(schema, filter_names=[name])
        if (schema, name) not in columns:
            return None
        key = keys.get((schema, name))
        self._tables[schema, name] = Table(
            {
                column["name"]: sqlalchemy.Column(column["name"], column["type"])
                for column in columns[schema, name]
            },
            frozenset(key["constrained_columns"] if key else ()),
        )
        return self._tables[schema, name]

    def forget_tables(self) -> None:
        """Read the tables again the next time, after a change."""
        self._tables.clear()

    def fits(self, column: sqlalchemy.Column[Any] | None, kind: TypeEngine[Any]) -> bool:
        """Return whether a column has a type, or one that the stock target leaves for it."""
        if column is None:
            return False
        return str(column.type) in {
            str(kind),
            str(self.merge_sql_types([column.type, kind])),
        }

    def create_engine(self) -> sqlalchemy.Engine:
        """Return an engine whose transactions make all their settings themselves."""
        engine = sqlalchemy.create_engine(
            self.sqlalchemy_url,
            pool_pre_ping=True,
            use_native_hstore=False,  # it would ask for the type, and no schema has it
            hide_parameters=True,
            json_serializer=self.serialize_json,
            json_deserializer=self.deserialize_json,
            connect_args={"prepare_threshold": None},  # a prepared statement belongs to a session
        )
        # Times without an offset are UTC, in any time zone of the server.
        settings = "set local time zone 'UTC'"
        if seconds := self.config.get("lock_timeout"):
            settings += f"; set local lock_timeout = '{seconds:d}s'"
        sqlalchemy.event.listen(
            engine, "begin", lambda connection: connection.exec_driver_sql(settings)
        )
        return engine


@contextmanager
def refusals_without_values(stream: str) -> Iterator[None]:
    """Turn database errors into a text that is safe to log.

    Raises:
        LoadRefusedError: instead of any error of the database.
    """
    try:
        yield
    except psycopg.Error as error:
        refused = error
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.Error):
            raise
        refused = error.orig
    else:
        return
    raise LoadRefusedError(f"{stream}: {_without_values(refused)}")


def _without_values(error: psycopg.Error) -> str:
    """Describe an error without its values, which data exceptions (class 22) and DETAILs quote."""
    diagnosis, state = error.diag, error.sqlstate or ""
    if state.startswith("22"):
        reason = f"PostgreSQL can't read a value: {errors.lookup(state).__name__} ({state})"
    else:
        reason = " ".join((diagnosis.message_primary or str(error)).split())
    copied = _COPIED_COLUMN.search(diagnosis.context or "")
    if copied:
        reason += f', column "{copied[1]}"'
    return reason
