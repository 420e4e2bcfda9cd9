"""The tap and the CRM sandbox are separate packages: they work without this repository."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
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
    needed = _names(declared["project"]["dependencies"])
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
