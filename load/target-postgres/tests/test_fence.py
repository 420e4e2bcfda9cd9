"""If several runs load one table, the latest wins; an older run writes nothing after it."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from loaded import Loaded, Message, activate, lines_of, record, schema
from target_postgres_copy import target as copying
from target_postgres_copy.connector import LoadRefusedError

from tests.pooler import needs_pgbouncer, pooler


def wait_until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def give(process: subprocess.Popen[bytes], *messages: Message) -> None:
    assert process.stdin is not None
    process.stdin.write(lines_of(*messages))
    process.stdin.flush()


def deals(first: int, last: int, name: str = "a") -> list[Message]:
    return [record({"id": number, "name": name}) for number in range(first, last + 1)]


def test_a_batch_has_a_number_its_rows_and_the_keys_it_read(database: str) -> None:
    loaded = Loaded(database, batch_size_rows=2)
    loaded.begin_run(1)
    loaded.load(schema(), *deals(1, 3))
    assert loaded.rows("id, _loaded_in") == [
        {"id": 1, "_loaded_in": 1},
        {"id": 2, "_loaded_in": 1},
        {"id": 3, "_loaded_in": 2},
    ]
    loaded.load(schema(), *deals(1, 1), *deals(2, 2, "b"), *deals(4, 4), *deals(4, 4))
    assert loaded.rows("id, _loaded_in") == [
        {"id": 1, "_loaded_in": 1},
        {"id": 2, "_loaded_in": 3},
        {"id": 3, "_loaded_in": 2},
        {"id": 4, "_loaded_in": 4},
    ]
    assert loaded.query(
        "select loaded_in, stream, string_agg(record_key, ',' order by record_key) as keys "
        "from {schema}.read_keys group by 1, 2 order by 1"
    ) == [
        {"loaded_in": 1, "stream": "deals", "keys": "1,2"},
        {"loaded_in": 2, "stream": "deals", "keys": "3"},
        {"loaded_in": 3, "stream": "deals", "keys": "1,2"},
        {"loaded_in": 4, "stream": "deals", "keys": "4"},
    ]


def test_a_row_that_comes_again_in_a_first_load_is_updated(database: str) -> None:
    loaded = Loaded(database, batch_size_rows=2)
    loaded.begin_run(1)
    loaded.load(schema(), *deals(1, 2), *deals(2, 3, "b"), *deals(4, 5))
    assert [(row["id"], row["name"]) for row in loaded.rows()] == [
        *((1, "a"), (2, "b"), (3, "b"), (4, "a"), (5, "a"))
    ]
    batches = loaded.query(
        "select array_agg(record_key::int order by record_key) as keys from {schema}.read_keys "
        "group by loaded_in order by loaded_in"
    )
    assert [row["keys"] for row in batches] == [[1, 2], [2, 3], [4, 5]]
    (row,) = loaded.query("select count(*) from {schema}.deals where _loaded_in is null")
    assert row["count"] == 0


def test_a_run_that_was_superseded_says_so_and_changes_nothing(
    database: str, tmp_path: Path
) -> None:
    older = Loaded(database, batch_size_rows=5)
    older.begin_run(1)
    process = older.start(tmp_path)
    state = {"type": "STATE", "value": {"bookmark": "of what was not written"}}
    give(process, schema(), *deals(1, 5, "older"))
    wait_until(lambda: older.query("select 1 as one from {schema}.read_keys"))
    older.begin_run(2)
    older.load(schema(), *deals(1, 7, "newer"))
    printed, logged = process.communicate(lines_of(*deals(1, 5, "secret"), state))
    assert process.returncode == 1
    assert printed == b""
    errors = [line for line in logged.decode().splitlines() if "superseded" in line]
    assert len(errors) == 1
    assert "deals: This run was superseded by a later one" in errors[0]
    assert b"Traceback" not in logged
    assert b"secret" not in logged
    assert {row["name"] for row in older.rows()} == {"newer"}
    assert len(older.rows()) == 7


@pytest.mark.parametrize("config", [{"use_copy": False}, {"validate_records": True}])
def test_the_stock_path_stands_behind_the_same_fence(database: str, config: dict[str, Any]) -> None:
    loaded = Loaded(database, **config)
    loaded.begin_run(1)
    loaded.load(schema(), *deals(1, 2, "newer"))
    assert loaded.query("select record_key from {schema}.read_keys order by 1") == [
        {"record_key": "1"},
        {"record_key": "2"},
    ]
    loaded.query("update {schema}.load_fence set run_number = 2")
    with pytest.raises(LoadRefusedError, match="superseded"):
        loaded.load(schema(), *deals(1, 3, "older"))
    assert {row["name"] for row in loaded.rows()} == {"newer"}
    with pytest.raises(LoadRefusedError, match="superseded"):
        loaded.load(schema(), activate(9))
    assert len(loaded.rows()) == 2


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM])
def test_a_load_that_is_ended_leaves_whole_batches_and_no_lock(
    database: str, tmp_path: Path, ended_by: signal.Signals
) -> None:
    loaded = Loaded(database, batch_size_rows=10)
    loaded.begin_run(1)
    process = loaded.start(tmp_path)
    states = [{"type": "STATE", "value": {"read": number}} for number in (10, 25)]
    give(process, schema(), *deals(1, 10), states[0])
    wait_until(lambda: loaded.query("select 1 as one from {schema}.read_keys"))
    with psycopg.connect(database) as other:
        # The second batch has been copied, and waits for its number.
        other.execute(b"lock table %s.load_fence" % loaded.name.encode())
        give(process, *deals(11, 25), states[1])
        wait_until(lambda: loaded.query("select 1 as one from pg_locks where not granted"))
        process.send_signal(ended_by)
        printed, _ = process.communicate()
    assert process.returncode == (-ended_by if ended_by == signal.SIGKILL else 128 + ended_by)
    assert b"25" not in printed
    assert [row["id"] for row in loaded.rows()] == [*range(1, 11)]
    loaded.load(schema(), *deals(1, 25))
    assert [row["id"] for row in loaded.rows()] == [*range(1, 26)]


def test_a_load_that_is_told_to_stop_waits_for_no_lock(database: str, tmp_path: Path) -> None:
    loaded = Loaded(database)
    loaded.begin_run(1)
    process = loaded.start(tmp_path)
    streams = ["deals", "others"]
    with psycopg.connect(database) as other:
        other.execute(b"lock table %s.load_fence" % loaded.name.encode())
        give(
            process,
            *map(schema, streams),
            *(record({"id": 1}) | {"stream": stream} for stream in streams),
            {"type": "STATE", "value": {"read": "all"}},
        )
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        # Both streams are written at once, and wait for their numbers.
        waiting = "select 1 as one from pg_locks where not granted"
        wait_until(lambda: len(loaded.query(waiting)) == len(streams))
        process.terminate()
        printed, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert printed == b""


@pytest.mark.parametrize("shift", ["-2d", "+2d"])
def test_the_loaders_clock_decides_nothing(database: str, tmp_path: Path, shift: str) -> None:
    loaded = Loaded(database, hard_delete=False)
    for number, clock in enumerate([["faketime", "-f", shift], []] * 2):
        loaded.begin_run(number)
        name, rest = f"of run {number}", [] if number else [record({"id": 2}, version=0)]
        process = loaded.start(tmp_path, *clock)
        _, logged = process.communicate(
            lines_of(
                schema(),
                record({"id": 1, "name": name}, version=number),
                *rest,
                activate(number),
            )
        )
        assert process.returncode == 0, logged.decode()
        row = loaded.rows()[0]
        assert row["name"] == name
        by_its_clock = datetime.now(UTC).replace(tzinfo=None) - row["_sdc_batched_at"]
        assert (abs(by_its_clock) > timedelta(days=1)) == bool(clock)
    (deleted,) = loaded.query("select _sdc_deleted_at from {schema}.deals where id = 2")
    age = datetime.now(UTC).replace(tzinfo=None) - deleted["_sdc_deleted_at"]
    assert timedelta() < age < timedelta(minutes=5)


@pytest.mark.parametrize("numbered", [True, False])
def test_what_a_version_did_not_have_is_marked_until_it_comes_back(
    database: str, numbered: bool
) -> None:
    loaded = Loaded(database, hard_delete=False, batch_size_rows=2)

    def run(number: int, *messages: Message) -> None:
        if numbered:
            loaded.begin_run(number)
        loaded.load(schema(), *messages)

    def gone() -> list[int]:
        return [row["id"] for row in loaded.rows() if row["_sdc_deleted_at"]]

    def of(version: int, *keys: int) -> list[Message]:
        return [record({"id": key}, version=version) for key in keys]

    run(1, *of(1, 1, 2, 3, 4, 5), activate(1))
    assert gone() == []
    run(2, *of(2, 1, 2, 4))  # no end, so it proves nothing
    assert gone() == []
    more = schema(region={"type": ["string", "null"]})
    run(3, *of(3, 1), more, *of(3, 2, 4), activate(3))
    assert gone() == [3, 5]
    if numbered:  # unchanged rows were not written, not even for a moment
        assert [row["_loaded_in"] for row in loaded.rows() if row["id"] in (1, 2, 4)] == [1, 1, 2]
    marked = loaded.rows("id, _sdc_deleted_at")
    run(4, *of(4, 1, 2, 4), activate(4))
    assert loaded.rows("id, _sdc_deleted_at") == marked
    run(5, record({"id": 5}))
    assert gone() == [3]


@pytest.mark.parametrize("numbered", [True, False])
def test_a_batch_is_of_one_version(database: str, numbered: bool) -> None:
    loaded = Loaded(database, hard_delete=False)
    if numbered:
        loaded.begin_run(1)
    loaded.load(schema(), record({"id": 1}, version=1), record({"id": 2}, version=2), activate(2))
    assert [row["id"] for row in loaded.rows() if row["_sdc_deleted_at"]] == [1]


def test_a_mark_is_of_a_batch_that_a_merge_can_find(database: str) -> None:
    loaded = Loaded(database, hard_delete=False)
    loaded.begin_run(1)
    loaded.load(schema(), *deals(1, 2))
    loaded.load(schema(), record({"id": 1, "name": "a"}, version=2), activate(2))
    assert loaded.rows("id, _loaded_in") == [{"id": 1, "_loaded_in": 1}, {"id": 2, "_loaded_in": 3}]


@pytest.mark.parametrize("hard_delete", [True, False])
def test_nothing_is_deleted_where_the_record_of_keys_has_gaps(
    database: str, hard_delete: bool
) -> None:
    loaded = Loaded(database, hard_delete=hard_delete, batch_size_rows=2)
    loaded.begin_run(1)
    loaded.load(schema(), *deals(1, 5))

    def lines() -> Iterator[bytes]:
        yield from lines_of(
            schema(), *(record({"id": 1}, version=2) for _ in range(2))
        ).splitlines()
        loaded.query("delete from {schema}.read_keys")
        yield lines_of(activate(2))

    with pytest.raises(LoadRefusedError, match="1 keys of version 2 were read, but 0 are recorded"):
        loaded.listen(lines())
    assert [row["_sdc_deleted_at"] for row in loaded.rows()] == [None] * 5


def test_keys_of_several_columns_are_told_apart(database: str) -> None:
    loaded = Loaded(database, hard_delete=False)
    pair = schema(part={"type": "string"}) | {"key_properties": ["name", "part"]}
    keys = [{"id": 1, "name": "a", "part": "b,c"}, {"id": 2, "name": "a,b", "part": "c"}]
    loaded.begin_run(1)
    loaded.load(pair, *map(record, keys))
    loaded.load(pair, record(dict(keys[0]), version=2), activate(2))
    assert [row["id"] for row in loaded.rows() if row["_sdc_deleted_at"]] == [2]


def test_loaders_of_one_run_do_not_lock_each_other_out(database: str, tmp_path: Path) -> None:
    loaded = Loaded(database, batch_size_rows=20)
    loaded.begin_run(1)
    loaded.load(schema(), *deals(1, 100))
    names = ["a", "b", "c", "d"]
    processes = [loaded.start(tmp_path) for _ in names]
    for index, (process, name) in enumerate(zip(processes, names, strict=True)):
        order = deals(1, 100, name)[:: -1 if index % 2 else 1]
        give(process, schema(), *order, *order[::-1])
    logs = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, logs
    assert {row["name"] for row in loaded.rows()} <= {*names}
    (recorded,) = loaded.query(
        "select count(distinct loaded_in) as batches, count(*) as keys from {schema}.read_keys"
    )
    # Each of 20: 5 of the first load, and 10 of each loader.
    assert recorded == {"batches": 45, "keys": 900}


def test_streams_that_are_written_at_once_do_not_wait_for_ever(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "STATE_SECONDS", 0)
    loaded = Loaded(database)
    loaded.begin_run(1)
    streams = [f"deals_{number}" for number in range(6)]
    loaded.load(
        *(schema(stream) for stream in streams),
        *(record({"id": n}) | {"stream": stream} for n in range(5) for stream in streams),
    )
    assert loaded.query("select count(distinct loaded_in) as batches from {schema}.read_keys") == [
        {"batches": 30}
    ]


def come_and_go(url: str) -> None:
    for _ in range(50):
        with psycopg.connect(url) as connection:
            connection.execute("select 1")


@needs_pgbouncer
@pytest.mark.parametrize("use_copy", [True, False])
def test_loads_through_a_pooler_in_transaction_mode(database: str, use_copy: bool) -> None:
    with pooler(database) as pooled:
        loaded = Loaded(pooled, use_copy=use_copy, batch_size_rows=10, hard_delete=False)
        loaded.database = database
        loaded.begin_run(1)
        crowd = [threading.Thread(target=come_and_go, args=[pooled]) for _ in range(2)]
        for thread in crowd:
            thread.start()
        loaded.load(schema(), *(record({"id": n}, version=1) for n in range(100)), activate(1))
        loaded.load(schema(), *(record({"id": n}, version=2) for n in range(99)), activate(2))
        for thread in crowd:
            thread.join()
    assert [row["id"] for row in loaded.rows() if row["_sdc_deleted_at"]] == [99]
