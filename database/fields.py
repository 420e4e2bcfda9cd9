"""How queries and indexes reach a customer's own field in `opportunities.custom`.

Both must be the same expression, or an index does not serve. No value makes one fail: deals keep
values of a type that a field no longer has.
"""

import re
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from database.locks import LockedError, lock_seconds, naming_holder

_OURS = re.compile(r"by_(?:text|number|date|timestamp|boolean|list)_\w+")


def key_expression(name: str, type_: str) -> sql.Composed:
    """Return what lists are sorted and filtered by; it is never null, and nothing is smallest.

    Args:
        name: the field's name.
        type_: its type, as the view `fields` has it.

    Returns:
        A number (`numeric`), else text: ISO dates and times as they are, other text in small
        letters, of at most 200 characters, since an index entry can't be long.
    """
    value = sql.SQL("custom -> {}").format(sql.Literal(name))
    if type_ == "number":
        return sql.SQL(
            "coalesce(case when jsonb_typeof({0}) = 'number' then ({0})::numeric end, '-infinity')"
        ).format(value)
    text = sql.SQL("left(coalesce(custom ->> {}, ''), 200)").format(sql.Literal(name))
    if type_ in {"date", "timestamp"}:
        return sql.SQL('({} collate "C")').format(text)
    return sql.SQL("lower({})").format(text)


def list_expression(name: str) -> sql.Composed:
    """Return a list as `jsonb`, for the condition `... ?| array['a', 'b']`: it has one of these."""
    return sql.SQL("(custom -> {})").format(sql.Literal(name))


def _definitions(fields: Iterable[tuple[str, str]]) -> dict[str, sql.Composed]:
    """Return what each index is of, by its name, which tells the definition from others."""
    return {
        f"by_{type_}_{name}": sql.SQL("gin ({})").format(list_expression(name))
        if type_ == "list"
        else sql.SQL("btree ({}, id)").format(key_expression(name, type_))
        for name, type_ in fields
    }


def build_indexes(url: str) -> list[str]:
    """Make the indexes of own fields that lists are filtered or sorted by; drop the others.

    Deals can be read and written meanwhile.

    Returns:
        A line for each index that was made or dropped, or could not be because of a lock.
    """
    seconds, done = lock_seconds(), []
    with psycopg.connect(url, autocommit=True, row_factory=tuple_row) as connection:
        connection.execute(
            "select set_config('lock_timeout', %s, false),"
            " set_config('statement_timeout', '0', false)",
            [f"{seconds * 1000:.0f}ms"],
        )
        wanted = _definitions(
            connection.execute(
                """
                select name, type from public.fields
                where "column" is null and (filter or (sort and type != 'list'))
                """
            ).fetchall()
        )
        found = dict(_found(connection))
        # What was killed while it was made is of no use.
        unfit = [name for name, is_valid in found.items() if name not in wanted or not is_valid]
        missing = [name for name in wanted if found.get(name) is not True]
        try:
            for name in unfit:
                with naming_holder(connection, seconds):
                    connection.execute(
                        sql.SQL("drop index concurrently public.{}").format(sql.Identifier(name))
                    )
                done += [f"dropped the index {name}"] if name not in wanted else []
            for name in missing:
                with naming_holder(connection, seconds):
                    connection.execute(
                        sql.SQL("create index concurrently {} on public.opportunities using {}")
                        .format(sql.Identifier(name), wanted[name])
                        .as_string()
                    )
                done.append(f"made the index {name}")
            if missing:
                connection.execute("analyze public.opportunities")  # of the expressions, too
        except LockedError as error:
            done.append(f"! indexes of fields are missing, `make setup` makes them: {error}")
    return done


def _found(connection: psycopg.Connection[Any]) -> list[tuple[str, bool]]:
    rows = connection.execute(
        """
        select relname, indisvalid
        from pg_index inner join pg_class on pg_index.indexrelid = pg_class.oid
        where indrelid = 'public.opportunities'::regclass
        """
    )
    return [(name, is_valid) for name, is_valid in rows if _OURS.fullmatch(name)]
