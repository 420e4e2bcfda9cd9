"""`python -m tests.releases CHECKOUT VERSION`: see the package."""

import lzma
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from oracle_crm_sandbox import Sandbox

from database.address import libpq_environment
from database.embedded import BIN, start_embedded, stop_embedded
from declared.assessment import SEVEN
from tests.conftest import PIPELINE, wait_until
from tests.releases import crm as releases

PORT = 18790
PASSWORD = "correct horse battery"


class Release:
    """A running release, with its own database."""

    def __init__(self, checkout: Path, url: str, scratch: Path) -> None:
        self._checkout = checkout
        self._bin = checkout / ".venv" / "bin"
        self._environment = os.environ | {
            "DATABASE_URL": url,
            "ORACLE_CRM_SYNC_ENV_FILE": os.devnull,
            "API_PORT": str(PORT),
            "MELTANO_SYS_DIR_ROOT": str(scratch / "meltano"),
            "DBT_TARGET_PATH": str(scratch / "dbt"),
            "DBT_LOG_PATH": str(scratch / "dbt"),
            "TAP_ORACLE_CRM_MAX_RETRIES": "1",
            "TAP_ORACLE_CRM_CUSTOM_FIELDS": "Practice_c,GEO_c,Region_c,Sector_c,Size_c",
        }
        for name in ("VIRTUAL_ENV", "PYTHONPATH"):
            self._environment.pop(name, None)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command of the release's environment."""
        return subprocess.Popen(
            [self._bin / command[0], *command[1:]],
            cwd=self._checkout,
            text=True,
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *command: str, fails: bool = False, **environment: str) -> str:
        """Run a command of the release's environment to its end; return its output."""
        process = self.start(*command, **environment)
        printed, _ = process.communicate()
        if (process.returncode != 0) != fails:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{printed}")
        return printed

    @contextmanager
    def crm(self) -> Iterator[Sandbox]:
        """Start the release's own sandbox: a later one may refuse its requests."""
        own = self._bin / "oracle-crm-sandbox"
        command = [own.name] if own.exists() else ["python", "-m", "tests.sandbox"]
        server = self.start(*command, "--port", str(PORT + 1))
        with Sandbox(url=f"http://127.0.0.1:{PORT + 1}") as crm:
            self._environment |= crm.env
            try:
                wait_until(lambda: _answers(httpx.Client(base_url=crm.url), "/_sandbox/settings"))
                yield crm
            finally:
                server.terminate()
                server.communicate()

    def sync(self, *options: str, fails: bool = False, **environment: str) -> None:
        """Run the pipeline."""
        self.run("meltano", "run", *options, *PIPELINE, fails=fails, **environment)

    @contextmanager
    def serving(self) -> Iterator[httpx.Client]:
        """Serve the API, for an admin."""
        token = self.run("python", "-m", "api.token", "admin").strip()
        server = self.start("python", "-m", "api")
        headers = {"Authorization": f"Bearer {token}"}
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", headers=headers) as api:
                wait_until(lambda: _answers(api, "/health/ready"))
                yield api
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate()


def _answers(server: httpx.Client, path: str) -> bool:
    try:
        return server.get(path).is_success
    except httpx.HTTPError:
        return False


def work(release: Release, crm: Sandbox) -> None:
    """Run a release for three days: syncs with every end reason, and edits of the bid team."""
    releases.begin(crm)
    release.sync()
    with release.serving() as api:
        _edit(api)
        releases.second_day(crm)
        _wait_until_ended(api, _json_of(api.post("/api/sync-database"))["run_id"])
        _edit_more(api)

        _cancel(api, crm, pages=0)
        crm.fault("latency", ms=1000, path="/opportunities")
        _cancel(api, crm, pages=2)
        _kill(release, crm)
        crm.clear_faults()
    release.sync(fails=True, ORACLE_PASS="wrong")
    releases.third_day(crm)
    release.run("meltano", "run", "reconcile")
    crm.fault("latency", ms=1000, path="/opportunities")
    release.sync("--full-refresh", TAP_ORACLE_CRM_MAX_RUNTIME_SECONDS="3")
    crm.clear_faults()
    release.sync()
    crm.fault("latency", ms=1000, path="/opportunities")
    _kill(release, crm)


def _cancel(api: httpx.Client, crm: Sandbox, pages: int) -> None:
    """Start a sync and cancel it after some pages; 0 is before Meltano records it."""
    crm.clear_requests()
    run_id = _json_of(api.post("/api/sync-database", json={"full": True}))["run_id"]
    wait_until(lambda: crm.requests()["total"] >= pages)
    wait_until(lambda: api.post(f"/api/sync-runs/{run_id}/cancel").status_code == 202)
    _wait_until_ended(api, run_id)


def _kill(release: Release, crm: Sandbox) -> None:
    """Start a sync and kill all its processes while it loads."""
    crm.clear_requests()
    killed = release.start("meltano", "run", "--full-refresh", *PIPELINE)
    wait_until(lambda: crm.requests()["total"] > 5)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()


def _edit(api: httpx.Client) -> None:
    for name, role in (("ada", "assessor"), ("mira", "manager")):
        _json_of(
            api.post(
                "/api/users",
                json={
                    "name": name,
                    "role": role,
                    "email": f"{name}@example.com",
                    "password": PASSWORD,
                },
            )
        )
    # Who submits an assessment does not decide it.
    mira = _sign_in(api, "mira")
    deals = _deals(api, "NEW")
    for deal in deals[:40]:
        _set_status(api, deal, "ASSIGNED")
    for deal in deals[:24]:
        assessment = _json_of(api.post("/api/assessments", json={"opportunity_id": deal}))
        _json_of(api.post(f"/api/assessments/{assessment['id']}/comments", json={"body": "Begun"}))
        if deal in deals[:16]:
            scores = {key: {"score": deal % 6, "comment": "As seen"} for key in SEVEN}
            content = {"scores": scores, "summary": f"Of {deal}", "recommendation": "BID"}
            _save_assessment(api, assessment["id"], content)
        if deal in deals[:12]:
            _post(api, assessment["id"], "submit")
        if deal in deals[:8]:
            decision = "APPROVED" if deal % 2 else "REJECTED"
            content = {"decision": decision, "comment": "Agreed"}
            _post(api, assessment["id"], "decision", content, mira)


def _edit_more(api: httpx.Client) -> None:
    for deal in _deals(api, "ASSIGNED")[:5]:
        _set_status(api, deal, "NEW")


def _deals(api: httpx.Client, status: str) -> list[int]:
    query: dict[str, str | int] = {"workflow_status": status, "limit": 1000, "sort": "name"}
    return [deal["id"] for deal in _json_of(api.get("/api/opportunities", params=query))["items"]]


def _set_status(api: httpx.Client, deal: int, status: str) -> None:
    _json_of(api.patch(f"/api/opportunities/{deal}", json={"workflow_status": status}))


def _save_assessment(api: httpx.Client, assessment: int, content: dict[str, Any]) -> None:
    path = f"/api/assessments/{assessment}"
    _json_of(api.put(path, json=content, headers={"If-Match": api.get(path).headers["ETag"]}))


def _sign_in(api: httpx.Client, name: str) -> dict[str, str]:
    """Return the header of a session of somebody."""
    given = {"name": name, "password": PASSWORD}
    with httpx.Client(base_url=api.base_url) as client:
        return {
            "Authorization": f"Bearer {_json_of(client.post('/api/session', json=given))['token']}"
        }


def _post(
    api: httpx.Client,
    assessment: int,
    what: str,
    content: dict[str, Any] | None = None,
    header: dict[str, str] | None = None,
) -> None:
    path = f"/api/assessments/{assessment}"
    match = {"If-Match": api.get(path).headers["ETag"]}
    _json_of(api.post(f"{path}/{what}", json=content, headers=match | (header or {})))


def _wait_until_ended(api: httpx.Client, run_id: str) -> None:
    wait_until(lambda: _json_of(api.get(f"/api/sync-runs/{run_id}"))["status"] != "RUNNING")


def _json_of(answer: httpx.Response) -> Any:
    if not answer.is_success:
        sys.exit(f"{answer.request.method} {answer.request.url}: {answer.text}")
    return answer.json()


def dump(url: str, **names: Path | str) -> bytes:
    """Return the database as SQL, with other names for this machine and its folders."""
    done = subprocess.run(
        [BIN / "pg_dump", "--no-owner", "--no-privileges"],
        env=os.environ | libpq_environment(url),
        check=True,
        capture_output=True,
        text=True,
    )
    text = done.stdout
    for new, old in names.items():
        text = text.replace(str(old), new)
    return text.encode()


def main() -> None:
    """Create the dump."""
    match sys.argv[1:]:
        case [folder_of_release, version]:
            checkout = Path(folder_of_release).resolve()
        case _:
            sys.exit("usage: python -m tests.releases CHECKOUT VERSION")
    with tempfile.TemporaryDirectory() as folder:
        cluster = Path(folder) / "postgres"
        Path(folder).chmod(0o755)
        url = start_embedded(cluster)
        try:
            release = Release(checkout, url, Path(folder))
            with release.crm() as crm:
                work(release, crm)
            text = dump(url, host=socket.gethostname(), checkout=checkout, folder=folder)
        finally:
            stop_embedded(cluster)
    Path(__file__).with_name(f"{version}.sql.xz").write_bytes(lzma.compress(text, preset=9))


if __name__ == "__main__":
    main()
