"""Check that a database meets the requirements, before anything in it is changed.

Each problem is an obstacle, with a remedy: SQL to paste where possible. Nothing is changed here.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row

from database import objects
from database.address import url_setting

OLDEST_POSTGRES = 15
ADOPTABLE = ("opportunities", "sync_logs", "assessments", "users")
"""Tables of the hand-written system, which `make adopt` takes over."""
MIGRATIONS = Path(__file__).parent / "migrations"
SCHEMAS = ["public", *objects.SCHEMAS]
PROBE = "oracle_crm.probe"

Connection = psycopg.Connection[DictRow]


class Purpose(IntEnum):
    """What a database is used for; each purpose has all requirements of those before it."""

    QUERY = 1
    RUN = 2
    MIGRATE = 3
    ADOPT = 4


@dataclass(frozen=True)
class Obstacle:
    """A requirement that a database does not meet.

    Attributes:
        check: the check's name.
        detail: the problem.
        remedy: what to do, as SQL to paste where possible.
        stops: whether it must be solved first; if not, something works less well.
    """

    check: str
    detail: str
    remedy: str
    stops: bool = True

    def __str__(self) -> str:
        """Return one line with all of it."""
        return f"{self.check}: {self.detail} → {self.remedy}"


def require(url: str, purpose: Purpose) -> None:
    """Return if a database meets the requirements of a purpose.

    Raises:
        SystemExit: it does not, with a line for each obstacle; or it can't be reached.
    """
    try:
        found = obstacles(url, purpose)
    except psycopg.OperationalError as error:
        if purpose == Purpose.QUERY:
            return  # the caller reports it, if it needs the database
        sys.exit(f"The database of {url_setting()} can't be reached: {error}".strip())
    lines = "\n".join(map(str, found))
    if any(one.stops for one in found):
        sys.exit(lines)
    if found:
        print(lines, file=sys.stderr)


def obstacles(url: str, purpose: Purpose) -> list[Obstacle]:
    """Return the requirements of a purpose that a database does not meet.

    Raises:
        psycopg.OperationalError: the database can't be reached.
    """
    try:
        with _connect(url) as one, _connect(url) as other:
            if pooled := _pooled(one, other):
                return [pooled]  # another session might answer the other checks
            return [*_checks(one, purpose)]
    except psycopg.OperationalError as error:
        # The words of PgBouncer and of RDS Proxy.
        if re.search(r"startup parameter|command-line options", str(error)):
            return [_pooler("refuses start-up options")]
        raise


def names() -> set[str]:
    """Return the names of all tables and views that any release creates in `public`."""
    migrations = "".join(path.read_text() for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    earlier = re.findall(r"create (?:table|view) (\w+)", migrations)
    return {*earlier} | objects.relations() | objects.marts()


def in_the_way(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the tables and views in `public` that have one of our names but are not ours."""
    if _is_ours(connection):
        return []
    found = connection.cursor(row_factory=dict_row).execute(
        """
        select relname from pg_class
        where relnamespace::regnamespace::text = 'public' and relname = any(%s)
            and relkind in ('r', 'p', 'v', 'm', 'f')
        order by relname
        """,
        [[*names()]],
    )
    return [row["relname"] for row in found]


def _connect(url: str) -> Connection:
    given = str(conninfo_to_dict(url).get("options") or "")
    return psycopg.connect(
        url,
        options=f"{given} -c{PROBE}=given -clock_timeout=10s",
        application_name="preflight",
        # psycopg can't decode what a database in another encoding returns.
        client_encoding="UTF8",
        autocommit=True,
        connect_timeout=10,
        prepare_threshold=None,
        row_factory=dict_row,
    )


def _pooled(one: Connection, other: Connection) -> Obstacle | None:
    """Detect a pooler: start-up options get lost, or a connection has no session of its own."""
    if _row(one, f"select current_setting('{PROBE}', true) as probe")["probe"] != "given":
        return _pooler("drops start-up options")
    sessions = [
        {_row(connection, "select pg_backend_pid() as pid")["pid"] for _ in range(3)}
        for connection in (one, other)
    ]
    if len(sessions[0] | sessions[1]) != 2 or sessions[0] & sessions[1]:
        return _pooler("gives each transaction another session")
    return None


def _pooler(what_it_does: str) -> Obstacle:
    return Obstacle(
        "pooler",
        f"{url_setting()} is the address of a connection pooler that {what_it_does}",
        "set DATABASE_DIRECT_URL to the address of the PostgreSQL server itself",
    )


def _checks(connection: Connection, purpose: Purpose) -> Iterator[Obstacle]:
    database, role = (
        sql.Identifier(name)
        for name in _row(connection, "select current_database(), current_user").values()
    )
    if purpose >= Purpose.RUN:
        yield from _read_only(connection, database, role)
    if purpose < Purpose.MIGRATE:
        return
    yield from _version(connection.info.server_version)
    yield from _encoding(connection, database, role)
    lacks_rights = [*_rights(connection, database, role)]
    yield from lacks_rights
    if not lacks_rights:
        yield from _search_path(connection, database, role)
    if _is_ours(connection):
        belongs_to_others = [*_owners(connection, role)]
        yield from belongs_to_others
        if not belongs_to_others:
            yield from _release(connection)
        return
    if purpose == Purpose.ADOPT:
        yield from _owners(connection, role)
    else:
        yield from _foreign_tables(connection, role)
    yield from _trigrams(connection)


def _version(number: int) -> Iterator[Obstacle]:
    major = number // 10_000
    if major < OLDEST_POSTGRES:
        yield Obstacle(
            "version",
            f"the server is PostgreSQL {major}",
            f"use PostgreSQL {OLDEST_POSTGRES} or newer",
        )


def _read_only(
    connection: Connection, database: sql.Identifier, role: sql.Identifier
) -> Iterator[Obstacle]:
    if _row(connection, "select pg_is_in_recovery() as is_standby")["is_standby"]:
        yield Obstacle(
            "read-only",
            "the server is a standby, which is read-only",
            f"set {url_setting()} to the primary, or to all servers with "
            "?target_session_attrs=read-write",
        )
    elif _row(connection, "show transaction_read_only")["transaction_read_only"] == "on":
        yield Obstacle(
            "read-only",
            "transactions are read-only",
            _change(
                connection,
                "default_transaction_read_only",
                "begin read write; alter role {} in database {}"
                " set default_transaction_read_only = off; commit;",
                role,
                database,
            ),
        )


def _encoding(
    connection: Connection, database: sql.Identifier, role: sql.Identifier
) -> Iterator[Obstacle]:
    found = _row(
        connection,
        """
        select
            datname,
            pg_encoding_to_char(encoding) as encoding,
            coalesce(
                (
                    select collcollate from pg_collation
                    where collprovider = 'c' and collcollate ~* '^(c|en_us)[.]utf-?8$'
                    order by collcollate
                    limit 1
                ),
                'C'
            ) as locale
        from pg_database
        where datname = current_database()
        """,
    )
    if found["encoding"] == "UTF8":
        return
    remedy = _sql(
        "create database {} owner {} template template0 encoding 'UTF8' lc_collate {} lc_ctype {};",
        sql.Identifier(f"{found['datname']}_utf8"),
        role,
        sql.Literal(found["locale"]),
        sql.Literal(found["locale"]),
    )
    yield Obstacle(
        "encoding",
        f"the database has the encoding {found['encoding']}, and the CRM's texts need UTF8",
        f"{remedy} Then set {url_setting()} to that database",
    )


def _rights(
    connection: Connection, database: sql.Identifier, role: sql.Identifier
) -> Iterator[Obstacle]:
    may = "select has_database_privilege(current_database(), 'create') as may_create"
    if not _row(connection, may)["may_create"]:
        yield Obstacle(
            "rights",
            "the role may not create schemas",
            _sql("grant create on database {} to {};", database, role),
        )
    schemas = {
        row["nspname"]: row["is_allowed"]
        for row in connection.execute(
            """
            select
                nspname,
                has_schema_privilege(oid, 'usage') and has_schema_privilege(oid, 'create')
                    as is_allowed
            from pg_namespace
            where nspname = any(%s)
            """,
            [SCHEMAS],
        )
    }
    for name in SCHEMAS:
        if not schemas.get(name, name != "public"):
            schema = sql.Identifier(name)
            grant = _sql("grant usage, create on schema {} to {};", schema, role)
            yield Obstacle(
                "rights",
                f"the role may not create tables in schema {name}"
                if name in schemas
                else f"there is no schema {name}",
                grant if name in schemas else f"{_sql('create schema {};', schema)} {grant}",
            )


def _search_path(
    connection: Connection, database: sql.Identifier, role: sql.Identifier
) -> Iterator[Obstacle]:
    first = _row(connection, "select current_schema() as schema")["schema"]
    if first != "public":
        yield Obstacle(
            "search path",
            f"new tables would be created in schema {first}, not in public",
            _change(
                connection,
                "search_path",
                "alter role {} in database {} set search_path = public;",
                role,
                database,
            ),
        )


def _owners(connection: Connection, role: sql.Identifier) -> Iterator[Obstacle]:
    for row in connection.execute(
        """
        select relowner::regrole::text as owner, pg_get_userbyid(relowner) as name,
            min(oid::regclass::text) as example
        from pg_class
        where
            relkind in ('r', 'p', 'v', 'm', 'f')
            and (
                relnamespace::regnamespace::text = any(%(schemas)s)
                or relnamespace::regnamespace::text = 'public' and relname = any(%(names)s)
            )
            and not pg_has_role(relowner, 'usage')
        group by relowner
        """,
        {"schemas": [*objects.SCHEMAS], "names": [*names()]},
    ):
        yield Obstacle(
            "owner",
            f"{row['example']} belongs to the role {row['name']}, and only its owner can change it",
            _sql("grant {} to {};", sql.Identifier(row["name"]), role),
        )


def _foreign_tables(connection: Connection, role: sql.Identifier) -> Iterator[Obstacle]:
    found = in_the_way(connection)
    if not found:
        return
    name = _row(connection, "select current_database() as name")["name"]
    own = (
        _sql("create database {} owner {};", sql.Identifier(f"{name}_crm"), role)
        + f" Then set {url_setting()} to that database"
    )
    adopt = "if they are of the old, hand-written system: make adopt. If not: "
    yield Obstacle(
        "foreign tables",
        f"schema public has tables of another system: {', '.join(found)}",
        (adopt if set(found) & set(ADOPTABLE) else "") + own,
    )


def _release(connection: Connection) -> Iterator[Obstacle]:
    known = {path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    version = _row(connection, "select max(version_num) as version from public.alembic_version")
    if version["version"] not in known:
        yield Obstacle(
            "release",
            f"the database is of a newer release, {version['version']}",
            "install that one",
        )


def _trigrams(connection: Connection) -> Iterator[Obstacle]:
    found = _row(
        connection,
        """
        select
            pg_extension.extname is not null as is_there,
            exists (
                select from pg_opclass
                where opcname = 'gin_trgm_ops' and pg_opclass_is_visible(pg_opclass.oid)
            ) as is_visible,
            version.name is not null as is_offered,
            has_database_privilege(current_database(), 'create')
            and coalesce(version.trusted, false)
            or rolsuper as may_create
        from pg_roles
        left join pg_extension on extname = 'pg_trgm'
        left join pg_available_extensions as offered on offered.name = 'pg_trgm'
        left join pg_available_extension_versions as version
            on version.name = 'pg_trgm' and version.version = offered.default_version
        where rolname = current_user
        """,
    )
    if found["is_there"] and not found["is_visible"]:
        yield Obstacle(
            "extension",
            "pg_trgm is in a schema that is not in the search path",
            "alter extension pg_trgm set schema public;",
        )
    elif not found["is_there"] and found["is_offered"] and not found["may_create"]:
        yield Obstacle(
            "extension",
            "the role may not create pg_trgm; without it, search is slow and exact",
            "create extension pg_trgm schema public;",
            stops=False,
        )


def _is_ours(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether the tables in `public` are this system's, of any release."""
    cursor = connection.cursor(row_factory=dict_row)
    found = cursor.execute(
        """
        select
        where
            -- The fingerprint of database.migrate; the first releases had none.
            obj_description(to_regclass('public.alembic_version'), 'pg_class') ~ '^[0-9a-f]{64}$'
            or to_regclass('public.alembic_version') is not null and exists (
                select from pg_attribute
                where
                    attrelid = to_regclass('public.opportunities')
                    and attname = 'workflow_status_before_close'
            )
        """
    )
    return found.rowcount > 0


def _change(
    connection: Connection, setting: str, statement: LiteralString, *names: sql.Composable
) -> str:
    """Return how to change a server setting: in the URL, if it comes from there."""
    (source,) = connection.execute("select source from pg_settings where name = %s", [setting])
    if source["source"] == "client":
        return f"remove {setting} from the options in {url_setting()}"
    return _sql(statement, *names)


def _sql(statement: LiteralString, *parts: sql.Composable) -> str:
    return sql.SQL(statement).format(*parts).as_string()


def _row(connection: Connection, statement: LiteralString) -> DictRow:
    row = connection.execute(statement).fetchone()
    assert row is not None  # noqa: S101 - a statement that always has one
    return row
