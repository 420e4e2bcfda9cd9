"""What was read from opportunities, kept until they change."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, LiteralString, Self, TypeVar

from fastapi import Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.database import SAFE_METHODS, fetch_one

# The columns of a State. The oid tells a restored table from the one before; the first call gives
# the value of none.
STATE: LiteralString = """
    (
        select concat_ws(' ', tableoid, is_called, last_value) from opportunities_version
    ) as version,
    pg_current_snapshot()::text as snapshot
"""
_STATE_OF_VALUES: LiteralString = STATE.replace(
    "opportunities_version", "opportunity_values_version"
)
# A transaction holds this lock from its first write to its end. It may have subtransactions, whose
# numbers are higher than its own; before its first row it has none.
_WRITERS: LiteralString = """
with locks as materialized (select * from pg_locks where granted)
select coalesce(array_agg(
    (
        select min(own.transactionid::text::bigint)
        from locks as own
        where own.locktype = 'transactionid'
            and own.mode = 'ExclusiveLock'
            and own.virtualtransaction = writers.virtualtransaction
    )
), '{}') as writers
from (
    select distinct virtualtransaction
    from locks
    where relation = 'opportunities'::regclass
        and database = (select oid from pg_database where datname = current_database())
        and mode in (
            'RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
        )
) as writers
"""
_XIDS = 2**32

Result = TypeVar("Result")


@dataclass(frozen=True)
class State:
    """What a reader sees at a moment.

    Attributes:
        version: changes before each write to opportunities, also before one that is not committed.
        snapshot: PostgreSQL's text for what is committed.
    """

    version: str
    snapshot: str

    def is_running(self, transaction: int) -> bool:
        """Return whether a transaction, of which the last 32 bits are known, has not ended."""
        _, following, running = self.snapshot.split(":")
        if (transaction - int(following)) % _XIDS < _XIDS // 2:
            return True
        return transaction in {int(number) % _XIDS for number in running.split(",") if number}


@dataclass(frozen=True)
class _Known(Generic[Result]):
    result: Result
    state: State
    writers: tuple[int, ...] | None

    def holds(self, now: State) -> bool:
        """Return whether reading again would give the same.

        It does if nothing was committed at all; or if no write to opportunities began, and those
        that were under way have not ended.
        """
        if now.snapshot == self.state.snapshot and now.version == self.state.version:
            return True
        if now.version != self.state.version or self.writers is None:
            return False
        return all(map(now.is_running, self.writers))


class Unchanged:
    """Results of queries over opportunities, those that were asked for last.

    A result is the same as if it was read at that moment, for whoever reads it: there is no time
    after which it is too old. So what it is made of must depend on opportunities alone.
    """

    def __init__(self, size: int = 1000) -> None:
        self._size = size
        self._known: OrderedDict[bytes, _Known[Any]] = OrderedDict()
        self._now: State | None = None

    def at(self, state: State) -> Self:
        """Return the same, for a reader who has seen the state a moment ago and need not ask."""
        seen = copy(self)
        seen._now = state
        return seen

    async def get(
        self,
        connection: AsyncConnection[DictRow],
        what: object,
        read: Callable[[], Awaitable[Result]],
        *,
        of_values: bool = False,
    ) -> Result:
        """Return what `read` gives.

        Args:
            connection: it must be outside a transaction, and `read` must use it.
            what: the query and its parameters; the same `repr` means the same result.
            read: called if the result is not known, or does not hold any more.
            of_values: whether it depends on no other columns than deal_value, currency,
                reporting_value, crm_outcome and deleted_at, so that it outlasts the bid team's
                edits.
        """
        if self._now and not of_values:
            now = self._now
        else:
            columns = _STATE_OF_VALUES if of_values else STATE
            now = State(**await fetch_one(connection, f"select {columns}"))
        key = blake2b(repr(what).encode(), digest_size=16).digest()
        known = self._known.get(key)
        if known is None or not known.holds(now):
            # In this order: a write that begins after the state was seen changes the version.
            found = (await fetch_one(connection, _WRITERS))["writers"]
            writers = None if None in found else tuple(found)
            known = self._known[key] = _Known(await read(), now, writers)
        self._known.move_to_end(key)
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        result: Result = known.result
        return result


def unchanged_for(request: Request, seen: State | None) -> Unchanged:
    """Return what is kept, for a request whose user was identified when this state was seen.

    A request that changes something has to look again after it.
    """
    unchanged: Unchanged = request.app.state.unchanged
    return unchanged if seen is None or request.method not in SAFE_METHODS else unchanged.at(seen)
