"""Whatever is loaded, the result is the stock target's."""

import io
import json
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row
from singer_sdk.singerlib.exceptions import InvalidInputLine
from target_postgres.target import TargetPostgres  # type: ignore[import-untyped]
from target_postgres_copy import target as copying
from target_postgres_copy.target import CopyTarget

PROPERTIES = {
    "id": {"type": "integer"},
    "name": {"type": ["string", "null"]},
    "amount": {"type": ["number", "null"]},
    "open": {"type": ["boolean", "null"]},
    "closes": {"type": ["string", "null"], "format": "date"},
    "changed": {"type": ["string", "null"], "format": "date-time"},
}
Message = dict[str, Any]


def schema(**more: object) -> Message:
    return {
        "type": "SCHEMA",
        "stream": "deals",
        "schema": {"type": "object", "properties": PROPERTIES | more},
        "key_properties": ["id"],
    }


def record(values: Message, extracted: str = "2026-01-01T00:00:00+00:00", **more: Any) -> Message:
    return {
        "type": "RECORD", "stream": "deals", "record": values, "time_extracted": extracted, **more
    }  # fmt: skip


class Loaded:
    """A schema of the database that a target writes to."""

    def __init__(self, database: str, kind: type[TargetPostgres], **config: object) -> None:
        self.name = f"test_{uuid.uuid4().hex[:12]}"
        self._database = database
        self._target = kind
        self._config = {
            "sqlalchemy_url": database.replace("postgresql://", "postgresql+psycopg://"),
            "default_target_schema": self.name,
            "use_copy": True,
            "validate_records": False,
            "hard_delete": True,
            "add_record_metadata": True,
            **config,
        }

    def load(self, *messages: Message) -> None:
        text = "".join(f"{json.dumps(message)}\n" for message in messages)
        lines: Any = io.StringIO(text)
        if self._target is CopyTarget:
            lines = io.BytesIO(text.encode())
        self.listen(lines)

    def listen(self, lines: Any) -> None:
        target = self._target(config=self._config)
        try:
            target.listen(lines)
        finally:
            target.target_connector._engine.dispose()  # the process goes on, unlike the target's

    def rows(self, columns: str = "*") -> list[Message]:
        query = sql.SQL("select {} from {} order by id").format(
            sql.SQL(columns), sql.Identifier(self.name, "deals")
        )
        with psycopg.connect(self._database, row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()

    def comparable(self) -> list[Message]:
        """The rows, without what depends on when they were loaded."""
        late = ("_sdc_received_at", "_sdc_batched_at", "_sdc_sequence", "_sdc_sync_started_at")
        return [
            {name: value for name, value in row.items() if name not in late} for row in self.rows()
        ]

    def types(self) -> dict[str, str]:
        with psycopg.connect(self._database) as connection:
            return dict(
                connection.execute(
                    "select column_name, data_type from information_schema.columns "
                    "where table_schema = %s",
                    [self.name],
                ).fetchall()
            )


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=UTC).isoformat()
)
RECORDS = st.fixed_dictionaries(
    {"id": st.integers(0, 9) | st.integers(-(2**63), 2**63 - 1)},
    optional={
        "name": st.none() | TEXT | st.sampled_from(["\\N", "\\.", "a\tb\\nc\r\n", "", "null"]),
        "amount": st.none() | st.integers(-(10**12), 10**12) | st.integers(0, 10**9).map(
            lambda cents: cents / 100
        ),
        "open": st.none() | st.booleans(),
        "closes": st.none() | st.dates(date(1900, 1, 1), date(9000, 1, 1)).map(date.isoformat),
        "changed": st.none() | MOMENTS,
    },
)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(RECORDS, max_size=12), min_size=1, max_size=3), st.integers(1, 5))
def test_loads_what_the_stock_target_loads(
    database: str, runs: list[list[Message]], batch: int
) -> None:
    ours = Loaded(database, CopyTarget, batch_size_rows=batch)
    stock = Loaded(database, TargetPostgres, batch_size_rows=batch)
    for run in runs:
        messages = [schema(), *map(record, run)]
        ours.load(*messages)
        stock.load(*messages)
    assert ours.comparable() == stock.comparable()
    assert ours.types() == stock.types()


def test_fills_in_when_and_from_which_version(database: str) -> None:
    loaded = Loaded(database, CopyTarget)
    before = datetime.now(UTC).replace(tzinfo=None)
    loaded.load(schema(), record({"id": 1}, version=7))
    (row,) = loaded.rows()
    assert row["_sdc_extracted_at"] == datetime(2026, 1, 1)  # noqa: DTZ001
    assert before <= row["_sdc_batched_at"] <= row["_sdc_received_at"]
    assert row["_sdc_sequence"] >= row["_sdc_sync_started_at"] >= before.timestamp()
    assert row["_sdc_table_version"] == 7
    assert row["_sdc_deleted_at"] is None


def test_numbers_keep_all_their_digits(database: str) -> None:
    loaded = Loaded(database, CopyTarget)
    messages = [schema(), record({"id": 1, "amount": "DIGITS"})]
    text = "".join(f"{json.dumps(message)}\n" for message in messages)
    text = text.replace('"DIGITS"', "12345678901234567.89")
    loaded.listen(io.BytesIO(text.encode()))
    assert str(loaded.rows()[0]["amount"]) == "12345678901234567.89"


@pytest.mark.parametrize(
    "config",
    [
        {"use_copy": False},
        {"validate_records": True},
        {"sanitize_null_text_characters": True},
        {"stream_maps": {"deals": {"name": "name.upper()"}}},
    ],
)
def test_leaves_to_the_stock_target_what_is_its_own(
    database: str, config: dict[str, object]
) -> None:
    ours, stock = (Loaded(database, kind, **config) for kind in (CopyTarget, TargetPostgres))
    for loaded in (ours, stock):
        loaded.load(schema(), record({"id": 1, "name": "a", "changed": "2026-01-31T00:00:00Z"}))
    assert ours.comparable() == stock.comparable()


def test_loads_arrays_and_objects_too(database: str) -> None:
    more = {
        "tags": {"type": ["array", "null"], "items": {"type": "string"}},
        "raw": {"type": ["object", "null"]},
    }
    ours, stock = (Loaded(database, kind) for kind in (CopyTarget, TargetPostgres))
    for loaded in (ours, stock):
        loaded.load(schema(**more), record({"id": 1, "tags": ["a", "b"], "raw": {"c": [1]}}))
    assert ours.comparable() == stock.comparable()


def test_loads_into_a_table_without_a_primary_key_too(database: str) -> None:
    ours, stock = (Loaded(database, kind) for kind in (CopyTarget, TargetPostgres))
    for loaded in (ours, stock):
        with psycopg.connect(database) as connection:
            connection.execute(f"create schema {loaded.name}".encode())
            connection.execute(f"create table {loaded.name}.deals (id bigint)".encode())
        loaded.load(schema(), record({"id": 1, "name": "a"}))
        loaded.load(schema(), record({"id": 1, "name": "b"}))
    assert ours.comparable() == stock.comparable()


def test_follows_a_schema_that_changes_in_mid_stream(database: str) -> None:
    loaded = Loaded(database, CopyTarget)
    more = {"region": {"type": ["string", "null"]}}
    loaded.load(
        schema(), record({"id": 1}), schema(**more), record({"id": 2, "region": "DACH"})
    )  # fmt: skip
    assert [row["region"] for row in loaded.rows()] == [None, "DACH"]


def test_an_older_extraction_does_not_replace_a_newer_one(database: str) -> None:
    loaded = Loaded(database, CopyTarget)
    loaded.load(schema(), record({"id": 1, "name": "new"}, "2026-01-02T00:00:00+00:00"))
    loaded.load(schema(), record({"id": 1, "name": "old"}, "2026-01-01T00:00:00+00:00"))
    assert loaded.rows("name") == [{"name": "new"}]
    loaded.load(schema(), record({"id": 1, "name": "newest"}, "2026-01-02T00:00:00+00:00"))
    assert loaded.rows("name") == [{"name": "newest"}]


def test_what_an_older_version_of_the_stream_left_goes(database: str) -> None:
    loaded = Loaded(database, CopyTarget)
    loaded.load(schema(), record({"id": 1}, version=1), record({"id": 2}, version=1))
    loaded.load(
        schema(), record({"id": 2}, version=2),
        {"type": "ACTIVATE_VERSION", "stream": "deals", "version": 2},
    )  # fmt: skip
    assert loaded.rows("id") == [{"id": 2}]


def test_gives_out_state_while_it_loads(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(copying, "STATE_SECONDS", 0)
    loaded = Loaded(database, CopyTarget)
    states = [{"type": "STATE", "value": {"bookmark": n}} for n in (1, 2)]
    loaded.load(
        schema(), record({"id": 1}), states[0], record({"id": 2}), states[1], record({"id": 3})
    )  # fmt: skip
    assert capsys.readouterr().out.splitlines()[:2] == ['{"bookmark": 1}', '{"bookmark": 2}']


def test_a_line_that_is_no_json_is_not_repeated(database: str) -> None:
    loaded = Loaded(database, CopyTarget)
    with pytest.raises(InvalidInputLine) as caught:
        loaded.listen(io.BytesIO(b'{"secret'))
    assert "secret" not in str(caught.value)


def test_the_command_is_the_stock_targets(database: str, tmp_path: Any) -> None:
    loaded = Loaded(database, CopyTarget)
    (tmp_path / "config.json").write_text(json.dumps(loaded._config))
    lines = "".join(f"{json.dumps(message)}\n" for message in (schema(), record({"id": 5})))
    subprocess.run(
        [sys.executable, "-m", "target_postgres_copy", "--config", tmp_path / "config.json"],
        input=lines, text=True, check=True,
    )  # fmt: skip
    assert loaded.rows("id") == [{"id": 5}]
