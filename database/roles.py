"""A role of the database for each part of the system, so that a part can do no more than it needs.

`python -m database.roles` prints the SQL that creates the roles; with `--apply` it executes it.
From then on each migration grants what `sql/grants.sql` says, for new tables, too.

Who has which role is in `database.address`: a part whose password is set signs in with its own
role, the others with that of DATABASE_URL.
"""

import sys
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from database import objects, preflight
from database.address import PARTS, PASSWORDS, database_url, parameters, role_of
from database.environment import setting

GRANTS = objects.SQL / "grants.sql"

# A role that exists belongs to another database on the server, perhaps, and stays as it is.
_CREATE = """
do $$ begin create role {role} login; exception when duplicate_object then null; end $$;
"""
_ALLOW = """
-- The migrations change what the others own. Who runs this gives it to them.
grant {load}, {transform}, {run} to {migrate};
grant {load}, {transform}, {run}, {migrate} to current_user;
-- So that an error can name the session that holds a lock.
grant pg_read_all_stats to {run}, {migrate};

grant connect, temporary, create on database {database} to {migrate};
grant connect, temporary on database {database} to {load}, {transform}, {run}, {api};
grant usage, create on schema public to {migrate} with grant option;
create schema if not exists raw;
create schema if not exists staging;
create schema if not exists meltano;
alter schema raw owner to {load};
alter schema staging owner to {transform};
alter schema meltano owner to {run};

-- What is there already gets its new owner.
do $do$
declare
    found record;
begin
    for found in
        select
            case relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind,
            oid::regclass::text as name,
            case
                when relnamespace = 'raw'::regnamespace then {load_name}
                when relnamespace = 'meltano'::regnamespace then {run_name}
                when relnamespace = 'staging'::regnamespace or relname = any({marts})
                    then {transform_name}
                else {migrate_name}
            end as new_owner
        from pg_class
        where
            relkind in ('r', 'p', 'v', 'S')
            and (
                relnamespace in (
                    'raw'::regnamespace, 'staging'::regnamespace, 'meltano'::regnamespace
                )
                or relnamespace = 'public'::regnamespace and relname = any({ours})
            )
            -- A column's sequence goes with its table.
            and not (
                relkind = 'S' and exists (
                    select from pg_depend
                    where objid = pg_class.oid and refclassid = 'pg_class'::regclass
                        and deptype in ('a', 'i')
                )
            )
        union all
        select 'function', oid::regprocedure::text,
            case
                when pronamespace = 'raw'::regnamespace then {load_name} else {migrate_name}
            end
        from pg_proc
        where
            pronamespace = 'raw'::regnamespace
            or pronamespace = 'public'::regnamespace and proname = any({functions})
    loop
        execute format('alter %s %s owner to %I', found.kind, found.name, found.new_owner);
    end loop;
end
$do$;
"""


# What the roles have, by role, privilege and object.
_RIGHTS: LiteralString = """
select pg_get_userbyid(grantee), privilege_type, name
from (
    select oid::regclass::text as name, relacl as acl
    from pg_class
    where relnamespace in ('public'::regnamespace, 'raw'::regnamespace)
    union all
    select 'schema ' || nspname, nspacl from pg_namespace where nspname in ('public', 'raw')
    union all
    select attrelid::regclass || '.' || attname, attacl
    from pg_attribute
    inner join pg_class on pg_attribute.attrelid = pg_class.oid
    where relnamespace = 'public'::regnamespace
) as granted
cross join lateral aclexplode(acl)
where pg_get_userbyid(grantee) = any(%s)
"""


def differences(connection: psycopg.Connection[Any]) -> list[str]:
    """Return what the roles lack of their rights, and what they have beyond; nothing is changed.

    Args:
        connection: of the role that migrates, in autocommit mode.
    """
    cursor = connection.cursor(row_factory=tuple_row)
    parts = [[role_of(part) for part in PARTS if part != "migrate"]]
    with connection.transaction(force_rollback=True):
        there = {*cursor.execute(_RIGHTS, parts)}
        grant(connection)
        due = {*cursor.execute(_RIGHTS, parts)}
    lacks = [f"{role} lacks {right} on {name}" for role, right, name in sorted(due - there)]
    return lacks + [
        f"{role} has {right} on {name}, which it does not need"
        for role, right, name in sorted(there - due)
    ]


def are_configured() -> bool:
    """Tell whether the password of a part's own role is set."""
    return any(setting(PASSWORDS[part]) for part in PARTS)


def are_used(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether the parts have roles of their own in this database."""
    # Somebody may have dropped a schema.
    found = connection.execute(
        "select from pg_namespace where nspname = any(%s) and pg_get_userbyid(nspowner) = any(%s)",
        [[*objects.SCHEMAS], [role_of(part) for part in PARTS]],
    )
    return found.rowcount > 0


def grant(connection: psycopg.Connection[Any]) -> None:
    """Give the roles what they need, and nothing else, in the transaction that is open."""
    connection.execute(GRANTS.read_bytes())


def statements(url: str) -> str:
    """Return the SQL that creates the roles for a database.

    Of the passwords in the settings it has only what the server stores of them (SCRAM-SHA-256).

    Raises:
        psycopg.OperationalError: the database can't be reached.
    """
    lines = ["-- Run it in the database, as a superuser or as the admin role of your provider.", ""]
    with psycopg.connect(url) as connection:
        for part in PARTS:
            role = sql.Identifier(role_of(part))
            lines.append(sql.SQL(_CREATE).format(role=role).as_string().strip())
            password = setting(PASSWORDS[part])
            if password is None:
                continue
            stored = connection.pgconn.encrypt_password(
                password.encode(), role_of(part).encode(), b"scram-sha-256"
            )
            change = sql.SQL("alter role {} password {};")
            lines.append(change.format(role, sql.Literal(stored.decode())).as_string())
        roles = {str(part): sql.Identifier(role_of(part)) for part in PARTS}
        names = {f"{part}_name": sql.Literal(role_of(part)) for part in PARTS}
        lines.append(
            sql.SQL(_ALLOW)
            .format(
                database=sql.Identifier(parameters(url)["dbname"]),
                marts=sql.Literal(sorted(objects.marts())),
                # Also those of earlier releases.
                ours=sql.Literal(sorted(preflight.names())),
                functions=sql.Literal(sorted(objects.functions())),
                **roles,
                **names,
            )
            .as_string(connection)
        )
    return "\n".join(lines)


def apply(url: str) -> None:
    """Create the roles for a database; what is there already gets its new owner and its grants.

    Raises:
        SystemExit: the role of the URL may not do that.
        psycopg.OperationalError: the database can't be reached.
    """
    commands = statements(url)
    try:
        with psycopg.connect(url) as connection:
            connection.execute(commands.encode())
            if not objects.missing(connection):  # else the next migration does it
                grant(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        sys.exit(
            f"The role of DATABASE_URL may not create the roles ({error.diag.message_primary}): run"
            " make roles, and let an administrator execute what it prints."
        )


def main() -> None:
    """Print or execute the SQL for the database of `DATABASE_URL`."""
    try:
        match sys.argv[1:]:
            case []:
                print(statements(database_url()))
            case ["--apply"]:
                apply(database_url())
            case _:
                sys.exit("usage: python -m database.roles [--apply]")
    except psycopg.OperationalError as error:
        sys.exit(f"The database can't be reached: {error}".strip())


if __name__ == "__main__":
    main()
