"""Meltano, the tap, the loader and dbt without their start: each call forks a waiting process.

More than half of a short run is imports, and the tests run the pipeline over a hundred times.
For each command, a server has done the imports and forks for each call. The commands in the folder
of `WarmProject` are clients: they pass on their arguments, environment, streams and signals. The
work of a call is the same. Tests that kill processes use the real commands, and so do those of the
README and the images.
"""

import atexit
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
        "meltano.core.block.extract_load",
        "meltano.core.plugin.utility",
        "meltano.core.state_store.azure",
        "meltano.core.state_store.google",
        "meltano.core.state_store.s3",
        "meltano.migrations.utils.dialect_typing",
        "notifications.run_end",
        "declared",
        "ruamel.yaml.mergevalue",
        "runs.control",
        "runs.recorder",
        "sqlite3",
    ],
    "tap-oracle-crm": ["email.policy", "importlib_metadata", "tap_oracle_crm.tap", "yaml"],
    "target-postgres-copy": ["target_postgres_copy.target"],
    "dbt-frozen": ["babel.dates", "dbt.cli.main", "dbt.task.run", "sqlparse"],
}
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

    def __init__(self, folder: Path, **environment: str) -> None:
        """Copy or link the project's files, and start the servers.

        Args:
            folder: an empty folder for it.
            environment: further variables that the servers find when they start.
        """
        self.root, self.bin = folder, folder / ".venv/bin"
        self.bin.mkdir(parents=True)
        for name in ("meltano.yml", "logging.yaml"):
            shutil.copy(ROOT / name, folder)
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        # An environment like the real one, but with the commands above beside its Python.
        (folder / ".venv/lib").symlink_to(Path(sys.prefix) / "lib")
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder / ".venv")
        (self.bin / "python").symlink_to(Path(sys.executable).resolve())
        self._servers = []
        for name in COMMANDS:
            address = f"\0{uuid.uuid4()}"  # not a path, which could be too long
            _write(self.bin / name, CLIENT.format(python=sys.executable, address=address))
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(address)
                listening.listen()
                server = subprocess.Popen(
                    [sys.executable, "-m", "tests.warm", name, str(listening.fileno())],
                    cwd=ROOT,
                    env=os.environ | environment,
                    pass_fds=[listening.fileno()],
                    stdin=subprocess.PIPE,
                )
            self._servers.append(server)

    def stop(self) -> None:
        """Stop the servers."""
        for server in self._servers:
            server.communicate()


def _write(command: Path, text: str) -> None:
    command.write_text(text)
    command.chmod(0o755)


def serve(name: str, listening: socket.socket) -> None:
    """Answer each call in its own processes, until standard input ends."""
    (script,) = entry_points(group="console_scripts", name=name)
    command = script.load()
    for module in COMMANDS[name]:
        import_module(module)
    if name == "dbt-frozen":
        parse()
    # Otherwise the first search for garbage in each call would copy all these objects.
    gc.collect()
    gc.freeze()
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "a fork would wait for the locks of the other threads"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([sys.stdin, listening], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            answer(command, connection)
        connection.close()


def parse() -> None:
    """Make dbt parse a project, so that it creates the code and schemas of its start now."""
    from dbt.cli.main import dbtRunner
    from dbt.contracts.graph.manifest import Manifest
    from dbt_common.clients.jinja import template_cache

    environment = dict(os.environ)
    os.environ |= DBT_SETTINGS | libpq_environment("postgresql://nobody@127.0.0.1:1/none")
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


def answer(command: Callable[[], str | int | None], connection: socket.socket) -> None:
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
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
