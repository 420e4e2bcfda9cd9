"""The tap's output reaches the loader whole, without Meltano looking at each line."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from typing import Any, cast
from unittest.mock import Mock

import pytest
from meltano.core.block import singer

from orchestrate import meltano_pipe

LENGTH = 3_000_000
TAP = f"import sys; sys.stdout.buffer.write(b'a' * {LENGTH} + b'\\nno end')"


async def piped(loader: str) -> tuple[bytes, int | None]:
    """Link a tap to a loader as a run does; return what the loader printed, and its exit code."""
    python = sys.executable
    # Meltano itself fails at a line that is longer than this limit.
    tap = await asyncio.create_subprocess_exec(python, "-c", TAP, stdout=PIPE, limit=1_000)
    process = await asyncio.create_subprocess_exec(python, "-c", loader, stdin=PIPE, stdout=PIPE)
    assert process.stdin
    invoker: Any = Mock(output_handlers=None)
    block = singer.InvokerBase(Mock(), Mock(), invoker, None)
    block._process_handle = tap
    block.stdout_link(cast(Any, process.stdin))
    with suppress(BrokenPipeError):  # which Meltano awaits
        await asyncio.wait_for(block.proxy_stdout(), 60)
    process.stdin.close()
    printed, _ = await process.communicate()
    if tap.returncode is None:
        tap.kill()
    await tap.communicate()
    return printed, process.returncode


@pytest.mark.parametrize(
    ("loader", "prints", "code"),
    [
        ("import sys; print(len(sys.stdin.buffer.read()))", f"{LENGTH + 7}\n", 0),
        ("import sys; sys.stdin.buffer.read(10); sys.exit(3)", "", 3),
    ],
    ids=["to its end", "until the loader ends"],
)
def test_all_bytes_arrive_whatever_the_length_of_a_line(
    loader: str, prints: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "capture_subprocess_output"
    monkeypatch.setattr(singer, name, getattr(singer, name))
    meltano_pipe.use()
    assert asyncio.run(piped(loader)) == (prints.encode(), code)
