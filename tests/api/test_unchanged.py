"""A result that is kept is what reading again would give, whatever others write meanwhile."""

import asyncio
from typing import Any, LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from api.database import fetch_one
from api.opportunities.unchanged import STATE, State, Unchanged

INSERT = "insert into opportunities (remote_id) values (gen_random_uuid()::text)"
COUNT: LiteralString = "select count(*) from opportunities"
SUM: LiteralString = "select coalesce(sum(deal_value), 0)::int as sum from opportunities"
# What a writer may do. Elsewhere is a write to another table, which gives its transaction a number.
STEPS = {
    "begin": "begin",
    "insert": INSERT,
    "delete": "delete from opportunities where id = (select min(id) from opportunities)",
    "edit": "update opportunities set workflow_status = 'ASSIGNED'",
    "value": "update opportunities set deal_value = coalesce(deal_value, 0) + 1",
    "nothing": "update opportunities set name = 'x' where false",
    "elsewhere": "insert into elsewhere values (1)",
    "savepoint": "savepoint a",
    "back": "rollback to savepoint a",
    "lock": "select * from opportunities for update skip locked",
    "commit": "commit",
    "rollback": "rollback",
}


class Reader:
    """Counts and sums through what is kept, and knows how often it really did."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self.connection = connection
        self.unchanged = Unchanged()
        self.counted = self.summed = 0

    async def really(self) -> int:
        self.counted += 1
        return int((await fetch_one(self.connection, COUNT))["count"])

    async def see(self) -> State:
        return State(**await fetch_one(self.connection, f"select {STATE}"))

    async def count(self, seen: State | None = None) -> int:
        unchanged = self.unchanged if seen is None else self.unchanged.at(seen)
        return await unchanged.get(self.connection, "count", self.really)

    async def really_sum(self) -> int:
        self.summed += 1
        return int((await fetch_one(self.connection, SUM))["sum"])

    async def sum(self) -> int:
        return await self.unchanged.get(self.connection, "sum", self.really_sum, of_values=True)


async def _reader(url: str) -> Reader:
    return Reader(await AsyncConnection.connect(url, autocommit=True, row_factory=dict_row))


@pytest.fixture
def writers(database: str) -> Any:
    """Two sessions that write."""
    with (
        psycopg.connect(database, autocommit=True) as one,
        psycopg.connect(database, autocommit=True) as other,
    ):
        for connection in (one, other):
            connection.execute("set lock_timeout = '100ms'")
        one.execute("create table if not exists elsewhere (a int)")
        yield one, other
        one.execute("rollback")
        other.execute("rollback")
        one.execute("drop table elsewhere")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(sorted(STEPS)), st.booleans()), max_size=25
    )
)
def test_what_is_kept_is_what_reading_again_gives(
    database: str, writers: tuple[Any, Any], steps: list[tuple[int, str, bool]]
) -> None:
    async def run() -> None:
        reader = await _reader(database)
        async with reader.connection:
            for number, step, looks in steps:
                seen, then = await reader.see(), await reader.really()
                try:
                    writers[number].execute(STEPS[step])
                except psycopg.Error:  # outside a transaction, say, or locked by the other
                    writers[number].execute("rollback")
                if looks:
                    # Who has seen the state before sees what was then, or what is now.
                    assert await reader.count(seen) in {then, await reader.really()}
                    assert await reader.count() == await reader.really()
                    assert await reader.sum() == await reader.really_sum()

    for writer in writers:
        writer.execute("rollback")
    asyncio.run(run())


def test_a_write_in_progress_or_elsewhere_costs_no_new_count(
    database: str, writers: tuple[Any, Any]
) -> None:
    one, other = writers

    async def run() -> None:
        reader = await _reader(database)
        async with reader.connection:
            one.execute("begin")
            one.execute(INSERT)
            before = await reader.count()
            for _ in range(3):
                other.execute(STEPS["elsewhere"])
                assert await reader.count() == before
            assert reader.counted == 1
            one.execute("commit")
            assert await reader.count() == before + 1
            for _ in range(3):
                other.execute(STEPS["elsewhere"])
                assert await reader.count() == before + 1
            seen = await reader.see()
            other.execute(INSERT)
            assert await reader.count(seen) == before + 1
            assert reader.counted == 2
            assert await reader.count() == before + 2
            other.execute("truncate opportunities cascade")
            assert await reader.count() == 0

    asyncio.run(run())


def test_an_edit_of_the_bid_team_costs_no_new_sum(database: str, writers: tuple[Any, Any]) -> None:
    one, _ = writers

    async def run() -> None:
        reader = await _reader(database)
        async with reader.connection:
            one.execute(INSERT)
            for step, count, total in (("edit", 1, 0), ("edit", 2, 0), ("value", 3, 1)):
                one.execute(STEPS[step])
                assert await reader.sum() == total
                await reader.count()
                assert (reader.counted, reader.summed) == (count, 1 + total)

    asyncio.run(run())


def test_a_writer_without_a_row_yet(database: str, writers: tuple[Any, Any]) -> None:
    one, other = writers

    async def run() -> None:
        reader = await _reader(database)
        async with reader.connection:
            one.execute("begin")
            one.execute("lock table opportunities in row exclusive mode")
            for _ in range(2):
                other.execute(STEPS["elsewhere"])
                assert await reader.count() == await reader.really()
            one.execute(INSERT)
            one.execute("commit")
            assert await reader.count() == await reader.really()

    asyncio.run(run())
