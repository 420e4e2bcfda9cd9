"""What the tap's tests share: a CRM sandbox, and the tap on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from oracle_crm_sandbox import Sandbox
from tap_user import TapUser


@pytest.fixture(scope="session")
def server() -> Iterator[Sandbox]:
    """One sandbox for all tests."""
    with Sandbox(records=100) as crm:
        yield crm


@pytest.fixture
def crm(server: Sandbox) -> Sandbox:
    """A CRM of 1,000 deals as new."""
    server.reset(records=1000, seed=1)
    server.clear_faults()
    server.clear_hooks()
    server.clear_requests()
    return server


@pytest.fixture
def tap(
    crm: Sandbox,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> TapUser:
    """The tap on that CRM."""
    for name in os.environ:
        if name.startswith("ORACLE_"):
            monkeypatch.delenv(name)
    # Without this, tests of failures would wait for minutes; tests of the pauses set their own.
    monkeypatch.setattr("tap_oracle_crm.client.FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("tap_oracle_crm.client.HICCUP_SECONDS", 0.02)
    caplog.set_level("INFO")
    return TapUser(crm, tmp_path, caplog)
