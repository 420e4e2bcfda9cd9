"""The tap and the CRM sandbox are separate packages: they work without this repository."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from database.environment import ROOT

PACKAGES = ("oracle-crm-sandbox", "tap-oracle-crm")
QUICK_TESTS = ("tests/test_crm.py", "tests/test_readme.py")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of each package."""
    folder = tmp_path_factory.mktemp("dist")
    for name in PACKAGES:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--directory", folder],
            cwd=ROOT / "extract" / name,
            check=True,
        )
    return folder


def test_built_packages_can_be_published(built: Path) -> None:
    files = sorted(built.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz", ".whl", ".gz"]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_taps_tests_run_without_this_repository(built: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    # The packages' dependencies come from this environment, but not packages that are installed
    # here as a link to their folder, like this repository.
    (packages,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run(
        [
            Path(sys.executable).with_name("uv"),
            "pip",
            "install",
            "--offline",
            "--no-deps",
            "--python",
            python,
            *built.glob("*.whl"),
        ],
        check=True,
    )
    shutil.unpack_archive(next(built.glob("tap_oracle_crm-*.tar.gz")), tmp_path)
    (folder,) = tmp_path.glob("tap_oracle_crm-*")
    origin = subprocess.run(
        [python, "-c", "import oracle_crm_sandbox, tap_oracle_crm as tap; print(tap.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert Path(origin).is_relative_to(packages)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", *QUICK_TESTS],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name},
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", PACKAGES)
def test_imports_of_a_package_are_declared(name: str) -> None:
    folder = ROOT / "extract" / name
    declared = tomllib.loads((folder / "pyproject.toml").read_text())
    extras = declared["project"].get("optional-dependencies", {}).values()
    needed = _names([*declared["project"]["dependencies"], *chain(*extras)])
    own = canonicalize_name(name)
    assert _imported(folder / name.replace("-", "_")) - {own} <= needed
    tests = needed | _names(declared["dependency-groups"]["test"])
    assert _imported(folder / "tests") - {own} <= tests


def _names(requirements: list[Any]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def _imported(folder: Path) -> set[str]:
    """The distributions that the modules of a folder import."""
    local = {path.stem for path in folder.glob("*.py")}
    distributions = packages_distributions()
    return {
        canonicalize_name(distributions.get(name, [name])[0])
        for path in folder.rglob("*.py")
        for name in _top_level(ast.parse(path.read_text()))
        if name not in sys.stdlib_module_names | local
    }


def _top_level(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name.partition(".")[0] for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]


def test_the_list_of_packages_is_valid_and_has_the_locked_versions(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    subprocess.run(["make", "sbom", f"SBOM={file}"], cwd=ROOT, check=True, capture_output=True)
    read = Bom.from_json(json.loads(file.read_text()))  # type: ignore[attr-defined]
    assert read.validate()
    listed = {(one.name, one.version) for one in read.components if one.purl is not None}
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    assert listed <= {(package["name"], package["version"]) for package in locked}
    direct = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {str(canonicalize_name(Requirement(line).name)) for line in direct}
    assert names - {"tap-oracle-crm", "target-postgres-copy"} <= {name for name, _ in listed}
    assert "pytest" not in {name for name, _ in listed}, "the program does not need it"


@pytest.mark.parametrize("file", ["orchestrate/uv.txt", "orchestrate/airflow/requirements.txt"])
def test_what_is_not_in_uv_lock_is_installed_with_hashes(file: str) -> None:
    lines = (ROOT / file).read_text().replace("\\\n", " ").splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert packages
    assert all(re.match(r"[\w.-]+(\[[\w,]+\])?==\S+ .*--hash=sha256:", line) for line in packages)
    # Without these options, pip and uv would not insist on a hash.
    scripts = ("bootstrap.sh", "airflow/bootstrap.sh", "deploy/Containerfile")
    text = "".join((ROOT / "orchestrate" / name).read_text() for name in scripts)
    installs = re.findall(r"pip (?:install|sync) .*", text)
    assert len(installs) == 4
    assert all("--require-hashes" in one for one in installs)
