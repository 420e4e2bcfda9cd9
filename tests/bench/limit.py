"""Contender (c), the limit: fetch several pages at once, COPY and one upsert, nothing else.

It has no discovery, checks, retries, log or resume. It shows how fast a program without all this
can be.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson  # type: ignore[import-not-found,unused-ignore]
import psycopg
import urllib3

PAGE, AT_ONCE = 499, int(os.environ["BENCH_AT_ONCE"])
FIELDS = os.environ["BENCH_FIELDS"].split(",")
COLUMNS = ", ".join(f'"{name}"' for name in FIELDS)
UPSERT = f"""
    insert into opportunities ({COLUMNS}) select {COLUMNS} from received
    on conflict ("OptyId") do update
    set ({COLUMNS}) = row({", ".join(f'excluded."{name}"' for name in FIELDS)})
"""  # noqa: S608
SINCE = """
    select to_char(
        (max("LastUpdateDate") - interval '10 minutes') at time zone 'UTC',
        'YYYY-MM-DD"T"HH24:MI:SS"Z"'
    )
    from opportunities
"""

pool = urllib3.PoolManager(
    maxsize=AT_ONCE,
    headers={
        **urllib3.make_headers(
            basic_auth=f"{os.environ['ORACLE_USER']}:{os.environ['ORACLE_PASS']}"
        ),
        "REST-Framework-Version": "4",
    },
)


def fetch(since: str, **parameters: object) -> dict[str, Any]:
    """Return one page."""
    answer = pool.request(
        "GET",
        os.environ["ORACLE_BASE_URL"] + "/crmRestApi/resources/latest/opportunities",
        fields={
            "onlyData": "true",
            "fields": ",".join(FIELDS),
            "finder": "MyOpportunitiesFinder;RecordSet='ALLOPTIES'",
            "orderBy": "LastUpdateDate:asc,OptyId:asc",
            "q": f"LastUpdateDate >= '{since}'",
            "limit": str(PAGE),
            **{name: str(value) for name, value in parameters.items()},
        },
    )
    page: dict[str, Any] = orjson.loads(answer.data)
    return page


def values_of(row: dict[str, Any]) -> list[Any]:
    """Return a row's values in the form that PostgreSQL accepts."""
    name = row.get("Name")
    if name and "\x00" in name:
        row["Name"] = name.replace("\x00", "")
    return [row.get(name) for name in FIELDS]


with (
    psycopg.connect(os.environ["DATABASE_URL"]) as connection,
    ThreadPoolExecutor(AT_ONCE) as workers,
):
    newest = connection.execute(SINCE).fetchone()
    since = (newest and newest[0]) or "1970-01-01T00:00:00Z"
    first = fetch(since, totalResults="true")
    rest = workers.map(
        lambda offset: fetch(since, offset=offset), range(PAGE, first["totalResults"], PAGE)
    )
    connection.execute("create temporary table received (like opportunities) on commit drop")
    with connection.cursor().copy(f"copy received ({COLUMNS}) from stdin") as copy:
        for page in (first, *rest):
            for row in page["items"]:
                copy.write_row(values_of(row))
    connection.execute(UPSERT)
