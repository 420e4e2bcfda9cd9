"""What pages offer to choose from: the values of each filter, the users to assign to."""

import time
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import Role, User
from api.fields import Fields
from api.problems import ProblemError

KEPT_SECONDS = 60
MOST = 500
NEWEST, MOST_FREQUENT = 2000, 20

# Hops from value to value on the indexes that the filters have, however many rows share one.
_HOPS: LiteralString = """
with recursive found as (
    (select left({0}, 200) as value from opportunities
        where left({0}, 200) is not null order by 1 limit 1)
    union all
    select (select left({0}, 200) from opportunities
        where left({0}, 200) > found.value order by 1 limit 1)
    from found where found.value is not null
)
select value from found where value <> '' limit %s
"""
# Of columns with few values.
_DISTINCT: LiteralString = (
    "select distinct {0} as value from opportunities where {0} <> '' order by 1 limit %s"
)
_QUERIES: dict[str, LiteralString] = {
    "stage": _HOPS.format("stage"),
    "practice": _HOPS.format("practice"),
    "sales_owner": _HOPS.format("sales_owner"),
    "geo": _DISTINCT.format("geo"),
    "currency": _DISTINCT.format("currency"),
}
# Only the newest deals: those of all would have to be taken out of as many objects.
_FREQUENT: LiteralString = """
select value
from (
    select custom -> %(field)s as given from opportunities
    where deleted_at is null order by id desc limit %(deals)s
) as newest
cross join lateral jsonb_array_elements_text(
    case jsonb_typeof(given) when 'array' then given else jsonb_build_array(given) end
) as one (value)
where value != '' and length(value) <= 200
group by value
order by count(*) desc, value
limit %(most)s
"""
_USERS: LiteralString = """
select id, name, coalesce(full_name, name) as label, active from users order by lower(name)
"""
_OWNERS: LiteralString = """
select remote_id, name from sales_owners where remote_id = any(%s) and name is not null
"""


class Choices:
    """The values of the filters, read again once a minute."""

    def __init__(self) -> None:
        self._read_at = -float(KEPT_SECONDS)
        self._values: dict[str, list[str]] = {}
        self._owners: dict[str, str] = {}

    async def get(self, connection: AsyncConnection[DictRow], user: User) -> dict[str, Any]:
        """Return the values of each filter by its name, and the names of the owners."""
        user.must_be(Role.VIEWER)
        if time.monotonic() - self._read_at >= KEPT_SECONDS or not any(self._values.values()):
            self._values = {
                name: [
                    row["value"]
                    for row in await (await connection.execute(query, [MOST])).fetchall()
                ]
                for name, query in _QUERIES.items()
            }
            owners = self._values["sales_owner"]
            self._owners = await owner_names(connection, user, owners)
            owners.sort(key=lambda owner: (self._owners.get(owner) or owner).casefold())
            self._read_at = time.monotonic()
        return self._values | {"owners": self._owners}


async def frequent_values(
    connection: AsyncConnection[DictRow], user: User, fields: Fields, name: str
) -> list[str]:
    """Return the most frequent values of an own field of texts or lists in the newest deals.

    Raises:
        ProblemError: 404, there is no such field, or the console has no filter of it.
    """
    user.must_be(Role.VIEWER)
    if name not in {field.name for field in fields.filtered if field.type in ("text", "list")}:
        raise ProblemError(404, "No filter has this field.")
    given = {"field": name, "deals": NEWEST, "most": MOST_FREQUENT}
    rows = await (await connection.execute(_FREQUENT, given)).fetchall()
    return [row["value"] for row in rows]


async def owner_names(
    connection: AsyncConnection[DictRow], user: User, remote_ids: list[str]
) -> dict[str, str]:
    """Return the names of sales owners by their ids, where the CRM gave one."""
    user.must_be(Role.VIEWER)
    if not remote_ids:
        return {}
    rows = await (await connection.execute(_OWNERS, [remote_ids])).fetchall()
    return {row["remote_id"]: row["name"] for row in rows}


async def people(connection: AsyncConnection[DictRow], user: User) -> list[dict[str, Any]]:
    """Return the users with the names that pages show."""
    user.must_be(Role.VIEWER)
    return await (await connection.execute(_USERS)).fetchall()
