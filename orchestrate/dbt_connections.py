"""dbt's connections to PostgreSQL, with fewer round trips.

dbt connects for each model, and again for hooks and lists: some twenty times in a sync. Each time
costs five round trips, a check of the password, and a server process that reads the catalog anew.
Here each thread keeps its connection. What our models set ends with their transactions.

psycopg2 begins a transaction before any query, in a round trip of its own. Here a transaction
begins where dbt begins one, together with its first statement.
"""

from collections.abc import Hashable
from time import monotonic
from typing import Any

import psycopg2  # type: ignore[import-untyped]
from dbt.adapters.contracts.connection import Connection, ConnectionState
from dbt.adapters.postgres.connections import PostgresConnectionManager, logger
from psycopg2.extensions import TRANSACTION_STATUS_IDLE  # type: ignore[import-untyped]

KEPT_SECONDS = 10.0
"""A connection that was idle for longer is not used again: a firewall may have dropped it."""


class KeptConnections(PostgresConnectionManager):
    """Opens, uses and closes dbt's connections."""

    def __init__(self, *arguments: Any) -> None:
        """Set up the manager; accepts the arguments of dbt's own."""
        super().__init__(*arguments)  # type: ignore[no-untyped-call]
        self._idle_since: dict[Hashable, float] = {}

    @classmethod
    def open(cls, connection: Connection) -> Connection:
        """Connect, and leave all transactions to dbt."""
        super().open(connection)  # type: ignore[no-untyped-call]
        connection.handle.autocommit = True
        return connection

    def set_connection_name(self, name: str | None = None) -> Connection:
        """Return the connection of this thread for a model, or one that opens when it is used."""
        connection = self.get_if_exists()
        since = self._idle_since.pop(self.get_thread_identifier(), None)
        if connection is not None and since is not None and monotonic() - since > KEPT_SECONDS:
            self.close(connection)
        return super().set_connection_name(name)

    def release(self) -> None:
        """Roll back what this thread has not committed, and keep its connection."""
        connection = self.get_if_exists()
        if connection is not None and connection.state == ConnectionState.OPEN:
            self._rollback_handle(connection)
            connection.transaction_open = False
            if self._is_idle(connection):
                self._idle_since[self.get_thread_identifier()] = monotonic()
                return
        super().release()

    def add_query(self, sql: str, auto_begin: bool = True, *others: Any, **named: Any) -> Any:
        """Send a statement; the first one of a transaction begins it."""
        connection = self.get_thread_connection()
        if auto_begin and not connection.transaction_open:
            self.begin()  # type: ignore[no-untyped-call]
        if connection.transaction_open and self._is_idle(connection):
            sql = f"begin; {sql}"
        return super().add_query(sql, auto_begin, *others, **named)

    def add_commit_query(self) -> Any:
        """Commit, unless no statement was sent."""
        if not self._is_idle(self.get_thread_connection()):
            super().add_commit_query()  # type: ignore[no-untyped-call]

    @classmethod
    def _rollback_handle(cls, connection: Connection) -> None:
        if cls._is_idle(connection):
            return
        try:
            connection.handle.cursor().execute("rollback")
        except psycopg2.Error as error:  # the connection is lost, and the transaction with it
            logger.debug(f"Rollback failed: {error}")

    @staticmethod
    def _is_idle(connection: Connection) -> bool:
        """Whether no transaction is open on the server; psycopg2 knows it without asking."""
        idle: bool = connection.handle.get_transaction_status() == TRANSACTION_STATUS_IDLE
        return idle
