"""The checks of the command line, run for a page of the console.

Each runs in a process of its own: it asks the CRM, changes its environment and needs seconds of a
processor, which requests would wait for.
"""

import asyncio
import json
import os
import sys

from psycopg.rows import DictRow

from api.problems import ProblemError
from database.environment import ROOT

SECONDS = 50
"""How long a check may take: a request may take a minute."""


async def findings(database_url: str, module: str, *arguments: str) -> list[DictRow]:
    """Run a module that prints findings as JSON, and return them.

    Args:
        database_url: the database that it looks at.
        module: the module, such as `orchestrate.check`.
        arguments: its arguments beside `--json`.

    Raises:
        ProblemError: 503, it took too long, or failed.
    """
    target = module.rpartition(".")[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        "--json",
        *arguments,
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(SECONDS):
            printed, _ = await process.communicate()
        found: list[DictRow] = json.loads(printed)
    except TimeoutError as error:
        detail = f"The check took too long: run make {target} on the server."
        raise ProblemError(503, detail) from error
    except json.JSONDecodeError as error:
        detail = f"The check failed: run make {target} on the server."
        raise ProblemError(503, detail) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return found
