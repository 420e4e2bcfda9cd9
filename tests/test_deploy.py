"""The deployment files are valid and secure, and their commands work.

No container engine is needed: the Containerfile's steps build the image into a folder, and its
services run from there. `make test-images` does the same as root in a chroot with Debian, with the
image's own paths and user, and on a read-only file system.
"""

import re
import secrets
import shutil
import signal
import subprocess
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from database.environment import ROOT
from tests.conftest import BIN, Pipeline, free_port, wait_until
from tests.image import CONTAINERFILE, DEPLOY, Chroot, Image

pytestmark = pytest.mark.xdist_group("deploy")  # the image is built once

SECRETS = (
    "airflow_jwt_secret",
    "airflow_secret_key",
    "database_url",
    "oracle_pass",
    "postgres_password",
)


def check(*command: str | Path) -> None:
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def documents(file: Path) -> list[Any]:
    return list(yaml.safe_load_all(file.read_text()))


def test_the_containerfile_is_clean_and_pinned() -> None:
    check(BIN / "hadolint", CONTAINERFILE)
    text = CONTAINERFILE.read_text()
    stages = {""}
    for base, name in re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE):
        assert base in stages or re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", base)
        stages.add(name)
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
    others = {"postgres", "proxy"}
    ours = {name: one for name, one in parsed["services"].items() if name not in others}
    for name, service in parsed["services"].items():
        assert service["read_only"], name
        profiles = {"airflow": ["airflow"], "proxy": ["tls"]}
        assert service.get("profiles") == profiles.get(name.partition("-")[0])
        assert "no-new-privileges:true" in service["security_opt"]
        assert re.search(r":.*\d", service["image"]), f"{name} is not pinned"
        assert not {*SECRETS} & {variable.lower() for variable in service["environment"]}
    for service in ours.values():
        assert service["cap_drop"] == ["ALL"]
        assert {*service["secrets"]} <= {*SECRETS}
    published = {name: one["ports"] for name, one in parsed["services"].items() if "ports" in one}
    assert published == {
        "api": ["127.0.0.1:8000:8000"],
        "airflow-api": ["127.0.0.1:8080:8080"],
        "proxy": ["80:80", "443:443"],
    }
    proxy = parsed["services"]["proxy"]
    assert (proxy["cap_drop"], proxy["cap_add"]) == (["ALL"], ["NET_BIND_SERVICE"])
    believed = parsed["services"]["api"]["environment"]["FORWARDED_ALLOW_IPS"]
    assert proxy["networks"]["edge"]["ipv4_address"] in believed
    assert not parsed["services"]["scheduler"].get("networks"), "it serves nobody"
    assert {*parsed["secrets"]} == {*SECRETS}


def test_secret_files_are_for_their_reader_alone() -> None:
    lines = [
        line for line in (DEPLOY / "compose.yaml").read_text().splitlines() if "install" in line
    ]
    assert len(lines) == 2
    assert all("install -o 10001 -m 0400" in line for line in lines)


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


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Image, marks=pytest.mark.commands),
        pytest.param(Chroot, marks=pytest.mark.chroot),
    ],
)
def image(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Image]:
    with built(request.param, tmp_path_factory) as image:
        yield image


@pytest.fixture(scope="module", params=[pytest.param(Chroot, marks=pytest.mark.chroot)])
def airflow_image(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Image]:
    with built(request.param, tmp_path_factory, "airflow") as image:
        yield image


@contextmanager
def built(kind: type[Image], factory: pytest.TempPathFactory, target: str = "") -> Iterator[Image]:
    folder = factory.mktemp("image")
    folder.chmod(0o755)  # the chroot's user must be able to enter it
    yield kind(folder, target)
    shutil.rmtree(folder)


def services(image: Image, *names: str) -> dict[str, list[str]]:
    """The commands of services of the compose file, or the image's own."""
    (compose,) = documents(DEPLOY / "compose.yaml")
    return {
        name: [image.here(part) for part in compose["services"][name].get("command", [])]
        or image.command
        for name in names
    }


def probe(image: Image, service: str) -> list[str]:
    """The health check of a service of the compose file, or the image's own."""
    (compose,) = documents(DEPLOY / "compose.yaml")
    if "healthcheck" in compose["services"][service]:
        _, *command = compose["services"][service]["healthcheck"]["test"]
    else:
        (*_, last) = re.findall(r"^HEALTHCHECK .*\\\n *CMD (.+)$", CONTAINERFILE.read_text(), re.M)
        command = yaml.safe_load(last)
    return image.argv(*(image.here(part) for part in command))


def secrets_for(image: Image, **values: str) -> str:
    """Write secrets like a container engine; return their folder in the image."""
    folder = image.folder / "secrets"
    folder.mkdir(exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(value)
    return image.inside(folder)


def is_well(image: Image, service: str, environment: dict[str, str]) -> bool:
    return not subprocess.run(
        probe(image, service),
        cwd=image.app,
        env=environment,
        check=False,
        stderr=subprocess.DEVNULL,
    ).returncode


def is_well_or_gone(
    image: Image,
    service: str,
    environment: dict[str, str],
    processes: dict[str, subprocess.Popen[bytes]],
) -> bool:
    return processes[service].poll() is not None or is_well(image, service, environment)


@contextmanager
def running(
    image: Image, environment: dict[str, str], *names: str
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start services, each after the ones before are healthy, and stop them."""
    processes = {}
    try:
        for name, command in services(image, *names).items():
            processes[name] = subprocess.Popen(
                image.argv(*command), cwd=image.app, env=environment, start_new_session=True
            )
            wait_until(partial(is_well_or_gone, image, name, environment, processes), seconds=150)
            assert processes[name].poll() is None, f"{name} ended"
        yield processes
    finally:
        codes = []
        for process in reversed(processes.values()):
            process.terminate()
            codes.append(process.wait(timeout=60))
    # uvicorn and Airflow end by the signal, the scheduler with exit code 0.
    assert {*codes} <= {0, -signal.SIGTERM, 128 + signal.SIGTERM}


def test_the_image_migrates_syncs_and_serves_and_writes_only_its_data(
    image: Image, pipeline: Pipeline, postgres: str, tmp_path: Path
) -> None:
    assert not (image.app / "tests").exists()
    url = f"{postgres}/of_the_image_{type(image).__name__.lower()}"
    pipeline.query(f"create database {url.rsplit('/', 1)[1]}")
    environment = image.surroundings(
        SECRETS_DIR=secrets_for(
            image, database_url=url, oracle_pass=pipeline.environment["ORACLE_PASS"]
        ),
        ORACLE_BASE_URL=pipeline.environment["ORACLE_BASE_URL"],
        ORACLE_USER=pipeline.environment["ORACLE_USER"],
        API_HOST="127.0.0.1",
        API_PORT=free_port(),
    )
    before = image.files()
    with running(image, environment, "api", "scheduler"):
        live = f"http://127.0.0.1:{environment['API_PORT']}/health/live"
        with urllib.request.urlopen(live) as answer:
            assert answer.status == 200
        done = subprocess.run(
            image.argv(image.inside(image.app / ".venv/bin/meltano"), "run", "sync"),
            cwd=image.app,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    loaded = Pipeline(url, pipeline.crm, tmp_path)
    assert loaded.last_sync()["new_records"] == 1000
    assert image.files() == before

    down = subprocess.run(
        probe(image, "api"), cwd=image.app, env=environment, check=False, capture_output=True
    )
    assert down.returncode == 1
    assert b"refused" in down.stderr


@pytest.mark.timeout(900)
def test_airflows_image_runs_the_schedules_and_writes_only_its_data(
    airflow_image: Image, pipeline: Pipeline, postgres: str, tmp_path: Path
) -> None:
    image = airflow_image
    url = f"{postgres}/of_airflows_image_{type(image).__name__.lower()}"
    pipeline.query(f"create database {url.rsplit('/', 1)[1]}")
    secrets_folder = secrets_for(
        image,
        database_url=url,
        oracle_pass=pipeline.environment["ORACLE_PASS"],
        airflow_secret_key=secrets.token_hex(32),
        airflow_jwt_secret=secrets.token_hex(32),
    )
    (compose,) = documents(DEPLOY / "compose.yaml")
    port = free_port()
    stated = {
        name: image.here(str(value))
        .replace("/run/secrets", secrets_folder)
        .replace("airflow-api:8080", f"127.0.0.1:{port}")
        for name, value in compose["services"]["airflow-scheduler"]["environment"].items()
        if name.startswith(("AIRFLOW", "SECRETS"))
    }
    environment = image.surroundings(
        **stated
        | {
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__API__PORT": port,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "ORACLE_BASE_URL": pipeline.environment["ORACLE_BASE_URL"],
            "ORACLE_USER": pipeline.environment["ORACLE_USER"],
        }
    )
    before = image.files()
    migrate = [image.here("/app/.venv/bin/python"), "-m", "database", "migrate"]
    subprocess.run(image.argv(*migrate), cwd=image.app, env=environment, check=True)
    parts = ("airflow-api", "airflow-dag-processor", "airflow-scheduler")
    with running(image, environment, *parts):

        def airflow(*command: str) -> str:
            argv = image.argv(image.here("/opt/airflow/bin/airflow"), *command)
            return subprocess.run(
                argv, cwd=image.app, env=environment, check=True, stdout=subprocess.PIPE, text=True
            ).stdout

        wait_until(lambda: "oracle-crm.nightly" in airflow("dags", "list"), seconds=120)
        assert "No data found" in airflow("dags", "list-import-errors")
        airflow("dags", "unpause", "oracle-crm.nightly")
        airflow("dags", "trigger", "oracle-crm.nightly")
        loaded = Pipeline(url, pipeline.crm, tmp_path)
        runs = Pipeline(f"{url}_airflow", pipeline.crm, tmp_path)
        ended = "select state from dag_run where state in ('success', 'failed')"
        wait_until(lambda: runs.query(ended), seconds=150)
        assert runs.query(ended) == [{"state": "success"}]
        assert loaded.last_sync()["new_records"] == 1000
    assert image.files() == before


def test_the_systemd_units_run_existing_commands(image: Image, tmp_path: Path) -> None:
    units = sorted((DEPLOY / "systemd").glob("*.service"))
    assert len(units) == 2
    placed = []
    for unit in units:
        text = unit.read_text()
        for line in (
            "ProtectSystem=strict",
            "NoNewPrivileges=yes",
            "User=oracle-crm-sync",
            "CapabilityBoundingSet=\n",
            "Restart=always",
        ):
            assert line in text, f"{unit.name}: {line}"
        assert not re.search(r"^Environment=.*(PASS|DATABASE_URL)", text, re.MULTILINE)
        placed.append(tmp_path / unit.name)
        placed[-1].write_text(text.replace("/opt/oracle-crm-sync", str(image.app)))
        (started,) = re.findall(r"^ExecStart=(.+)$", placed[-1].read_text(), re.MULTILINE)
        command = [image.inside(part) for part in started.split()]
        assert command in services(image, "api", "scheduler").values()
    if analyze := shutil.which("systemd-analyze"):
        check(analyze, "verify", "--man=no", *placed)
