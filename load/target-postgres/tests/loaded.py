"""A schema for a target to load, in this process or by the command line."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from target_postgres.target import TargetPostgres  # type: ignore[import-untyped]
from target_postgres_copy.target import CopyTarget

PROPERTIES = {
    "id": {"type": "integer"},
    "name": {"type": ["string", "null"]},
    "amount": {"type": ["number", "null"]},
    "open": {"type": ["boolean", "null"]},
    "closes": {"type": ["string", "null"], "format": "date"},
    "changed": {"type": ["string", "null"], "format": "date-time"},
    "custom": {"type": ["object", "null"]},
}
# Like in the application, but all in the schema of one test.
FENCE = """
    create schema if not exists {schema};
    create table if not exists {schema}.load_fence (
        only_row boolean primary key default true,
        run_number bigint not null default 0,
        batch bigint not null default 0
    );
    insert into {schema}.load_fence default values on conflict do nothing;
    create or replace function {schema}.begin_batch(run bigint) returns bigint
    language plpgsql as $$
    declare begun bigint;
    begin
        update {schema}.load_fence set batch = load_fence.batch + 1
        where run is null or run_number = run
        returning load_fence.batch into begun;
        if begun is null then
            raise exception 'This run was superseded by a later one: nothing more of it is loaded.'
                using errcode = '55000';
        end if;
        return begun;
    end $$;
    create table if not exists {schema}.read_keys (
        loaded_in bigint not null, stream text not null, record_key text not null
    );
"""
Message = dict[str, Any]


def schema(stream: str = "deals", **more: Any) -> Message:
    return {
        "type": "SCHEMA",
        "stream": stream,
        "schema": {"type": "object", "properties": PROPERTIES | more},
        "key_properties": ["id"],
    }


def record(
    values: Message, extracted: str | None = "2026-01-01T00:00:00+00:00", **more: Any
) -> Message:
    timed = {"time_extracted": extracted} if extracted else {}
    return {"type": "RECORD", "stream": "deals", "record": values} | timed | more


def activate(version: int) -> Message:
    return {"type": "ACTIVATE_VERSION", "stream": "deals", "version": version}


def lines_of(*messages: Message) -> bytes:
    return "".join(f"{json.dumps(message)}\n" for message in messages).encode()


class Loaded:
    """A schema that a target writes to."""

    def __init__(
        self, database: str, kind: type[TargetPostgres] = CopyTarget, **config: object
    ) -> None:
        self.name = f"test_{uuid.uuid4().hex[:12]}"
        self.database = database
        self._target = kind
        self.config: dict[str, Any] = {
            "sqlalchemy_url": database.replace("postgresql://", "postgresql+psycopg://"),
            "default_target_schema": self.name,
            "use_copy": True,
            "validate_records": False,
            "hard_delete": True,
            "add_record_metadata": True,
            **config,
        }

    def begin_run(self, number: int) -> None:
        """From now on, let only the run with this number load."""
        self.query(FENCE)
        self.query("update {schema}.load_fence set run_number = %s", number)
        self.config["run_number"] = number

    def load(self, *messages: Message) -> None:
        self.listen(lines_of(*messages).splitlines(keepends=True))

    def listen(self, lines: Iterable[bytes]) -> None:
        """Load lines, which may be a generator."""
        target = self._target(config=dict(self.config))
        given: Iterable[Any] = lines
        if self._target is not CopyTarget:
            given = (line.decode() for line in lines)
        try:
            target.listen(given)
        finally:
            target.target_connector._engine.dispose()  # this process continues, unlike the target's

    def start(self, folder: Path, *before: str) -> subprocess.Popen[bytes]:
        """Start the command, after a prefix if given; it reads its messages from a pipe."""
        file = folder / f"{uuid.uuid4()}.json"
        file.write_text(json.dumps(self.config))
        return subprocess.Popen(
            [*before, sys.executable, "-m", "target_postgres_copy", "--config", file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def query(self, statement: str, *values: object) -> list[Any]:
        """Run a statement and return its rows."""
        composed = sql.SQL(statement).format(schema=sql.Identifier(self.name))
        with psycopg.connect(self.database, row_factory=dict_row) as connection:
            cursor = connection.execute(composed, values or None)
            return cursor.fetchall() if cursor.description else []

    def rows(self, columns: str = "*") -> list[Message]:
        return self.query(f"select {columns} from {{schema}}.deals order by id")  # noqa: S608

    def types(self) -> dict[str, str]:
        with psycopg.connect(self.database) as connection:
            return dict(
                connection.execute(
                    "select column_name, data_type from information_schema.columns "
                    "where table_schema = %s and table_name = 'deals'",
                    [self.name],
                ).fetchall()
            )


def same(loaded: Loaded, *left_out: str) -> list[Message]:
    """The rows without load times; a deletion time only counts as set or not."""
    times = ("_sdc_extracted_at", "_sdc_received_at", "_sdc_batched_at", "_sdc_sequence")
    others = (*times, "_sdc_sync_started_at", "_loaded_in", *left_out)
    return [
        {name: value for name, value in row.items() if name not in others}
        | {"_sdc_deleted_at": row["_sdc_deleted_at"] is not None}
        for row in loaded.rows()
    ]
