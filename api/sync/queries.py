"""The SQL of syncs."""

from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from orchestrate.sync import SETTLE, UNSETTLED, has_ended, last_words

LATEST = "select * from syncs order by status = 'RUNNING' desc, started_at desc limit 1"
HISTORY = "select * from syncs order by started_at desc limit %s"
BY_RUN_ID = "select * from syncs where run_id = %s"
PROGRESS = """
select
    syncs.*,
    case
        when status != 'RUNNING' then 'ENDED'
        when transform_started_at is not null then 'MERGING'
        when id is not null then 'LOADING'
        else 'STARTING'
    end as phase,
    records_claimed,
    case when records_claimed > 0
        then least(100, round(100.0 * total_fetched / records_claimed, 1))
    end as percent,
    round(
        total_fetched / nullif(extract(epoch from observed_at - syncs.started_at), 0), 1
    ) as records_per_second
from syncs
left join sync_runs using (run_id)
where run_id = %s
"""


async def fetch(
    connection: AsyncConnection[DictRow], query: Any, *parameters: object
) -> list[DictRow]:
    """Return the rows of a query over `syncs`, those that have just died among them."""
    for request in await (await connection.execute(UNSETTLED)).fetchall():
        if has_ended(request):
            await connection.execute(SETTLE, [last_words(request["run_id"]), request["run_id"]])
    return await (await connection.execute(query, parameters)).fetchall()
