"""Connections that rely on no session state, and errors that show no values."""

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
    """PostgreSQL did not take a batch; the text quotes no value of it."""


class CopyConnector(PostgresConnector):  # type: ignore[misc]
    """The stock connector, fit for a pooler that gives each transaction another session."""

    def create_engine(self) -> sqlalchemy.Engine:
        """Return an engine whose transactions set what they need themselves."""
        engine = sqlalchemy.create_engine(
            self.sqlalchemy_url,
            pool_pre_ping=True,
            hide_parameters=True,
            json_serializer=self.serialize_json,
            json_deserializer=self.deserialize_json,
            connect_args={"prepare_threshold": None},  # a prepared statement is of its session
        )
        sqlalchemy.event.listen(engine, "begin", _in_utc)
        return engine


def _in_utc(connection: sqlalchemy.Connection) -> None:
    """Let a time without an offset be UTC, whatever the server's time zone is."""
    connection.exec_driver_sql("set local time zone 'UTC'")


@contextmanager
def refusals_without_values(stream: str) -> Iterator[None]:
    """Turn what PostgreSQL raises into a text that is safe to log.

    Raises:
        LoadRefusedError: in place of any error of the database's.
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
    """Say what is wrong: a data exception (class 22) quotes the value, so does each DETAIL."""
    diagnosis, state = error.diag, error.sqlstate or ""
    if state.startswith("22"):
        reason = f"PostgreSQL can't read a value: {errors.lookup(state).__name__} ({state})"
    else:
        reason = " ".join((diagnosis.message_primary or str(error)).split())
    copied = _COPIED_COLUMN.search(diagnosis.context or "")
    if copied:
        reason += f', column "{copied[1]}"'
    return reason
