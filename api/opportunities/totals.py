"""How many rows a list has, counted anew only when the database has changed."""

from collections import OrderedDict
from hashlib import blake2b
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.opportunities import queries


class Totals:
    """The totals of the lists that were asked for last.

    Snapshots of PostgreSQL that are written the same see the same rows, so a total that was
    counted under one holds for as long as the present one is written the same.
    """

    def __init__(self, size: int = 1000) -> None:
        self._size = size
        self._known: OrderedDict[bytes, tuple[str, int]] = OrderedDict()

    async def get(self, connection: AsyncConnection[DictRow], conditions: dict[str, Any]) -> int:
        """Return how many opportunities fulfil the conditions."""
        row = await (await connection.execute(queries.SNAPSHOT)).fetchone()
        assert row is not None  # noqa: S101 - it gives one
        listing = blake2b(repr(conditions).encode(), digest_size=16).digest()
        known = self._known.get(listing)
        if known is None or known[0] != row["snapshot"]:
            count = await connection.execute(queries.total(tuple(conditions)), conditions)
            counted = await count.fetchone()
            assert counted is not None  # noqa: S101 - a count gives one
            known = self._known[listing] = row["snapshot"], counted["count"]
        self._known.move_to_end(listing)
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return known[1]
