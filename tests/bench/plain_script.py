"""Contender (b): a script like the old system: small pages by offset, a commit for each row.

It is better than the old one in two ways: an error ends it, and pages are in the order of OptyId,
since without an order, an offset is slow in the sandbox and the CRM.
"""

import os

import psycopg
import requests

PAGE = 50
FIELDS = os.environ["BENCH_FIELDS"].split(",")
COLUMNS = ", ".join(f'"{name}"' for name in FIELDS)
UPSERT = f"""
    insert into opportunities ({COLUMNS}) values ({", ".join(["%s"] * len(FIELDS))})
    on conflict ("OptyId") do update
    set ({COLUMNS}) = row({", ".join(f'excluded."{name}"' for name in FIELDS)})
"""  # noqa: S608

session = requests.Session()
session.auth = (os.environ["ORACLE_USER"], os.environ["ORACLE_PASS"])
session.headers["REST-Framework-Version"] = "4"

with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    offset, more = 0, True
    while more:
        answer = session.get(
            os.environ["ORACLE_BASE_URL"] + "/crmRestApi/resources/latest/opportunities",
            params={
                "onlyData": "true",
                "fields": ",".join(FIELDS),
                "finder": "MyOpportunitiesFinder;RecordSet='ALLOPTIES'",
                "orderBy": "OptyId:asc",
                "limit": str(PAGE),
                "offset": str(offset),
            },
            timeout=60,
        )
        answer.raise_for_status()
        page = answer.json()
        for row in page["items"]:
            values = [row.get(name) for name in FIELDS]
            connection.execute(
                UPSERT,
                [value.replace("\x00", "") if type(value) is str else value for value in values],
            )
            connection.commit()
        offset += len(page["items"])
        more = page["hasMore"]
