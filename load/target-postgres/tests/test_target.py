"""All loads give the same result as the stock target."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loaded import Loaded, Message, activate, lines_of, record, same, schema
from singer_sdk.exceptions import MissingKeyPropertiesError
from singer_sdk.singerlib.exceptions import InvalidInputLine
from target_postgres.target import TargetPostgres  # type: ignore[import-untyped]
from target_postgres_copy import target as copying
from target_postgres_copy.connector import LoadRefusedError
from target_postgres_copy.target import CopyTarget

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=UTC).isoformat()
)
AMOUNTS = st.integers(-(10**12), 10**12) | st.integers(0, 10**9).map(lambda cents: cents / 100)
JSON = st.recursive(
    st.none() | st.booleans() | AMOUNTS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
VALUES = {
    "name": st.none() | TEXT | st.sampled_from(["\\N", "\\.", "a\tb\\nc\r\n", "", "null"]),
    "amount": st.none() | AMOUNTS,
    "open": st.none() | st.booleans(),
    "closes": st.none() | st.dates(date(1900, 1, 1), date(9000, 1, 1)).map(date.isoformat),
    "changed": st.none() | MOMENTS,
    "custom": st.none() | st.dictionaries(TEXT, JSON, max_size=3),
}
RECORDS = st.fixed_dictionaries(
    {"id": st.integers(0, 9) | st.integers(-(2**63), 2**63 - 1)}, optional=VALUES
)
FEW_RECORDS = st.fixed_dictionaries(
    {"id": st.integers(0, 4)},
    optional={"name": st.sampled_from(["a", "b"]), "custom": st.sampled_from([{"c": 1}, None])},
)
WHENS = st.sampled_from([None, "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+02:00"])


@st.composite
def loads(draw: st.DrawFn) -> list[list[Message]]:
    """Draw messages of a few loads, with and without versions, times and a new attribute."""
    messages: list[list[Message]] = []
    for number in range(draw(st.integers(1, 4))):
        versioned = draw(st.booleans())
        version = {"version": number} if versioned else {}
        load = [schema()]
        for few in draw(st.lists(st.lists(FEW_RECORDS, max_size=4), min_size=1, max_size=2)):
            load += [record(dict(values), draw(WHENS), **version) for values in few]
            if draw(st.booleans()):
                load.append(schema(region={"type": ["string", "null"]}))
        if versioned and draw(st.booleans()):
            load.append(activate(number))
        messages.append(load)
    return messages


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
    assert same(ours) == same(stock)
    assert ours.types() == stock.types()


@settings(max_examples=16, deadline=None)
@given(loads(), st.integers(1, 4), st.booleans(), st.booleans())
def test_any_sequence_of_messages_ends_as_with_the_stock_target(
    database: str, runs: list[list[Message]], batch: int, hard_delete: bool, numbered: bool
) -> None:
    config: dict[str, Any] = {"batch_size_rows": batch, "hard_delete": hard_delete}
    ours, stock = (Loaded(database, kind, **config) for kind in (CopyTarget, TargetPostgres))
    for number, messages in enumerate(runs):
        if numbered:
            ours.begin_run(number)
        ours.load(*messages)
        stock.load(*messages)
    # An unchanged row is not written; so with a run's number, neither is its version.
    left_out = ["_sdc_table_version"] if numbered else []
    assert same(ours, *left_out) == same(stock, *left_out)


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
    loaded = Loaded(database)
    values = {"id": 1, "amount": "DIGITS", "custom": {"amount": "DIGITS"}}
    lines = lines_of(schema(), record(values)).replace(b'"DIGITS"', b"12345678901234567.89")
    loaded.listen(lines.splitlines(keepends=True))
    (row,) = loaded.rows("amount::text, custom ->> 'amount' as in_custom")
    assert row == {"amount": "12345678901234567.89", "in_custom": "12345678901234567.89"}


def test_the_servers_time_zone_changes_nothing(database: str) -> None:
    loaded = Loaded(database, hard_delete=False)
    loaded.config["sqlalchemy_url"] += "?options=-ctimezone%3DAsia/Kolkata"
    loaded.load(schema())
    loaded.query("alter table {schema}.deals alter changed type timestamptz")
    rows = [record({"id": number, "changed": "2026-01-31T12:00:00"}) for number in (1, 2)]
    loaded.load(schema(), *rows, record({"id": 1}, version=1), activate(1))
    (_, row) = loaded.rows()
    assert row["changed"] == datetime(2026, 1, 31, 12, tzinfo=UTC)
    age = datetime.now(UTC) - row["_sdc_deleted_at"].replace(tzinfo=UTC)
    assert abs(age) < timedelta(minutes=5)


def test_an_object_that_is_null_is_null(database: str) -> None:
    loaded = Loaded(database)
    loaded.load(schema(), record({"id": 1, "custom": None}), record({"id": 2, "custom": {}}))
    assert loaded.rows("custom is null as absent") == [{"absent": True}, {"absent": False}]


def test_takes_a_number_that_is_none_as_python_writes_it(database: str) -> None:
    ours, stock = (Loaded(database, kind) for kind in (CopyTarget, TargetPostgres))
    for loaded in (ours, stock):
        loaded.load(schema(), record({"id": 1, "amount": float("nan")}))
    assert ours.rows("amount::text") == stock.rows("amount::text") == [{"amount": "NaN"}]


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
    assert same(ours) == same(stock)


def test_loads_arrays_and_objects_too(database: str) -> None:
    more: Message = {
        "tags": {"type": ["array", "null"], "items": {"type": "string"}},
        "raw": {"type": ["object", "null"]},
    }
    ours, stock = (Loaded(database, kind) for kind in (CopyTarget, TargetPostgres))
    for loaded in (ours, stock):
        loaded.load(schema(**more), record({"id": 1, "tags": ["a", "b"], "raw": {"c": [1]}}))
    assert same(ours) == same(stock)


def test_loads_into_a_table_without_a_primary_key_too(database: str) -> None:
    ours, stock = (Loaded(database, kind) for kind in (CopyTarget, TargetPostgres))
    for loaded in (ours, stock):
        with psycopg.connect(database) as connection:
            connection.execute(f"create schema {loaded.name}".encode())
            connection.execute(f"create table {loaded.name}.deals (id bigint)".encode())
        loaded.load(schema(), record({"id": 1, "name": "a"}))
        loaded.load(schema(), record({"id": 1, "name": "b"}))
    assert same(ours) == same(stock)


def test_follows_a_schema_that_changes_in_mid_stream(database: str) -> None:
    loaded = Loaded(database, CopyTarget)
    more: Message = {"region": {"type": ["string", "null"]}}
    loaded.load(schema(), record({"id": 1}), schema(**more), record({"id": 2, "region": "DACH"}))
    assert [row["region"] for row in loaded.rows()] == [None, "DACH"]


@pytest.mark.parametrize("later", ["2025-12-31T00:00:00+00:00", None])
def test_what_arrives_last_stays_whatever_a_clock_says(database: str, later: str | None) -> None:
    loaded = Loaded(database)
    loaded.load(schema(), record({"id": 1, "name": "first"}, "2026-01-01T00:00:00+00:00"))
    loaded.load(schema(), record({"id": 1, "name": "last"}, later))
    assert loaded.rows("name") == [{"name": "last"}]


def test_a_row_that_stays_the_same_is_not_written(database: str) -> None:
    loaded = Loaded(database)
    rows = [{"id": n, "amount": 1.5, "custom": {"a": [n, None]}} for n in range(50)]
    loaded.load(schema(), *map(record, rows))
    before = loaded.rows("xmin::text, ctid::text, xmax::text, *")
    loaded.load(schema(), *(record(dict(row), "2026-02-01T00:00:00+00:00") for row in rows))
    assert loaded.rows("xmin::text, ctid::text, xmax::text, *") == before
    rows[7]["custom"] = {"a": [7, 0]}
    loaded.load(schema(), *(record(dict(row)) for row in rows))
    after = loaded.rows("xmin::text, ctid::text, xmax::text, *")
    assert [row["id"] for row, was in zip(after, before, strict=True) if row != was] == [7]


def test_gives_out_state_while_it_loads(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(copying, "STATE_SECONDS", 0)
    loaded = Loaded(database, CopyTarget)
    states = [{"type": "STATE", "value": {"bookmark": n}} for n in (1, 2)]
    loaded.load(
        schema(), record({"id": 1}), states[0], record({"id": 2}), states[1], record({"id": 3})
    )
    assert capsys.readouterr().out.splitlines()[:2] == ['{"bookmark": 1}', '{"bookmark": 2}']


@pytest.mark.parametrize("line", [b'{"secret', b'{"stream": "deals", "record": {"a": "secret"}}'])
def test_a_line_that_is_no_message_is_not_repeated(database: str, line: bytes) -> None:
    with pytest.raises(InvalidInputLine) as caught:
        Loaded(database).listen([line])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("values", [{"name": "secret"}, {"id": None, "name": "secret"}])
def test_a_record_without_its_key_is_named_without_its_values(
    database: str, values: Message
) -> None:
    with pytest.raises(MissingKeyPropertiesError, match="missing one or more key_prop") as caught:
        Loaded(database).load(schema(), record(values))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("use_copy", [True, False])
@pytest.mark.parametrize(
    ("column", "value"),
    [("amount", "secret"), ("changed", "secret"), ("custom", {"a": "secret\0"})],
)
def test_a_value_that_cannot_be_read_is_not_repeated(
    database: str, use_copy: bool, column: str, value: object
) -> None:
    loaded = Loaded(database, use_copy=use_copy)
    loaded.load(schema())
    loaded.query("alter table {schema}.deals alter changed type text")
    loaded.query("alter table {schema}.deals add constraint known check (changed != 'secret')")
    with pytest.raises(LoadRefusedError) as caught:
        loaded.load(schema(changed={"type": ["string", "null"]}), record({"id": 1, column: value}))
    assert "secret" not in str(caught.value)
    if column == "changed":
        assert 'violates check constraint "known"' in str(caught.value)
    elif use_copy:
        assert str(caught.value).endswith(f'column "{column}"')


@pytest.mark.parametrize("value", [["secret"], {"a": "secret"}])
def test_a_list_or_an_object_is_no_value_of_a_text(database: str, value: object) -> None:
    loaded = Loaded(database)
    with pytest.raises(LoadRefusedError, match='is no value of column "name"') as caught:
        loaded.load(schema(), record({"id": 1}), record({"id": 2, "name": value}))
    assert "secret" not in str(caught.value)


def test_the_last_record_stays_whether_or_not_it_keeps_to_its_schema(database: str) -> None:
    loaded = Loaded(database)
    odd, text = '"\\\n\x01', {"d": '"\\\n\x01'}
    values: list[Message] = [
        {"id": 1, "name": "a"},
        {"id": 1, "name": 5, "amount": "7.50", "open": "1"},
        {"id": 2, "name": odd, "custom": text},
        {"id": 2, "name": True, "amount": 1},
        {"id": 3, "name": 1.5, "custom": [1]},
        {"id": 3, "name": odd, "custom": text},
    ]
    loaded.load(schema(), *map(record, values))
    assert loaded.rows("name, amount::text, open, custom") == [
        {"name": "5", "amount": "7.50", "open": True, "custom": None},
        {"name": "true", "amount": "1", "open": None, "custom": None},
        {"name": odd, "amount": None, "open": None, "custom": text},
    ]


def test_names_that_json_escapes_load_too(database: str) -> None:
    ours = Loaded(database)
    more: Message = {'a "b"': {"type": ["string", "null"]}, "c\\d": {"type": ["string", "null"]}}
    ours.load(schema(**more), *(record({"id": n, 'a "b"': "x", "c\\d": "y"}) for n in (1, 2)))
    assert {tuple(row[name] for name in more) for row in ours.rows()} == {("x", "y")}


@pytest.mark.parametrize("use_copy", [True, False])
def test_a_lock_is_waited_for_a_bounded_time(database: str, use_copy: bool) -> None:
    loaded = Loaded(database, use_copy=use_copy, lock_timeout=1)
    loaded.load(schema(), record({"id": 1, "name": "first"}))
    with psycopg.connect(database) as holder:
        holder.execute(f"lock table {loaded.name}.deals".encode())
        with pytest.raises(LoadRefusedError, match="lock timeout"):
            loaded.load(schema(), record({"id": 1, "name": "second"}))
    loaded.load(schema(), record({"id": 1, "name": "second"}))
    assert loaded.rows("name") == [{"name": "second"}]


def test_the_command_is_the_stock_targets(database: str, tmp_path: Path) -> None:
    loaded = Loaded(database)
    process = loaded.start(tmp_path)
    process.communicate(lines_of(schema(), record({"id": 5})))
    assert process.returncode == 0
    assert loaded.rows("id") == [{"id": 5}]
