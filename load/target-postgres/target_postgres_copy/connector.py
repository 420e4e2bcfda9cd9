"""Connections without session state, and errors without values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy
from psycopg import errors
from sqlalchemy.exc import DBAPIError
from target_postgres.connector import PostgresConnector  # type: ignore[import-untyped]

_COPIED_COLUMN = re.compile(r"^COPY .+, line \d+, column ([^:]+)", re.MULTILINE)


class LoadRefusedError(Exception):
    """PostgreSQL refused a batch; the text contains no value of it."""


class CopyConnector(PostgresConnector):  # type: ignore[misc]
    """The stock connector, changed to work with a pooler in transaction mode."""

    def create_engine(self) -> sqlalchemy.Engine:
        """Return an engine whose transactions make all their settings themselves."""
        engine = sqlalchemy.create_engine(
            self.sqlalchemy_url,
            pool_pre_ping=True,
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
