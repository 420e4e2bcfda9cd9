"""What the API does at intervals."""

import asyncio
import logging
from functools import partial

import pytest

from api.background import every


async def fail(url: str) -> None:
    raise ConnectionError("nobody is there")


def test_work_that_failed_is_logged_without_what_it_was_given_and_done_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def twice() -> None:
        async with every(0.01, partial(fail, "postgresql://sync:secret@db.example.com/crm")):
            while len(caplog.records) < 2:
                await asyncio.sleep(0.01)

    with caplog.at_level(logging.ERROR, logger="api.background"):
        asyncio.run(twice())
    assert {record.__dict__["work"] for record in caplog.records} == {"fail"}
    assert "nobody is there" in caplog.text
    assert "secret" not in caplog.text + str([record.__dict__ for record in caplog.records])
