"""The address of the database: the one that `DATABASE_URL` names, or an embedded PostgreSQL.

Only `parameters` parses such a URL, with PostgreSQL's own client library. The formats for psycopg,
SQLAlchemy, dbt and PostgreSQL's programs are all made from its result.
"""

import sys
from functools import cache
from typing import Literal, get_args
from urllib.parse import quote, unquote, urlencode

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from database.embedded import start_embedded
from database.environment import DATA, setting

EMBEDDED = DATA / "postgres"
"""Where the embedded server keeps its data."""

OF_OTHER_PROGRAMS = frozenset(
    {"connection_limit", "pgbouncer", "pool_timeout", "schema", "statement_cache_size", "supa"}
)
"""Parameters for the connection pools of other programs. Hosting providers put them into URLs."""

_VARIABLES = {
    option.keyword.decode(): (option.envvar or b"").decode()
    for option in pq.Conninfo.get_defaults()
}
"""libpq's parameters, and the environment variable of each that has one."""
_PLACES = frozenset({"user", "password", "host", "port", "dbname"})
_INHERITED = frozenset({b"user", b"password", b"host", b"port", b"dbname", b"options"})
"""What is made explicit, since some readers add to it or do not know libpq's defaults."""


Part = Literal["load", "transform", "run", "api", "migrate"]
"""The parts of the system that can have roles of their own, see `database.roles`."""
PARTS: tuple[Part, ...] = get_args(Part)
PASSWORDS: dict[Part, str] = {
    "load": "DATABASE_LOAD_PASSWORD",
    "transform": "DATABASE_TRANSFORM_PASSWORD",
    "run": "DATABASE_RUN_PASSWORD",
    "api": "DATABASE_API_PASSWORD",
    "migrate": "DATABASE_MIGRATE_PASSWORD",
}
"""The settings with the passwords of their roles."""


class AddressError(Exception):
    """A database URL can't be used. The message follows the setting's name and has no secret."""


def url_setting() -> str:
    """Return the name of the setting that says where the database is."""
    return "DATABASE_DIRECT_URL" if setting("DATABASE_DIRECT_URL") else "DATABASE_URL"


@cache
def database_url() -> str:
    """Return the URL of the database, starting the embedded server if it is to be used.

    `DATABASE_DIRECT_URL` comes first: it is set if `DATABASE_URL` is the address of a pooler.

    Returns:
        A complete libpq URL, `postgresql://user:password@host:port/database`.

    Raises:
        SystemExit: it is no PostgreSQL URL, or the embedded server can't start.
    """
    name = url_setting()
    given = setting(name)
    if given is None:
        return start_embedded(EMBEDDED)
    try:
        read = parameters(given)
    except AddressError as error:
        sys.exit(f"{name} {error}")
    return _url("postgresql", read, quote(read["dbname"], ""))


def role_of(part: Part) -> str:
    """Return the name of a part's own role."""
    return f"oracle_crm_{part}"


def url_for(part: Part, url: str) -> str:
    """Return a database's URL for a part of the system: with its own role, if its password is set.

    Args:
        part: who connects.
        url: the database, as `database_url` returns it.
    """
    password = setting(PASSWORDS[part])
    if password is None:
        return url
    read = parameters(url) | {"user": role_of(part), "password": password}
    return _url("postgresql", read, quote(read["dbname"], ""))


def parameters(url: str) -> dict[str, str]:
    """Return what a database URL says, by the names that libpq has for it.

    Missing parts come from libpq's environment variables and defaults. If a parameter is repeated,
    the last value counts.

    Raises:
        AddressError: it is no PostgreSQL URL, or one of its readers does not support a part of it.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise AddressError("must look like postgresql://user:password@host:5432/database")
    address, _, query = url.partition("?")
    named = [(unquote(part.partition("=")[0]), part) for part in query.split("&") if part]
    ours = "&".join(part for name, part in named if name not in OF_OTHER_PROGRAMS)
    try:
        found = conninfo_to_dict(f"{address}?{ours}")
    except psycopg.ProgrammingError:
        # Its own words would quote the URL, password and all.
        unknown = [name for name, _ in named if name not in {*_VARIABLES, *OF_OTHER_PROGRAMS}]
        if unknown and "@" not in query:
            raise AddressError(
                f"has a parameter that PostgreSQL does not know: {unknown[0]}"
            ) from None
        raise AddressError(
            "is no URL: percent-encode special characters in user and password"
        ) from None
    read = {name: str(value) for name, value in found.items() if value}
    if "service" in read:
        raise AddressError("has the parameter service: write into the URL what the service says")
    for option in pq.Conninfo.get_defaults():
        if option.keyword in _INHERITED and option.val:
            read.setdefault(option.keyword.decode(), option.val.decode())
    read.setdefault("host", "localhost")
    read.setdefault("dbname", read["user"])
    ports = set(read["port"].split(","))
    if len(ports) > 1:
        raise AddressError("names hosts with ports that differ: dbt takes one port for all")
    return read | {"port": ports.pop()}


def libpq_environment(url: str) -> dict[str, str]:
    """Return a database URL as libpq's environment variables, for dbt and PostgreSQL's programs.

    A few parameters, such as `keepalives`, have no variable and are left out.
    """
    read = parameters(url)
    return {"PGPASSWORD": ""} | {
        variable: read[name] for name, variable in _VARIABLES.items() if variable and name in read
    }


def sqlalchemy_url(
    url: str,
    application: str | None,
    driver: str = "psycopg",
    database: str | None = None,
    **settings: str,
) -> str:
    """Return a database URL as SQLAlchemy wants it, with settings of the server's.

    Args:
        url: the database.
        application: the connections' name on the server; None leaves the URL's own.
        driver: SQLAlchemy's name of the driver.
        database: another database on that server.
        settings: server settings for these connections, added to the URL's own `options`.
    """
    read = parameters(url) | ({"application_name": application} if application else {})
    options = [read.get("options", ""), *(f"-c{name}={value}" for name, value in settings.items())]
    if given := " ".join(filter(None, options)):
        read["options"] = given
    read["dbname"] = database or read["dbname"]
    # SQLAlchemy takes the path as it stands, where libpq decodes it.
    return _url(f"postgresql+{driver}", read, read["dbname"])


def _url(scheme: str, read: dict[str, str], path: str) -> str:
    """Return a URL of parameters; the query has what host and path can't hold."""
    user, password, host, port = (
        read.get(name, "") for name in ("user", "password", "host", "port")
    )
    query = {name: value for name, value in read.items() if name not in _PLACES}
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if "/" in host or "," in host:
        server = ""
        query |= {"host": host, "port": ",".join([port] * len(host.split(",")))}
    if "?" in path:
        path, query = "", query | {"dbname": read["dbname"]}
    credentials = quote(user, "") + (f":{quote(password, '')}" if password else "")
    url = f"{scheme}://{credentials}@{server}/{path}"
    return f"{url}?{urlencode(query, quote_via=quote)}" if query else url
