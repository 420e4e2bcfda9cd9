"""What a deal is assessed by: declared in crm.yml, and kept with each assessment."""

from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.database import fetch_one
from declared.assessment import Assessment as Criteria
from declared.store import CURRENT

__all__ = ["Criteria", "CurrentCriteria", "read_criteria"]


class CurrentCriteria(NamedTuple):
    """The criteria that a new assessment gets, and their id in `declarations`."""

    id: int
    criteria: Criteria


async def read_criteria(connection: AsyncConnection[DictRow]) -> CurrentCriteria:
    """Return the criteria that are valid now: a change of crm.yml needs no restart."""
    row = await fetch_one(connection, CURRENT, ["assessment"])
    return CurrentCriteria(row["id"], Criteria.model_validate(row["content"]))
