"""Contender: dlt's first load, and then this project's merge of what dlt has loaded.

python -m tests.bench.dlt_merged DLT_COMMAND...
"""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import psycopg
from psycopg import sql

from database.address import libpq_environment
from database.environment import DBT_SETTINGS, ROOT
from tests.bench.contenders import DLT_COLUMNS, DLT_TABLE, FIELDS

# The models read dlt's table in place of the loader's. All of it is one batch.
STAND_IN = """
alter table raw.opportunities rename to loaded_by_the_loader;
create view raw.opportunities as
select {columns}, {missing}, {custom} as custom, 1::bigint as _loaded_in from {table};
update load_fence set batch = 1;
"""
MISSING = {
    "TargetPartyId": "bigint",
    "StageStatusCd": "text",
    "LookupCategory": "text",
    "CrmConversionRate": "numeric",
    "CrmCurcyCode": "text",
    "_sdc_extracted_at": "timestamptz",
    "_sdc_deleted_at": "timestamptz",
}


def stand_in() -> sql.Composed:
    """Return the statement that puts dlt's table in the place of the loader's."""
    own = [name for name in FIELDS if name.endswith("_c")]
    return sql.SQL(STAND_IN).format(
        columns=sql.SQL(", ").join(
            sql.SQL("{} as {}").format(sql.Identifier(DLT_COLUMNS[name]), sql.Identifier(name))
            for name in FIELDS
            if name not in own
        ),
        missing=sql.SQL(", ").join(
            sql.SQL("null::{} as {}").format(sql.SQL(kind), sql.Identifier(name))
            for name, kind in MISSING.items()
        ),
        custom=sql.SQL("jsonb_build_object({})").format(
            sql.SQL(", ").join(
                sql.SQL("{}, {}").format(sql.Literal(name), sql.Identifier(DLT_COLUMNS[name]))
                for name in own
            )
        ),
        table=sql.Identifier(*DLT_TABLE),
    )


def main() -> None:
    """Load and merge.

    Raises:
        SystemExit: not all deals are merged.
    """
    subprocess.run(sys.argv[1:], check=True)
    url = os.environ["DATABASE_URL"]
    with psycopg.connect(url) as connection:
        connection.execute(stand_in())
    project = str(ROOT / "transform")
    subprocess.run(
        [
            Path(sys.executable).with_name("dbt-frozen"),
            "--no-write-json",
            "run",
            "--exclude",
            "tag:reconcile",
        ],
        env=os.environ
        | libpq_environment(url)
        | DBT_SETTINGS
        | {
            "DBT_PROJECT_DIR": project,
            "DBT_PROFILES_DIR": project,
            "MELTANO_RUN_ID": str(uuid.uuid4()),
        },
        check=True,
    )
    count = sql.SQL("select (select count(*) from {}), (select count(*) from opportunities)")
    with psycopg.connect(url) as connection:
        loaded, merged = connection.execute(
            count.format(sql.Identifier(*DLT_TABLE))
        ).fetchone() or (0, 0)
    if loaded != merged:
        sys.exit(f"{loaded} deals are loaded, and {merged} are merged.")


if __name__ == "__main__":
    main()
