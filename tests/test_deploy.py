"""The deployment files are valid and closed, and the commands in them work.

No container engine is needed: the image is built into a folder, by the instructions of the
Containerfile, and its services run from there.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrate.settings import ROOT
from tests.conftest import BIN, Pipeline, wait_until

DEPLOY = ROOT / "orchestrate" / "deploy"
CONTAINERFILE = DEPLOY / "Containerfile"
SECRETS = ("database_url", "oracle_pass", "postgres_password")


def check(*command: str | Path) -> None:
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def documents(file: Path) -> list[Any]:
    return list(yaml.safe_load_all(file.read_text()))


def test_the_containerfile_is_clean_and_pinned() -> None:
    check(BIN / "hadolint", CONTAINERFILE)
    text = CONTAINERFILE.read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert all(re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", base) for base in bases)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text


def test_every_package_has_a_wheel_for_the_images_python() -> None:
    (minor,) = {*re.findall(r"^FROM python:3\.(\d+)", CONTAINERFILE.read_text(), re.MULTILINE)}
    fits = re.compile(
        rf"-(?:(?:py2\.)?py3(?:\d+)?|cp3{minor})-(?:none|cp3{minor})-(?:any|manylinux[\w.]*x86_64)"
        r"|-cp3\d+-abi3-manylinux[\w.]*x86_64|-py3-none-(?:any|\S*manylinux\S*x86_64)"
    )
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    without = [
        package["name"]
        for package in packages
        if "registry" in package["source"]
        and not any(fits.search(wheel["url"]) for wheel in package.get("wheels", []))
    ]
    assert not without, "the slim image has no compiler"


def test_the_compose_file_is_valid_and_closed() -> None:
    compose = DEPLOY / "compose.yaml"
    check(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", compose)
    (parsed,) = documents(compose)
    for name, service in parsed["services"].items():
        assert service["read_only"], name
        assert "no-new-privileges:true" in service["security_opt"]
        assert re.search(r":.*\d", service["image"]), f"{name} is not pinned"
        assert not {*SECRETS} & {variable.lower() for variable in service["environment"]}
    for name in ("api", "scheduler"):
        assert parsed["services"][name]["cap_drop"] == ["ALL"]
    assert parsed["services"]["api"]["ports"] == ["127.0.0.1:8000:8000"]
    assert {*parsed["secrets"]} == {*SECRETS}


def test_the_kubernetes_manifests_are_valid_and_closed() -> None:
    manifests = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    check(BIN / "kubernetes-validate", "--strict", *manifests)
    everything = [document for file in manifests for document in documents(file)]
    deployments = [one for one in everything if one["kind"] == "Deployment"]
    assert len(deployments) == 2
    known = {
        one["metadata"]["name"] for one in everything if one["kind"] in {"ConfigMap", "Secret"}
    }
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["livenessProbe"]
        assert {source["configMapRef"]["name"] for source in container["envFrom"]} <= known
        assert {v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v} <= known
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }
    schedulers = [one for one in deployments if "scheduler" in one["metadata"]["name"]]
    assert schedulers[0]["spec"]["strategy"] == {"type": "Recreate"}


class Image:
    """The image's files in a folder of this machine, and its settings."""

    def __init__(self, folder: Path) -> None:
        self.app = folder / "app"
        self.python = folder / "python"
        self.app.mkdir()
        self.environment: dict[str, str] = {}
        subprocess.run([sys.executable, "-m", "venv", self.python], check=True)
        lines = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
        for line in lines.replace("\\\n", " ").splitlines():
            instruction, _, rest = line.partition(" ")
            match instruction:
                case "FROM":
                    self.environment.clear()
                case "ENV":
                    self.environment |= dict(re.findall(r"(\w+)=(\S+)", self.here(rest)))
                case "COPY" if not rest.startswith("--from"):
                    self.copy(*rest.split())
                case "RUN":
                    self.run("bash", "-euc", self.here(rest))
                case "CMD":
                    self.command = [*yaml.safe_load(self.here(rest))]
        self.commands = {
            "api": self.command,
            "scheduler": [
                self.here(part)
                for part in documents(DEPLOY / "compose.yaml")[0]["services"]["scheduler"][
                    "command"
                ]
            ],
        }

    def here(self, text: str) -> str:
        """Translate what is said of the image to this folder and this user."""
        return re.sub(r"/app\b", str(self.app), text).replace("10001", str(os.getuid()))

    def copy(self, *paths: str) -> None:
        *sources, _ = paths
        if sources != ["."]:
            for source in sources:
                shutil.copy(ROOT / source, self.app)
            return
        lines = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
        skipped = [line.rsplit("/", 1)[-1] for line in lines if line[:1] not in {"!", "#", "*"}]
        skipped += [line.removeprefix("**/") for line in lines if line.startswith("**/")]
        for name in (line[1:] for line in lines if line.startswith("!")):
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name, self.app / name, ignore=shutil.ignore_patterns(*skipped)
                )
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, self.app)

    def run(self, *command: str, **environment: str) -> None:
        done = subprocess.run(
            command, cwd=self.app, env=self.surroundings(**environment), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}"

    def surroundings(self, **environment: str) -> dict[str, str]:
        """The image's environment, and what PyPI is reached by; no bytecode, to be quick."""
        network = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "UV_", "SSL_")) or name.lower().endswith("_proxy")
        }
        return (
            network
            | {"PATH": f"{self.python / 'bin'}:{os.environ['PATH']}", "HOME": os.environ["HOME"]}
            | {"UV_SYSTEM_CERTS": "1"}
            | self.environment
            | {"UV_COMPILE_BYTECODE": "0", "UV_LINK_MODE": "hardlink"}
            | environment
        )

    def files(self) -> set[tuple[str, int]]:
        """All files but those that may be written, with when they were changed."""
        return {
            (str(path), path.stat().st_mtime_ns)
            for path in self.app.rglob("*")
            if path.is_file() and self.app / ".data" not in path.parents
        }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("image")
    yield Image(folder)
    shutil.rmtree(folder)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def answers_well(command: list[str], folder: Path, environment: dict[str, str]) -> bool:
    return not subprocess.run(
        command, cwd=folder, env=environment, check=False, stderr=subprocess.DEVNULL
    ).returncode


def test_the_image_migrates_syncs_and_serves_and_writes_only_its_data(
    image: Image, pipeline: Pipeline, postgres: str, tmp_path: Path
) -> None:
    assert not (image.app / "tests").exists()
    pipeline.query("create database of_the_image")
    url = f"{postgres}/of_the_image"
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "database_url").write_text(url)
    (secrets / "oracle_pass").write_text(pipeline.environment["ORACLE_PASS"])
    environment = image.surroundings(
        SECRETS_DIR=str(secrets),
        ORACLE_BASE_URL=pipeline.environment["ORACLE_BASE_URL"],
        ORACLE_USER=pipeline.environment["ORACLE_USER"],
        API_HOST="127.0.0.1",
        API_PORT=free_port(),
    )
    before = image.files()
    running = [
        subprocess.Popen(command, cwd=image.app, env=environment)
        for command in image.commands.values()
    ]
    try:
        for service in image.commands:
            healthy = [image.command[0], "-m", "orchestrate.deploy.healthy", service]
            wait_until(partial(answers_well, healthy, image.app, environment))
        live = f"http://127.0.0.1:{environment['API_PORT']}/health/live"
        with urllib.request.urlopen(live) as answer:
            assert answer.status == 200
        done = subprocess.run(
            [image.app / ".venv/bin/meltano", "run", "sync"], cwd=image.app, env=environment,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=60) for process in running]
    # uvicorn ends by the signal it was sent, the scheduler by itself
    assert set(codes) <= {0, -signal.SIGTERM}
    loaded = Pipeline(url, pipeline.crm, tmp_path)
    assert loaded.last_sync()["new_records"] == 1000
    assert image.files() == before

    healthy = [image.command[0], "-m", "orchestrate.deploy.healthy", "api"]
    down = subprocess.run(healthy, cwd=image.app, env=environment, check=False, capture_output=True)
    assert down.returncode == 1
    assert b"refused" in down.stderr


def test_the_systemd_units_run_what_is_there(image: Image, tmp_path: Path) -> None:
    units = sorted((DEPLOY / "systemd").glob("*.service"))
    assert len(units) == 2
    placed = []
    for unit in units:
        text = unit.read_text()
        for line in ("ProtectSystem=strict", "NoNewPrivileges=yes", "User=oracle-crm-sync",
                     "CapabilityBoundingSet=\n", "Restart=always"):  # fmt: skip
            assert line in text, f"{unit.name}: {line}"
        assert not re.search(r"^Environment=.*(PASS|DATABASE_URL)", text, re.MULTILINE)
        placed.append(tmp_path / unit.name)
        placed[-1].write_text(text.replace("/opt/oracle-crm-sync", str(image.app)))
        (started,) = re.findall(r"^ExecStart=(.+)$", placed[-1].read_text(), re.MULTILINE)
        assert started.split() in image.commands.values()
    if analyze := shutil.which("systemd-analyze"):
        check(analyze, "verify", "--man=no", *placed)
