"""Compares a contender's table with the CRM, row for row and field for field."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from oracle_crm_sandbox import Sandbox
from psycopg import sql

from tests.bench.contenders import FIELDS, Contender

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Rows = Mapping[str, tuple[str | None, ...]]
"""The fields of each row as text, by OptyId."""


def held(crm: Sandbox) -> Rows:
    """Return the CRM's rows."""
    rows = crm.rows(fields=list(FIELDS))
    return {
        str(row["OptyId"]): tuple(_text(row.get(name), kind) for name, kind in FIELDS.items())
        for row in rows
    }


def _text(value: Any, kind: str) -> str | None:
    if value is None:
        return None
    if kind == "numeric":
        return f"{Decimal(str(value)).normalize():f}"
    if kind == "timestamptz":
        return str((datetime.fromisoformat(value) - _EPOCH) // timedelta(microseconds=1))
    return str(value).replace("\x00", "")


_SHOWN = {
    "numeric": "trim_scale({}::numeric)::text",
    "timestamptz": "(extract(epoch from {}::timestamptz) * 1000000)::bigint::text",
}


def loaded(contender: Contender, database: str) -> Rows:
    """Return the rows that a contender loaded."""
    shown = [
        sql.SQL(_SHOWN.get(kind, "{}::text")).format(
            sql.Identifier(contender.columns[name])
            if name in contender.columns
            else sql.SQL("(custom ->> {})").format(sql.Literal(name))
        )
        for name, kind in FIELDS.items()
    ]
    query = sql.SQL("select {} from {}").format(
        sql.SQL(", ").join(shown), sql.Identifier(*contender.table)
    )
    with psycopg.connect(database, options="-c timezone=UTC") as connection:
        return {row[0]: row for row in connection.execute(query)}


def wrong_rows(expected: Rows, actual: Rows) -> int:
    """Count the rows that are missing, too many or different."""
    keys = expected.keys() | actual.keys()
    return sum(expected.get(key) != actual.get(key) for key in keys)
