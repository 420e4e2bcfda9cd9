"""What a database that is up to date consists of, and what of it is missing.

The number of the last migration does not tell: somebody may have dropped something since.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

from database.environment import ROOT

SQL = Path(__file__).parent / "sql"
FILES = [
    SQL / "raw.sql",
    *sorted(SQL.glob("functions/*.sql")),
    # A view reads those before it: `field_news` comes after `fields`.
    *sorted(SQL.glob("views/*.sql"), key=lambda path: path.stem.replace("_", "~")),
]
"""What each migration makes again, in this order."""

SCHEMAS = ("meltano", "raw", "staging")
MELTANO_TABLES = ("alembic_version", "plugin_settings", "runs", "state")
_TABLE = re.compile(r"\b(create|drop) table (?:if (?:not )?exists )?(\w+)(?![.\w])")
_MADE = re.compile(
    r"^\s*create (?:or replace )?(table|view|function|trigger|sequence)"
    r"(?: if not exists)? ([\w.]+)",
    re.MULTILINE,
)


def tables() -> set[str]:
    """Return the names of the tables in schema `public`: what the migrations create, less drops."""
    found: set[str] = set()
    for path in sorted((SQL.parent / "migrations" / "versions").glob("[0-9]*.py")):
        for action, name in _TABLE.findall(path.read_text()):
            (found.add if action == "create" else found.discard)(name)
    return found | {"alembic_version"}


def relations() -> set[str]:
    """Return the names of the tables, views and sequences in schema `public`, except dbt's."""
    made = (name.split(" ") for name in _made() if not name.startswith("function "))
    in_public = {name.removeprefix("public.") for _, name in made if name.startswith("public.")}
    return tables() | in_public | {"run_numbers"}


def functions() -> set[str]:
    """Return the names of the functions in schema `public`."""
    start = "function public."
    return {name.removeprefix(start) for name in _made() if name.startswith(start)}


def marts() -> set[str]:
    """Return the names of dbt's views in schema `public`."""
    models = (ROOT / "transform" / "models" / "marts").glob("*.sql")
    return {path.stem for path in models} - tables()


def _made() -> set[str]:
    """Return what the files create, such as `view public.x` or `trigger y`."""
    return {
        f"{kind} {name}" if kind == "trigger" or "." in name else f"{kind} public.{name}"
        for file in FILES
        for kind, name in _MADE.findall(file.read_text())
    }


def _expected() -> list[str]:
    return [
        *(f"schema {name}" for name in SCHEMAS),
        *(f"table public.{name}" for name in sorted(tables())),
        *(f"table meltano.{name}" for name in MELTANO_TABLES),
        *sorted(_made()),
    ]


# The catalogs alone: a role without the right to use a schema may ask them, too.
MISSING: LiteralString = """
select * from unnest(%(expected)s::text[]) as missing
except
select 'schema ' || nspname from pg_namespace
except
select
    case relkind when 'v' then 'view ' when 'S' then 'sequence ' else 'table ' end
        || nspname || '.' || relname
from pg_class inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
where nspname in ('public', 'raw', 'meltano') and relkind in ('r', 'p', 'v', 'S')
except
select 'function ' || nspname || '.' || proname
from pg_proc inner join pg_namespace on pg_proc.pronamespace = pg_namespace.oid
where nspname in ('public', 'raw')
except
select 'trigger ' || tgname from pg_trigger
order by missing
"""
EXPECTED = {"expected": _expected()}
"""The parameters of MISSING, whose rows have the column `missing`, such as `view public.x`."""


def missing(connection: psycopg.Connection[Any]) -> list[str]:
    """Return what is missing in a database that has been migrated, such as `view public.x`."""
    rows = connection.cursor(row_factory=tuple_row).execute(MISSING, EXPECTED)
    return [name for (name,) in rows]


def lost(names: Iterable[str]) -> list[str]:
    """Return those whose rows are nowhere else: no migration brings them back."""
    made_by_migrations = {f"table public.{name}" for name in tables()}
    return [name for name in names if name in made_by_migrations]


def in_words(names: list[str]) -> str:
    """Return missing objects as a text; what lies in a missing schema goes with it."""
    schemas = {name.removeprefix("schema ") for name in names if name.startswith("schema ")}
    named = [name for name in names if name.split(" ")[1].split(".")[0] not in schemas]
    named += [f"schema {schema}" for schema in sorted(schemas)]
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return ", ".join(named[:5]) + more
