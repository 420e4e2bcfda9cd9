"""The tap as a user would run it on a CRM sandbox, in this process or by the command line."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from oracle_crm_sandbox import PASSWORD, USER, Sandbox
from tap_oracle_crm.errors import OracleCrmError
from tap_oracle_crm.tap import TapOracleCRM

QUICK = {"max_backoff_seconds": 1, "lookback_seconds": 60}
"""Settings that keep tests of faults short."""


@dataclass
class Output:
    """What a run wrote, and how it ended."""

    messages: list[dict[str, Any]]
    error: str | None = None
    log: str = ""
    code: int = 0
    states: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.states = [item["value"] for item in self.messages if item["type"] == "STATE"]

    def records(self, stream: str = "opportunities") -> list[dict[str, Any]]:
        """All records of a stream, in order."""
        return [
            item["record"]
            for item in self.messages
            if item["type"] == "RECORD" and item["stream"] == stream
        ]

    def by_key(self, stream: str = "opportunities", key: str = "OptyId") -> dict[int, Any]:
        """The last record of each key: what a target that upserts ends up with."""
        return {record[key]: record for record in self.records(stream)}

    @property
    def state(self) -> dict[str, Any]:
        """The last state, as the next run gets it."""
        return copy.deepcopy(self.states[-1]) if self.states else {}

    @property
    def bookmark(self) -> dict[str, Any]:
        """The last state of opportunities."""
        found: dict[str, Any] = self.state["bookmarks"]["opportunities"]
        return found


def parse(text: str) -> list[dict[str, Any]]:
    """Read Singer messages; a line that broke off is left out, as it never reaches a target."""
    messages = []
    for line in text.split("\n"):
        if line.startswith('{"type":'):
            with contextlib.suppress(ValueError):
                messages.append(json.loads(line))
    return messages


class TapUser:
    """Runs the tap against a sandbox."""

    def __init__(self, crm: Sandbox, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.crm, self.folder, self.caplog = crm, folder, caplog

    def config(self, **settings: Any) -> dict[str, Any]:
        """Settings that reach the sandbox."""
        basic = {"base_url": self.crm.url, "username": USER, "password": PASSWORD}
        return {**basic, **QUICK, **settings}

    def discover(self, **settings: Any) -> dict[str, Any]:
        """Discover the catalog."""
        tap = TapOracleCRM(config=self.config(**settings), setup_mapper=False)
        return json.loads(tap.catalog_json_text)  # type: ignore[no-any-return]

    def sync(
        self,
        state: dict[str, Any] | None = None,
        catalog: dict[str, Any] | None = None,
        streams: tuple[str, ...] = (),
        **settings: Any,
    ) -> Output:
        """Run a sync in this process; `streams` replaces what is selected."""
        if streams:
            catalog = select(catalog or self.discover(**settings), *streams)
        stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        error = None
        self.caplog.clear()
        with contextlib.redirect_stdout(stdout):
            try:
                TapOracleCRM(
                    config=self.config(**settings),
                    state=copy.deepcopy(state),
                    catalog=copy.deepcopy(catalog),
                ).sync_all()
            except OracleCrmError as failure:
                error = str(failure)
        stdout.seek(0)
        return Output(parse(stdout.read()), error, self.caplog.text)

    def command(self, *arguments: str, config: dict[str, Any] | None = None) -> list[str]:
        """The command line of a run of its own."""
        path = self.folder / "config.json"
        path.write_text(json.dumps(self.config() if config is None else config))
        return [sys.executable, "-m", "tap_oracle_crm", "--config", str(path), *arguments]

    def cli(
        self, *arguments: str, config: dict[str, Any] | None = None, **environment: str
    ) -> Output:
        """Run the command line tool."""
        done = subprocess.run(
            self.command(*arguments, config=config),
            env=clean_environment() | environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Output(parse(done.stdout.decode()), log=done.stderr.decode(), code=done.returncode)

    def expected(self, fields: list[str] | None = None) -> dict[int, dict[str, Any]]:
        """What the CRM holds, by key, with the NUL characters that no database takes left out."""
        return {
            row["OptyId"]: {
                name: value.replace("\0", "") if isinstance(value, str) else value
                for name, value in row.items()
            }
            for row in self.crm.rows(fields=fields)
        }

    def requests(self, kind: str = "opportunities") -> list[dict[str, Any]]:
        """The last requests of a kind."""
        return [item for item in self.crm.requests()["last"] if item["kind"] == kind]


def select(catalog: dict[str, Any], *streams: str) -> dict[str, Any]:
    """Select these streams alone."""
    catalog = copy.deepcopy(catalog)
    for entry in catalog["streams"]:
        for item in entry["metadata"]:
            if not item["breadcrumb"]:
                item["metadata"]["selected"] = entry["stream"] in streams
    return catalog


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until `condition` holds, and fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def clean_environment() -> dict[str, str]:
    """The environment without anybody's settings of the tap."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORACLE_", "TAP_ORACLE"))
    }
