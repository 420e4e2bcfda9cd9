"""The address of the database: the one that `DATABASE_URL` names, or an embedded PostgreSQL."""

import sys
from functools import cache
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from database.embedded import start_embedded
from database.environment import DATA, setting

EMBEDDED = DATA / "postgres"
"""Where the embedded server keeps its data."""


@cache
def database_url() -> str:
    """Return the URL of the database, starting the embedded server if it is to be used.

    Returns:
        A libpq URL, `postgresql://user:password@host:port/database`.

    Raises:
        SystemExit: `DATABASE_URL` is no PostgreSQL URL, or the embedded server can't start.
    """
    url = setting("DATABASE_URL")
    if url is None:
        return start_embedded(EMBEDDED)
    if not url.startswith(("postgresql://", "postgres://")):
        sys.exit("DATABASE_URL must look like postgresql://user:password@host:5432/database")
    return "postgresql://" + url.split("://", 1)[1]


def libpq_environment(url: str) -> dict[str, str]:
    """Return a database URL as libpq's environment variables, for dbt and psql.

    Query parameters that libpq reads from the environment (`sslmode`, `sslrootcert`, ...) go
    along.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    environment = {
        "PGHOST": query.pop("host", None) or parts.hostname or "localhost",
        "PGPORT": query.pop("port", None) or str(parts.port or 5432),
        "PGUSER": query.pop("user", None) or unquote(parts.username or "postgres"),
        "PGPASSWORD": query.pop("password", None) or unquote(parts.password or ""),
        "PGDATABASE": query.pop("dbname", None) or unquote(parts.path.lstrip("/")) or "postgres",
    }
    query.pop("options", None)  # sets the search path and the like: for this project to decide
    others = {f"PG{name.replace('_', '').upper()}": text for name, text in query.items()}
    return environment | others


def sqlalchemy_url(url: str, application: str, **parameters: str) -> str:
    """Return a database URL as SQLAlchemy wants it, with run-time parameters of the server's.

    SQLAlchemy takes the database's name as it stands, where libpq decodes it. A name with a
    question mark is beyond it.
    """
    options = quote(" ".join(f"-c{name}={value}" for name, value in parameters.items()))
    address, _, query = url.removeprefix("postgresql://").partition("?")
    server, _, database = address.partition("/")
    own = f"application_name={application}&options={options}"
    return f"postgresql+psycopg://{server}/{unquote(database)}?{query}{'&' if query else ''}{own}"
