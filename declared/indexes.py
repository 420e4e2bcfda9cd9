"""The indexes of the customer's own fields, which `make setup` makes."""

import re
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from database.locks import LockedError, lock_seconds, naming_holder
from declared.fields import key_expression

_OURS = re.compile(r"by_(?:text|number|date|timestamp|boolean|list)_\w+")


def _definitions(fields: Iterable[tuple[str, str]]) -> dict[str, sql.Composed]:
    """Return what each index is of, by its name, which tells the definition from others."""
    return {
        f"by_{type_}_{name}": sql.SQL("gin ((custom -> {}))").format(sql.Literal(name))
        if type_ == "list"
        else sql.SQL("btree (({}), id)").format(sql.SQL(key_expression(name, type_)))
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
