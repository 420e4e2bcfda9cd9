"""Back the database up, restore it, and try whether a backup can be restored.

`python -m database.backup` and

- `backup [FILE]` writes the database of DATABASE_URL to a file that only its owner may read, by
  default a new one in `.data/backups`;
- `restore FILE` fills the database of DATABASE_URL, which must be empty, all or nothing, and
  brings it up to date;
- `check [FILE]` restores a backup, by default the newest one in `.data/backups`, into a server
  that is there for it alone, and says what was in it.

The password is handed over in the environment, which no other user can read.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psycopg
from psycopg.rows import dict_row

from database import roles
from database.address import database_url, libpq_environment, url_for
from database.embedded import BIN, start_embedded, stop_embedded
from database.environment import DATA
from database.locks import lock_seconds
from database.migrate import migrate

BACKUPS = DATA / "backups"
COUNTS = """
select
    (select count(*) from opportunities) as opportunities,
    (select count(*) from opportunity_changes) as opportunity_changes,
    (select count(*) from assessments) as assessments,
    (select count(*) from users) as users,
    (select count(*) from rejected_records) as rejected_records
"""
# Whoever was signed out since the backup must not be signed in again, not for a moment.
END_SESSIONS = b"""
do $$
begin
    if to_regclass('public.tokens') is not null then
        update public.tokens set revoked_at = now() where kind = 'session' and revoked_at is null;
    end if;
    if to_regclass('public.password_links') is not null then
        delete from public.password_links;
    end if;
end
$$;
"""
VALID_TOKENS = """
select tokens.id, tokens.name, users.name as user_name, tokens.created_at, tokens.expires_at
from tokens
join users on users.id = tokens.user_id
where tokens.kind = 'personal' and tokens.revoked_at is null and tokens.expires_at > now()
    and users.active
order by tokens.id
"""
# `make roles` has created the schemas; one that is not empty stays, and the restore fails.
BEGIN = b"""
begin;
set local client_min_messages = warning;
drop schema if exists raw, staging, meltano;
"""
EMBEDDED = 18  # reads what any of them has written
# pg_restore of 17 and later sets it whatever the server; older servers don't know it.
NEW_SETTING, KNOWN_SINCE = b"SET transaction_timeout = 0;\n", 17
END_OF_SETTINGS = b"SELECT pg_catalog.set_config("


def backup(url: str, file: Path) -> None:
    """Write a database to a file; also while a sync runs, it is as at one moment.

    Raises:
        SystemExit: it could not be written whole; then there is no such file.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as output:
        done = subprocess.run(
            [
                _program("pg_dump", _major(url)),
                "--format=custom",
                f"--lock-wait-timeout={lock_seconds():.0f}s",
            ],
            env=os.environ | libpq_environment(url),
            stdout=output,
            check=False,
        )
    if done.returncode != 0:
        part.unlink()
        sys.exit("The backup failed: see above.")
    part.rename(file)


def restore(url: str, file: Path) -> None:
    """Fill an empty database with a backup, all of it or nothing, and bring it up to date.

    All sessions are ended.

    The role of the URL becomes the owner of everything.

    Raises:
        SystemExit: the database is not empty, or the backup can't be restored.
    """
    with psycopg.connect(url) as connection:
        found = connection.execute(
            """
            select oid::regclass::text
            from pg_class
            where
                relkind in ('r', 'p', 'v', 'm')
                and relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'
                -- What an extension brought is there in new databases of some hosts.
                and not exists (select from pg_depend where objid = pg_class.oid and deptype = 'e')
            limit 1
            """
        ).fetchone()
        major = connection.info.server_version // 10000
    if found is not None:
        sys.exit(
            f"The database is not empty: there is {found[0]}. Let DATABASE_URL name a new one"
            " (create database ...)."
        )
    reader = subprocess.Popen(
        [_program("pg_restore", EMBEDDED), "--file=-", "--no-owner", "--no-privileges", "--", file],
        stdout=subprocess.PIPE,
    )
    writer = subprocess.Popen(
        [
            _program("psql", major),
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--output=/dev/null",
        ],
        env=os.environ | libpq_environment(url),
        stdin=subprocess.PIPE,
    )
    assert reader.stdout is not None and writer.stdin is not None  # noqa: S101, PT018
    with suppress(BrokenPipeError):  # psql has ended, and said why
        writer.stdin.write(BEGIN)
        _copy(reader.stdout, writer.stdin, major)
        reader.stdout.close()
        # What is not committed when psql's input ends was never there.
        if reader.wait() == 0:
            writer.stdin.write(END_SESSIONS + b"commit;\n")
    with suppress(BrokenPipeError):
        writer.stdin.close()
    reader.stdout.close()
    if writer.wait() != 0 or reader.wait() != 0:
        sys.exit("The restore failed, and the database is as empty as before: see above.")
    migrate(url)
    with psycopg.connect(url) as connection:
        connection.execute("select public.renew_change_feed(true)")


def check(file: Path) -> dict[str, int]:
    """Restore a backup into a server of its own, and return how many rows its tables have.

    Raises:
        SystemExit: it can't be restored.
    """
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="restore-check-", dir=DATA) as folder:
        cluster = Path(folder) / "postgres"
        url = start_embedded(cluster)
        try:
            restore(url, file)
            return rows(url)
        finally:
            stop_embedded(cluster)


def rows(url: str) -> dict[str, int]:
    """Return how many rows there are of what matters, by table."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        (found,) = connection.execute(COUNTS).fetchall()
    return found


def _copy(source: IO[bytes], target: IO[bytes], major: int) -> None:
    """Pass on SQL, without the setting at its head that an older server would refuse."""
    for line in source:
        if line != NEW_SETTING or major >= KNOWN_SINCE:
            target.write(line)
        if line.startswith(END_OF_SETTINGS):
            break
    shutil.copyfileobj(source, target)


def _major(url: str) -> int:
    with psycopg.connect(url) as connection:
        return connection.info.server_version // 10000


def _program(name: str, at_least: int) -> Path:
    """Return one of PostgreSQL's programs, of this major version or a later one.

    The system's own comes first, since the embedded ones know no TLS.
    """
    installed = shutil.which(name)
    if installed is not None:
        said = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True)
        version = re.search(r"\d+", said.stdout)
        if version is not None and int(version[0]) >= at_least:
            return Path(installed)
    return BIN / name


def _new_file() -> Path:
    return BACKUPS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.dump"


def _newest_file() -> Path:
    files = sorted(BACKUPS.glob("*.dump"))
    if not files:
        sys.exit(f"There is no backup in {BACKUPS}: name a file, or run make backup.")
    return files[-1]


def _say_who_has_access(url: str) -> None:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        tokens = connection.execute(VALID_TOKENS).fetchall()
    print(
        "All sessions are ended, and all links to set a password. Users and passwords are as they"
        " were at the backup: who was erased since is back."
    )
    print(f"{len(tokens)} API tokens are valid, even if they were revoked after the backup:")
    for token in tokens:
        print(
            f"  {token['id']}: {token['name']!r} of {token['user_name']}, made"
            f" {token['created_at']:%Y-%m-%d}, valid until {token['expires_at']:%Y-%m-%d}"
        )


def _say(file: Path, counts: dict[str, int]) -> None:
    print(f"{file}: {', '.join(f'{count:,} {table}' for table, count in counts.items())}")


def main() -> None:
    """Do what the command line says."""
    try:
        given = database_url()
        url = url_for("migrate", given)
        match sys.argv[1:]:
            case ["backup", *files] if len(files) <= 1:
                file = Path(files[0]) if files else _new_file()
                backup(url, file)
                print(file)
            case ["restore", file_name]:
                # Where nothing is yet, nobody has rights.
                restore(given, Path(file_name))
                if roles.are_configured():
                    roles.apply(given)
                _say(Path(file_name), rows(url))
                _say_who_has_access(url)
            case ["check", *files] if len(files) <= 1:
                file = Path(files[0]) if files else _newest_file()
                _say(file, check(file))
            case _:
                sys.exit("usage: python -m database.backup backup [FILE]|restore FILE|check [FILE]")
    except psycopg.OperationalError as error:
        sys.exit(f"The database can't be reached: {error}".strip())


if __name__ == "__main__":
    main()
