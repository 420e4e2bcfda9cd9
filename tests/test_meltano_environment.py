"""Meltano's settings see the environment as it is."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from meltano.core.settings_service import SettingsService

from orchestrate import meltano_environment


def test_settings_see_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    meltano, ours = cast(Any, SettingsService.env).fget, meltano_environment.Environment().of
    added: Any = SimpleNamespace(env_override={"ADDED": "yes", "PATH": "/elsewhere"})
    none: Any = SimpleNamespace(env_override={})
    monkeypatch.delenv("ORACLE_PAGES", raising=False)
    for value in ("1", "1", "ä", "", None, "2"):
        if value is None:
            monkeypatch.delenv("ORACLE_PAGES")
        else:
            monkeypatch.setenv("ORACLE_PAGES", value)
        assert ours(none).get("ORACLE_PAGES") == value
        assert ours(added) == meltano(added)
        assert ours(none) == meltano(none)
    # Who changes what they were given changes nothing for others.
    ours(none)["ORACLE_PAGES"] = "3"
    assert ours(none) == meltano(none)
    monkeypatch.setattr(SettingsService, "env", SettingsService.env)
    meltano_environment.use()
    assert cast(Any, SettingsService.env).fget(added) == meltano(added)
