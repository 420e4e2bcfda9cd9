"""Keep sections of the file in the database, where all workers and machines read them."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Json

if TYPE_CHECKING:
    from declared.model import Declaration

CURRENT: LiteralString = """
select id, content, source from declarations where section = %s order by id desc limit 1
"""
"""The valid declaration of a section; the migration that made the table made one."""


def store(
    connection: psycopg.Connection[Any],
    section: str,
    source: Any,
    read: Callable[[], "Declaration"],
) -> None:
    """Store a section, if it differs from the one that is valid.

    What was declared before stays: assessments keep the criteria that they were made with.

    Args:
        connection: to the database.
        section: its name.
        source: what stands in the file.
        read: returns it as a model. It is called only if the file has changed, since a run that
            changes nothing should not take the time to load pydantic.
    """
    cursor = connection.cursor(row_factory=dict_row)
    row = cursor.execute(CURRENT, [section]).fetchone()
    if row is not None and json.dumps(row["source"]) == json.dumps(source):
        return
    declared = read()
    with connection.transaction():
        # Two may start at once; readers don't wait.
        cursor.execute("lock table declarations in share row exclusive mode")
        row = cursor.execute(CURRENT, [section]).fetchone()
        if row is not None and _is(row["content"], declared):
            change = "update declarations set source = %s where id = %s"
            cursor.execute(change, [Json(source), row["id"]])
        else:
            cursor.execute(
                "insert into declarations (section, content, source) values (%s, %s, %s)",
                [section, Json(declared.model_dump(mode="json")), Json(source)],
            )


def differs(connection: psycopg.Connection[Any], section: str, declared: "Declaration") -> bool:
    """Return whether a section differs from the one that is valid; the order counts."""
    row = connection.cursor(row_factory=dict_row).execute(CURRENT, [section]).fetchone()
    return row is None or not _is(row["content"], declared)


def _is(content: Any, declared: "Declaration") -> bool:
    return type(declared).model_validate(content).model_dump_json() == declared.model_dump_json()
