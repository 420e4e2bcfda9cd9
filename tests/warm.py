"""Meltano, the tap, the loader and dbt without their start: each call forks a waiting process.

More than half of a short run is imports, and the tests run the pipeline over a hundred times.
For each command, a server has done the imports and forks for each call. The commands in the folder
of `WarmProject` are clients: they pass on their arguments, environment, streams and signals. The
work of a call is the same. Tests that kill processes use the real commands, and so do those of the
README and the images.

All workers of a test run share the servers, whose start costs as much as several runs. dbt parses
the project once, in its server; of most runs, that would be half the work.
"""

import atexit
import fcntl
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from database.address import libpq_environment
from database.environment import DBT_SETTINGS, ROOT

# Modules that each command imports only when it is called.
COMMANDS = {
    "meltano": [
        "alembic.command",
        "anyio._backends._asyncio",
        "database.migrate",
        "declared.decisions",
        "declared.outcomes",
        "declared.store",
        "meltano.core.block.extract_load",
        "meltano.core.plugin.utility",
        "meltano.core.state_store.azure.settings",
        "meltano.core.state_store.google.settings",
        "meltano.core.state_store.s3.settings",
        "meltano.migrations.utils.dialect_typing",
        "notifications.run_end",
        "ruamel.yaml.mergevalue",
        "runs.control",
        "runs.recorder",
        "sqlite3",
    ],
    "tap-oracle-crm": ["email.policy", "importlib_metadata", "tap_oracle_crm.tap", "yaml"],
    "target-postgres-copy": ["target_postgres_copy.target"],
    "dbt-frozen": ["babel.dates", "dbt.cli.main", "dbt.task.run", "sqlparse"],
}
# What dbt parses: the project of these settings, in a database of this name.
PARSED = DBT_SETTINGS | {"PGDATABASE": "test"}
# What the project's commands import or read.
LINKED = (
    "api",
    "database",
    "declared",
    "notifications",
    "orchestrate",
    "runs",
    "transform",
)
# The client sends the length of the call with its streams, then the call. It receives the id of the
# process and, at the end, its exit code.
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([os.getcwd(), sys.argv, dict(os.environ)]).encode()
socket.send_fds(server, [b"%20d" % len(call)], [0, 1, 2])
server.sendall(call)
process = int(server.recv(20))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(process, number))
code = int(server.recv(20))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class WarmProject:
    """A project folder whose commands are forks of processes that have already started."""

    def __init__(self, folder: Path) -> None:
        """Copy or link the project's files and start the servers, if no other worker has."""
        self.root, self.bin = folder, folder / ".venv/bin"
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.bin.exists():
                self._start()

    def _start(self) -> None:
        self.bin.mkdir(parents=True)
        for name in ("meltano.yml", "logging.yaml"):
            shutil.copy(ROOT / name, self.root)
        for name in LINKED:
            (self.root / name).symlink_to(ROOT / name)
        # An environment like the real one, but with the commands above beside its Python.
        (self.root / ".venv/lib").symlink_to(Path(sys.prefix) / "lib")
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", self.root / ".venv")
        (self.bin / "python").symlink_to(Path(sys.executable).resolve())
        # They end with the process that started the test run, also if that is killed.
        owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
        for name in COMMANDS:
            address = f"\0{uuid.uuid4()}"  # not a path, which could be too long
            _write(self.bin / name, CLIENT.format(python=sys.executable, address=address))
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(address)
                listening.listen()
                subprocess.Popen(
                    [sys.executable, "-m", "tests.warm", name, str(listening.fileno()), str(owner)],
                    cwd=ROOT,
                    pass_fds=[listening.fileno()],
                    stdin=subprocess.DEVNULL,
                )


def _write(command: Path, text: str) -> None:
    command.write_text(text)
    command.chmod(0o755)


def serve(name: str, listening: socket.socket, owner: int) -> None:
    """Answer each call in its own processes, until the process `owner` ends."""
    ended = os.pidfd_open(owner)
    (script,) = entry_points(group="console_scripts", name=name)
    command = script.load()
    for module in COMMANDS[name]:
        import_module(module)
    parsed = parse() if name == "dbt-frozen" else None
    # Otherwise the first search for garbage in each call would copy all these objects.
    gc.collect()
    gc.freeze()
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "a fork would wait for the locks of the other threads"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([ended, listening], [], [])
        if ended in ready:
            return
        connection, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            answer(command, connection, parsed)
        connection.close()


def parse() -> object:
    """Make dbt parse the project, which also creates the code and schemas of its start."""
    from dbt.cli.main import dbtRunner
    from dbt.contracts.graph.manifest import Manifest
    from dbt_common.clients.jinja import template_cache

    environment = dict(os.environ)
    os.environ |= libpq_environment("postgresql://nobody@127.0.0.1:1") | PARSED
    with tempfile.TemporaryDirectory() as folder:
        options = {"project": ROOT / "transform", "profiles": ROOT / "transform"}
        folders = [f"--{name}-dir={path}" for name, path in options.items()]
        # The static parser starts threads, which a fork does not have. The second time, dbt reads
        # what it stored the first time, like most calls.
        for _ in range(2):
            done = dbtRunner().invoke(
                [
                    "--quiet",
                    "--no-static-parser",
                    f"--log-path={folder}",
                    "parse",
                    *folders,
                    f"--target-path={folder}",
                ]
            )
            assert done.success, done.exception
        assert isinstance(done.result, Manifest)
        for macro in done.result.macros.values():
            template_cache.get_node_template(macro)
    os.environ.clear()
    os.environ.update(environment)
    return done.result


def use(parsed: object) -> None:
    """Give dbt the parsed project, if the call is a run of the same one."""
    from dbt.cli.main import cli

    other = {"--profiles-dir", "--project-dir", "--target", "--vars"} & {*sys.argv}
    if "run" in sys.argv and not other and PARSED.items() <= os.environ.items():
        cli.context_settings["obj"] = {"manifest": parsed}


def answer(
    command: Callable[[], str | int | None], connection: socket.socket, parsed: object
) -> None:
    """Run a call in its own process, which ends with its client."""
    length, streams, _, _ = socket.recv_fds(connection, 20, 3)
    call = b""
    while len(call) < int(length):
        call += connection.recv(1 << 16)
    process = os.fork()
    if process == 0:
        connection.close()
        folder, arguments, environment = json.loads(call)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[:] = arguments
        if parsed:
            use(parsed)
        try:
            code = command()
        except SystemExit as leaving:
            code = leaving.code
        if code is None or isinstance(code, int):
            leave(code or 0)
        sys.exit(code)
    for stream in (0, 1, 2, *streams):
        os.close(stream)  # otherwise their reader would wait for this process, too
    connection.sendall(b"%20d" % process)
    ended = os.pidfd_open(process)
    ready, _, _ = select.select([connection, ended], [], [])
    if ended not in ready:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with suppress(BrokenPipeError):
        connection.sendall(b"%20d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def leave(code: int) -> NoReturn:
    """End this process like Python does, but leave its objects to the system.

    To delete them one by one, Python would first have to copy nearly all memory of the server.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]))
