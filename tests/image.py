"""Images without a container engine: run a Containerfile's steps in a folder or a chroot."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from database.environment import DATA, ROOT

DEPLOY = ROOT / "orchestrate" / "deploy"
CONTAINERFILE = DEPLOY / "Containerfile"


class Image:
    """A target's files in a folder of this machine, and its settings.

    Paths of the image are translated to the folder, and its user to this one.

    Args:
        folder: an empty folder.
        target: the stage to build; if empty, the last one.
    """

    def __init__(self, folder: Path, target: str = "") -> None:
        self.folder = folder
        self.app, self.python = folder / "app", folder / "python"
        self.app.mkdir()
        self._prepare()
        self._stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
        lines = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
        for line in lines.replace("\\\n", " ").splitlines():
            instruction, _, rest = line.partition(" ")
            if instruction == "FROM":
                base, _, name = rest.partition(" AS ")
                self._stages[name] = (base, steps := [])
            elif line:
                steps.append((instruction, rest.strip()))
        self._built: dict[str, dict[str, str]] = {}
        self.command: list[str] = []
        self.environment = self._build(target)

    def _prepare(self) -> None:
        subprocess.run([sys.executable, "-m", "venv", self.python], check=True)

    def _build(self, stage: str) -> dict[str, str]:
        """Run a stage's steps, after those of the stages it needs; return its environment."""
        if stage in self._built:
            return self._built[stage]
        base, steps = self._stages[stage]
        environment = dict(self._build(base)) if base in self._stages else {}
        for instruction, rest in steps:
            match instruction:
                case "ENV":
                    environment |= dict(re.findall(r"(\w+)=(\S+)", self.here(rest)))
                case "COPY" if rest.startswith("--from="):
                    # All stages share one folder, so the other stage's files are already here.
                    self._build(rest.removeprefix("--from=").split()[0])
                case "COPY":
                    self._copy(*rest.split())
                case "RUN":
                    self.environment = environment
                    self.run("bash", "-euc", self.here(rest))
                case "CMD":
                    self.command = [*yaml.safe_load(self.here(rest))]
        self._built[stage] = environment
        return environment

    def _copy(self, *paths: str) -> None:
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

    def here(self, text: str) -> str:
        """Translate a text about the image to this folder and this user."""
        text = re.sub(r"/(app|opt/airflow)\b", rf"{self.folder}/\1", text)
        return text.replace("10001", str(os.getuid()))

    def inside(self, path: Path | str) -> str:
        """Return a path of this machine as a path in the image."""
        return str(path)

    def argv(self, *command: str) -> list[str]:
        """Return the command that runs a command inside the image, as its user."""
        return [*command]

    def run(self, *command: str, **environment: str) -> None:
        """Run a step of the build, and check that it succeeds."""
        self._run([*command], self.surroundings(**environment))

    def _run(self, command: list[str], environment: dict[str, str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.app,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"

    def surroundings(self, **environment: str) -> dict[str, str]:
        """The image's environment and the network settings; no bytecode, to be fast."""
        return (
            network()
            | {"PATH": f"{self.python / 'bin'}:{os.environ['PATH']}", "HOME": os.environ["HOME"]}
            | {"UV_SYSTEM_CERTS": "1"}
            | self.environment
            | {"UV_COMPILE_BYTECODE": "0", "UV_LINK_MODE": "hardlink"}
            | environment
        )

    def files(self) -> set[tuple[str, int]]:
        """All files with their change times, except those that may be written."""
        return {
            (str(path), path.stat().st_mtime_ns)
            for path in self.app.rglob("*")
            if path.is_file() and self.app / ".data" not in path.parents
        }


class Chroot(Image):
    """The same in a plain Debian, with the image's own paths and user, and read-only when it runs.

    For root only. It uses Debian's Python instead of the base image's.
    """

    SUITE = "bookworm"
    # Each process has its own mounts, which end with it.
    ENTER = """
        mount --bind "$1" "$1"
        mount -t proc proc "$1/proc"
        mount -t tmpfs tmpfs "$1/tmp"
        mount -t tmpfs tmpfs "$1/dev/shm"
        if [ "$2" != 0 ]; then
            mount --bind "$1/app/.data" "$1/app/.data"
            mount -o remount,bind,ro "$1"
        fi
        root=$1 user=$2
        shift 2
        exec chroot --userspec="$user:$user" "$root" env -C /app "$@"
    """

    def _prepare(self) -> None:
        self.app.rmdir()
        packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
        debian = DATA / "debian" / self.SUITE
        if not debian.exists():
            begun = debian.with_suffix(".begun")
            begun.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                ["debootstrap", "--variant=minbase", packages, self.SUITE, str(begun)], check=True
            )
            begun.rename(debian)
        subprocess.run(["cp", "-a", f"{debian}/.", self.folder], check=True)
        self.app.mkdir()
        for file in ("resolv.conf", "ssl/certs/ca-certificates.crt"):
            if (Path("/etc") / file).exists():
                shutil.copy(Path("/etc") / file, self.folder / "etc" / file)

    def here(self, text: str) -> str:
        """Return the text unchanged."""
        return text

    def inside(self, path: Path | str) -> str:
        """Return a path of this machine as a path in the image."""
        return str(path).replace(str(self.folder), "")

    def argv(self, *command: str, user: int = 10001) -> list[str]:
        """Return the command that runs a command inside the image, as its user."""
        enter = ["unshare", "--mount", "sh", "-euc", self.ENTER, "-", str(self.folder), str(user)]
        return [*enter, *command]

    def run(self, *command: str, **environment: str) -> None:
        """Run a step of the build as root, and check that it succeeds."""
        # Debian's Python refuses pip without this.
        environment["PIP_BREAK_SYSTEM_PACKAGES"] = "1"
        self._run(self.argv(*command, user=0), self.surroundings(**environment))

    def surroundings(self, **environment: str) -> dict[str, str]:
        """The image's environment and the network settings."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return (
            network()
            | {"PATH": path, "HOME": "/root", "UV_SYSTEM_CERTS": "1"}
            | self.environment
            | environment
        )


def network() -> dict[str, str]:
    """The environment variables for network access and packages."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "UV_", "SSL_")) or name.lower().endswith("_proxy")
    }
