"""Every command in the README works."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from database.environment import ROOT
from tests.conftest import Pipeline, free_port, wait_until

pytestmark = pytest.mark.xdist_group("readme")  # the commands share the checkout's folders

README = (ROOT / "README.md").read_text()
PORT, DEMO_PORT = free_port(), free_port()
# Commands that run for long, or would start all tests again, with the tests that cover them.
ELSEWHERE = {
    "make test": "runs other tests",
    "make test-console": "runs other tests",
    "make test-commands": "runs this test",
    "make test-airflow": "tests/test_airflow.py",
    "make test-images": "tests/test_deploy.py",
    "make test-postgres POSTGRES=15": "runs other tests",
    "make test-pooler": "runs other tests",
    "make test-alerts": "runs other tests",
    "make test-edge": "runs other tests",
    "make test-libreoffice": "tests/api/test_libreoffice.py",
    "make test-oidc": "tests/console/test_company_account.py",
    "make attack": "runs other tests",
    "make test-all": "runs other tests",
    "make serve": "see `serving`",
    "make schedule": "tests/test_scheduler.py",
    "make sandbox": "extract/oracle-crm-sandbox/tests",
    "make doctor": "tests/test_doctor.py",
    "make check": "tests/test_check.py",
    "make adopt": "tests/test_adopt.py",
    "make erase PERSON=ada": "tests/api/test_erasure.py",
    "make backup": "tests/test_restore.py",
    "make restore-check": "tests/test_restore.py",
    ".venv/bin/python -m api.users NAME --role admin": "tests/api",
    "install -m 600 .env.example .env": "tests/test_settings.py",
}


def commands() -> list[str]:
    """The commands of the README, in its order."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`((?:make|curl|cp|\.venv/bin/\S+) [^`]+)`", README)
    found = [line for line in lines + inline if line and "=" not in line.split()[0]]
    return list(dict.fromkeys(found))


def run(pipeline: Pipeline, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=ROOT,
        env=pipeline.environment | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=240,
    )


@contextmanager
def serving(pipeline: Pipeline) -> Iterator[None]:
    server = subprocess.Popen(
        ["make", "serve"],
        cwd=ROOT,
        env=pipeline.environment | {"API_PORT": PORT},
        start_new_session=True,
    )
    try:
        wait_until(answers)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def answers() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health/ready", timeout=2):
            return True
    except OSError:
        return False


@pytest.mark.commands
def test_the_readmes_commands_work(pipeline: Pipeline) -> None:
    for name in ("MAKEFLAGS", "MAKELEVEL"):  # as from a shell, not as from `make test`
        pipeline.environment.pop(name, None)
    done = run(pipeline, "make setup")
    assert done.returncode == 0, done.stdout
    token = subprocess.run(
        ["make", "token", "ROLE=admin"],
        cwd=ROOT,
        env=pipeline.environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert re.fullmatch(r"\S+\n", token), "alone on a line"
    with serving(pipeline):
        for command in commands():
            if command in ELSEWHERE:
                continue
            print(command, flush=True)
            local = command.replace("localhost:8000", f"127.0.0.1:{PORT}").replace(
                "curl ", "curl --silent --show-error --fail "
            )
            if command == "make psql":
                local = "echo 'select status from sync_logs' | make psql"
            done = run(pipeline, local, TOKEN=token.strip(), DEMO_SERVE="0", SANDBOX_PORT=DEMO_PORT)
            assert done.returncode == 0, f"{command}:\n{done.stdout}"
            if command == "make demo":
                assert "http://" not in done.stdout, "nothing serves any more"
            while any(sync["status"] == "RUNNING" for sync in pipeline.syncs()):
                time.sleep(0.2)
    assert len(pipeline.syncs()) >= 4


def test_every_command_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", README))
    assert named <= targets
    assert "make demo" in commands()


def test_no_document_contains_a_path_of_a_machine() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        assert not re.search(r"/(?:root|home|work)/", document.read_text()), document


@pytest.mark.commands
def test_the_demo_reads_only_its_port_from_the_settings_file(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    told: list[str] = []

    class TokenServer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.path)
            self.send_error(401)

    elsewhere = HTTPServer(("127.0.0.1", 0), TokenServer)
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    settings = tmp_path / ".env"
    settings.write_text(
        f"ORACLE_TOKEN_URL=http://127.0.0.1:{elsewhere.server_port}/token\n"
        "ORACLE_CLIENT_ID=real\nORACLE_CLIENT_SECRET=secret-1\n"
        "DATABASE_URL=postgresql://nobody@127.0.0.1:1/none\n"
        f"API_PORT={PORT}\n"
    )
    demo = subprocess.Popen(
        [".venv/bin/python", "-m", "orchestrate.demo"],
        cwd=ROOT,
        text=True,
        env=pipeline.environment
        | {"SANDBOX_PORT": DEMO_PORT, "ORACLE_CRM_SYNC_ENV_FILE": str(settings)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_until(lambda: answers() or demo.poll() is not None)
    demo.terminate()
    printed, _ = demo.communicate(timeout=60)
    elsewhere.shutdown()
    assert demo.returncode == 143, printed
    assert told == []
    assert pipeline.last_sync()["new_records"] >= 1000
    assert set(re.findall(r"http://127.0.0.1:(\d+)/", printed)) == {PORT, DEMO_PORT}


@pytest.mark.commands
@pytest.mark.parametrize("name", ["API_PORT", "SANDBOX_PORT"])
def test_a_demo_whose_port_is_busy_says_so(pipeline: Pipeline, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        free = {"API_PORT": PORT, "SANDBOX_PORT": DEMO_PORT}
        done = run(pipeline, ".venv/bin/python -m orchestrate.demo", **(free | {name: port}))
    assert done.returncode == 1
    assert f"Set {name} to a free port" in done.stdout
    assert pipeline.syncs() == []
