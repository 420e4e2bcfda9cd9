"""Contender (a): dlt's REST API source into its PostgreSQL destination, tuned.

It follows dlt's documentation about speed: pages instead of rows, several pages at once through a
parallelized dependent resource if all rows are read, declared columns, CSV files (COPY), the upsert
strategy, larger buffers, files without compression, and two normalizing processes if there is
enough work for two. Pages are in the order of LastUpdateDate: in this order the sandbox's offsets
are cheapest, and `row_order` needs it.

    python dlt_pipeline.py STATE_FOLDER ROWS
"""

import os
import sys
from collections.abc import Iterator
from typing import Any

ROWS_FOR_TWO = 25_000
state_folder, rows_expected = sys.argv[1], int(sys.argv[2])
os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "WARNING",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "10000",
    "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "true",
    "SOURCES__DATA_WRITER__FILE_MAX_ITEMS": str(ROWS_FOR_TWO),
    "NORMALIZE__WORKERS": "2" if rows_expected > ROWS_FOR_TWO else "1",
}

import dlt  # type: ignore[import-not-found]  # noqa: E402
from dlt.sources.helpers import requests  # type: ignore[import-not-found]  # noqa: E402
from dlt.sources.rest_api import rest_api_source  # type: ignore[import-not-found]  # noqa: E402

PAGE = 499
TYPES = {
    "OptyId": "bigint",
    "OwnerResourcePartyId": "bigint",
    "Revenue": "decimal",
    "WinProb": "decimal",
    "EffectiveDate": "date",
    "CreationDate": "timestamp",
    "LastUpdateDate": "timestamp",
}
FIELDS = os.environ["BENCH_FIELDS"].split(",")
BASE = os.environ["ORACLE_BASE_URL"] + "/crmRestApi/resources/latest/"
USER, PASSWORD = os.environ["ORACLE_USER"], os.environ["ORACLE_PASS"]
HEADERS = {"REST-Framework-Version": "4"}
FINDER = "MyOpportunitiesFinder;RecordSet='ALLOPTIES'"


def without_nul(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row without NUL characters, which PostgreSQL does not accept."""
    name = row.get("Name")
    if name and "\x00" in name:
        row["Name"] = name.replace("\x00", "")
    return row


@dlt.resource(name="pages", selected=False)  # type: ignore[untyped-decorator]
def pages() -> Iterator[list[dict[str, int]]]:
    """Yield the offset of each page."""
    answer = requests.get(
        BASE + "opportunities",
        auth=(USER, PASSWORD),
        headers=HEADERS,
        params={"limit": 1, "fields": "OptyId", "totalResults": "true", "finder": FINDER},
    )
    yield [{"offset": offset} for offset in range(0, answer.json()["totalResults"], PAGE)]


opportunities: dict[str, Any] = {
    "name": "opportunities",
    "primary_key": "OptyId",
    "write_disposition": {"disposition": "merge", "strategy": "upsert"},
    "columns": {name: {"data_type": TYPES.get(name, "text")} for name in FIELDS},
    "max_table_nesting": 0,
    "processing_steps": [{"map": without_nul}],
    "endpoint": {
        "path": "opportunities",
        "data_selector": "items",
        "params": {
            "onlyData": "true",
            "fields": ",".join(FIELDS),
            "orderBy": "LastUpdateDate:asc,OptyId:asc",
            "finder": FINDER,
            "q": "LastUpdateDate >= '{incremental.start_value}'",
        },
        "incremental": {
            "cursor_path": "LastUpdateDate",
            "initial_value": "1970-01-01T00:00:00Z",
            "lag": 600,
        },
    },
}
config: dict[str, Any] = {
    "client": {
        "base_url": BASE,
        "auth": {"type": "http_basic", "username": USER, "password": PASSWORD},
        "headers": HEADERS,
        "paginator": {
            "type": "offset",
            "limit": PAGE,
            "total_path": None,
            "has_more_path": "hasMore",
        },
    },
    "resources": [opportunities],
}
pipeline = dlt.pipeline(
    "opportunities",
    destination=dlt.destinations.postgres(os.environ["DATABASE_URL"]),
    dataset_name="crm",
    pipelines_dir=state_folder,
)
if pipeline.first_run:
    opportunities["parallelized"] = True
    opportunities["endpoint"]["paginator"] = "single_page"
    opportunities["endpoint"]["params"] |= {"limit": PAGE, "offset": "{resources.pages.offset}"}
    config["resources"].append(pages)
else:
    opportunities["endpoint"]["incremental"]["row_order"] = "asc"

pipeline.run(rest_api_source(config), loader_file_format="csv")
