"""The sections `statuses` and `stages`: what the customer's own codes mean."""

from collections.abc import Mapping
from typing import Any

import psycopg
import yaml
from psycopg.rows import tuple_row

from declared.nodes import WrongLineError, pairs

SECTIONS = ("statuses", "stages")
OUTCOMES = {
    "OPEN": "OPEN",
    "WON": "WON",
    "LOST": "LOST",
    "CLOSED": "CLOSED",
    # The CRM's name of the category.
    "NO_SALE": "CLOSED",
    "NOSALE": "CLOSED",
}

Rows = set[tuple[str, str, str]]
"""Those of `declared_outcomes`: section, name and outcome."""


def read_outcomes(section: str, node: yaml.Node | None) -> Mapping[str, str]:
    """Return a section: by name OPEN, WON, LOST or CLOSED.

    Raises:
        WrongLineError: a line has an error.
    """
    return {name.value: _outcome(name, value) for name, value in pairs(node, section)}


def outcomes_differ(connection: psycopg.Connection[Any], rows: Rows) -> bool:
    """Return whether the database has other rows."""
    found = connection.cursor(row_factory=tuple_row).execute(
        "select section, name, outcome from public.declared_outcomes"
    )
    return rows != set(found)


def store_outcomes(connection: psycopg.Connection[Any], rows: Rows) -> None:
    """Make these the rows of the database, if it has others."""
    if not outcomes_differ(connection, rows):
        return
    with connection.transaction(), connection.cursor() as cursor:
        # Two runs may start at once; this lock does not block readers.
        cursor.execute("lock table public.declared_outcomes in share row exclusive mode")
        cursor.execute("delete from public.declared_outcomes")
        cursor.executemany(
            "insert into public.declared_outcomes (section, name, outcome) values (%s, %s, %s)",
            sorted(rows),
        )


def _outcome(name: yaml.ScalarNode, value: yaml.Node) -> str:
    outcome = OUTCOMES.get(value.value) if isinstance(value, yaml.ScalarNode) else None
    if outcome is None:
        raise WrongLineError(name, f"{name.value!r} must be OPEN, WON, LOST or CLOSED")
    return outcome
