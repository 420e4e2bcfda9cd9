"""Passes a tap's output on to its loader as it arrives.

Meltano reads, writes and waits for each line by itself, which takes as long as the loader needs for
it. Lines matter only to those who look at them: the log, and Meltano itself for the loader's state.
"""

import asyncio
from typing import Any

from meltano.core.block import singer
from meltano.core.logging import capture_subprocess_output

MOST_BYTES = 1 << 18


async def pass_on(reader: asyncio.StreamReader | None, *outputs: Any) -> None:
    """Pass the output of a process on to other processes; leave all other outputs to Meltano.

    Args:
        reader: the output of the process.
        outputs: the inputs of processes, or objects with a method `writeline`.
    """
    if reader is None or not all(isinstance(each, asyncio.StreamWriter) for each in outputs):
        await capture_subprocess_output(reader, *outputs)
        return
    while data := await reader.read(MOST_BYTES):
        for writer in outputs:
            try:
                writer.write(data)
                await writer.drain()
            except (BrokenPipeError, ConnectionResetError):  # as Meltano does
                await writer.wait_closed()
                return


def use() -> None:
    """Let Meltano's runs use it."""
    singer.capture_subprocess_output = pass_on  # type: ignore[attr-defined]
