"""Fixtures of the tests that cross folders: a database, a CRM, and Meltano to sync them."""

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from oracle_crm_sandbox import Sandbox
from psycopg import sql
from psycopg.rows import dict_row

from database import roles
from database.address import PARTS, PASSWORDS
from database.embedded import start_embedded, stop_embedded
from database.environment import ROOT
from tests.warehouse import create_database, rename_database
from tests.warm import WarmProject

BIN = Path(sys.executable).parent
# The sandbox's data depend on this time, so a synced database fits a sandbox that starts later.
GENERATED_AT = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
PIPELINE = ["tap-oracle-crm", "target-postgres", "dbt-postgres:run"]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Distribute pipeline tests one by one, the others file by file; slow ones first."""
    for item in items:
        if item.location[0].startswith("tests/console/"):
            item.add_marker("console")
        if not _runs_pipelines(item) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.location[0]))
    items.sort(
        key=lambda item: (not _is_simulated(item), not _runs_pipelines(item), not _is_slow(item))
    )


def pytest_collection_finish() -> None:
    """Leave what is imported out of all searches for garbage: a sixth of the API's tests."""
    gc.collect()
    gc.freeze()


def _runs_pipelines(item: pytest.Item) -> bool:
    return "pipeline" in getattr(item, "fixturenames", ())


def _is_slow(item: pytest.Item) -> bool:
    # A long file that comes last would let the other workers wait for one.
    return item.location[0].startswith("load/")


def _is_simulated(item: pytest.Item) -> bool:
    # One worker runs them all, since each worker would first have to record dbt's statements.
    return "simulated" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Path]:
    """The data folder of the tests' own PostgreSQL server."""
    # Not in pytest's folder: each session opens that for its own user only. In memory, if there is
    # enough, since each database has hundreds of files: making and deleting them is slow on a disk.
    memory = Path("/dev/shm")  # noqa: S108 - only the server's folder is in it
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    with tempfile.TemporaryDirectory(
        prefix="postgres-", dir=memory if has_room else None
    ) as folder:
        cluster = Path(folder) / "postgres"
        yield cluster
        stop_embedded(cluster)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> str:
    """The URL of that server, or the URL in TEST_POSTGRES, without a database's name."""
    if os.environ.get("TEST_ROLES"):  # each part has its own role, else one does it all
        os.environ |= {PASSWORDS[part]: f"password of {part}" for part in PARTS}
    if given := os.environ.get("TEST_POSTGRES"):
        return given
    url = start_embedded(request.getfixturevalue("postgres_cluster")).rsplit("/", 1)[0]
    # No fsync: no test cuts the power, and most create a database. One round of hashing: the
    # thousands of sign-ins at the server would cost twice as much with 4,096.
    options = dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit"), "off")
    options |= {"scram_iterations": "1", "max_wal_size": "'256MB'"}
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        for option, value in options.items():
            connection.execute(f"alter system set {option} = {value}")
        connection.execute("select pg_reload_conf()")
        connection.execute("set scram_iterations = 1")
        password = sql.Literal(unquote(urlsplit(url).password or ""))
        connection.execute(sql.SQL("alter role postgres password {}").format(password))
    return url


@pytest.fixture
def one_role(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all parts use the role of DATABASE_URL, also with TEST_ROLES."""
    for part in PARTS:
        monkeypatch.setenv(PASSWORDS[part], "")


@pytest.fixture(scope="session")
def migrated(postgres: str) -> str:
    """The name of a migrated, empty database: the template for each test's database."""
    name = "migrated"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    roles.apply(f"{postgres}/{name}")
    subprocess.run(
        [sys.executable, "-m", "database", "migrate"],
        cwd=ROOT,
        check=True,
        env=os.environ | {"DATABASE_URL": f"{postgres}/{name}"},
    )
    return name


@pytest.fixture(scope="session")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of dbt's parsed project; with another folder, dbt parses everything again."""
    return tmp_path_factory.mktemp("parsed")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> WarmProject:
    """A project whose commands start at once; all workers use it."""
    own = tmp_path_factory.getbasetemp()
    return WarmProject((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "project")


@pytest.fixture
def database(postgres: str, migrated: str) -> str:
    """The URL of a new, migrated, empty database."""
    return create_database(postgres, "test", migrated)


@pytest.fixture(scope="session")
def crm_server() -> Iterator[Sandbox]:
    """The server of all sandboxes."""
    with Sandbox(records=1000) as crm:
        yield crm


@pytest.fixture
def sandbox(crm_server: Sandbox) -> Sandbox:
    """A CRM of 1,000 deals."""
    crm_server.reset(records=1000, seed=1, now=GENERATED_AT)
    return crm_server


class Pipeline:
    """Meltano, dbt and SQL on one database and one CRM, called like a user does."""

    def __init__(
        self,
        database: str,
        crm: Sandbox,
        scratch: Path,
        parsed: Path | None = None,
        warm: WarmProject | None = None,
    ) -> None:
        """Prepare the environment.

        Args:
            database: the URL.
            crm: the CRM to read.
            scratch: the folder for the processes' files.
            parsed: the folder for dbt's files, if another.
            warm: the project in which to call Meltano, if not the real one.
        """
        self.database, self.crm = database, crm
        self.dbt_log = scratch / "dbt/dbt.log"
        self._bin, self._root = (warm.bin, warm.root) if warm else (BIN, ROOT)
        self._started: list[subprocess.Popen[bytes]] = []
        self.environment = (
            os.environ
            | crm.env
            | {
                "DATABASE_URL": database,
                "MELTANO_SYS_DIR_ROOT": str(scratch / "meltano"),
                "TAP_ORACLE_CRM_MAX_RETRIES": "3",
                "TAP_ORACLE_CRM_MAX_BACKOFF_SECONDS": "1",
                "DBT_TARGET_PATH": str((parsed or scratch) / "dbt"),
                "DBT_LOG_PATH": str(self.dbt_log.parent),
            }
        )

    def meltano(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Call Meltano, without a check of the exit code; `stdout` has all its output."""
        return subprocess.run(
            [self._bin / "meltano", *arguments],
            cwd=self._root,
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=240,
        )

    def shell(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a bash script that calls Meltano, without a check of the exit code."""
        path = f"{self._bin}:{self.environment['PATH']}"
        return subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-ec", script],
            cwd=self._root,
            env=self.environment | environment | {"PATH": path},
            text=True,
            check=False,
            timeout=240,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def module(
        self, module: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Call `python -m module`, without a check of the exit code; Meltano is this project's."""
        return subprocess.run(
            [self._bin / "python", "-m", module, *arguments],
            cwd=self._root,
            env=self.environment | {"MELTANO_PROJECT_ROOT": str(self._root)} | environment,
            text=True,
            capture_output=True,
            check=False,
            timeout=240,
        )

    def sync(self, *options: str, **environment: str) -> dict[str, Any]:
        """Run the pipeline, check that it succeeds, and return its row of the sync log."""
        done = self.meltano("run", *options, *PIPELINE, **environment)
        assert done.returncode == 0, done.stdout
        return self.last_sync()

    def start(
        self, *arguments: str, to_kill: bool = False, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start `meltano run`: the pipeline, or the given arguments.

        Args:
            arguments: those of `meltano run`.
            to_kill: use the real commands, each a child process of its caller.
            environment: further variables.
        """
        folder, root = (BIN, ROOT) if to_kill else (self._bin, self._root)
        meltano = subprocess.Popen(
            [folder / "meltano", "run", *(arguments or PIPELINE)],
            cwd=root,
            env=self.environment | environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._started.append(meltano)
        return meltano

    def stop(self) -> None:
        """End processes that outlived their Meltano, since the next test uses the same names."""
        for meltano in self._started:
            with suppress(ProcessLookupError):
                os.killpg(meltano.pid, signal.SIGKILL)

    def query(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        """Run a statement and return its rows, if it has any."""
        with psycopg.connect(self.database, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def syncs(self) -> list[dict[str, Any]]:
        """The sync log, oldest first."""
        return self.query("select * from sync_logs order by id")

    def last_sync(self) -> dict[str, Any]:
        """The newest row of the sync log."""
        return self.syncs()[-1]

    def state(self) -> dict[str, Any]:
        """Meltano's state of the pipeline."""
        (row,) = self.query("select completed_state from meltano.state")
        state: dict[str, Any] = json.loads(row["completed_state"])
        return state


@pytest.fixture
def pipeline(
    database: str, sandbox: Sandbox, tmp_path: Path, parsed: Path, warm: WarmProject
) -> Iterator[Pipeline]:
    """The pipeline between the sandbox and a fresh database."""
    pipeline = Pipeline(database, sandbox, tmp_path, parsed, warm)
    yield pipeline
    pipeline.stop()


@pytest.fixture(scope="session")
def first_sync(
    postgres: str,
    migrated: str,
    crm_server: Sandbox,
    parsed: Path,
    warm: WarmProject,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The name of a database after a first sync: a template."""
    crm_server.reset(records=1000, seed=1, now=GENERATED_AT)
    database = create_database(postgres, "test", migrated)
    Pipeline(database, crm_server, tmp_path_factory.mktemp("first_sync"), parsed, warm).sync()
    return rename_database(postgres, "test", "first_sync")


@pytest.fixture
def synced(postgres: str, first_sync: str, pipeline: Pipeline) -> Pipeline:
    """The pipeline after a first sync that is not itself under test."""
    create_database(postgres, "test", first_sync)
    return pipeline


def free_port() -> str:
    """Return a free port of the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> None:
    """Wait until `condition` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


MAPPING = {
    "OptyNumber": "opty_number",
    "Name": "name",
    "TargetPartyName": "customer",
    "Revenue": "deal_value",
    "CurrencyCode": "currency",
    "WinProb": "win_probability",
    "SalesStage": "stage",
    "StatusCode": "status_code",
    "EffectiveDate": "close_date",
    "OwnerResourcePartyId": "sales_owner",
    "CreationDate": "remote_created_at",
    "LastUpdateDate": "remote_updated_at",
    "Practice_c": "practice",
    "GEO_c": "geo",
    "Region_c": "region",
    "Sector_c": "sector",
}


def as_column(attribute: str, value: Any) -> Any:
    """The value of the contract's column for an attribute of the CRM."""
    if value is None:
        return None
    match attribute:
        case "Revenue" | "WinProb":
            return Decimal(str(value))
        case "EffectiveDate":
            return None if value.startswith("0000") else date.fromisoformat(value)
        case "CreationDate" | "LastUpdateDate":
            return datetime.fromisoformat(value).astimezone(UTC)
        case _:
            return str(value).replace("\0", "")


def assert_equal_to_crm(pipeline: Pipeline) -> None:
    """Assert that PostgreSQL equals the CRM, row for row and field for field."""
    columns = ", ".join(MAPPING.values())
    rows = pipeline.query(
        f"select remote_id, {columns} from opportunities where deleted_at is null"  # noqa: S608
    )
    ours = {row.pop("remote_id"): row for row in rows}
    theirs = {
        str(row["OptyId"]): {
            column: as_column(attribute, row.get(attribute))
            for attribute, column in MAPPING.items()
        }
        for row in pipeline.crm.rows()
    }
    assert ours.keys() == theirs.keys()
    for remote_id, expected in theirs.items():
        assert ours[remote_id] == expected
    assert pipeline.query("select wrong_totals() as wrong") == [{"wrong": 0}]
