"""Meltano's settings read the environment when it has changed.

For each value that a setting could have, Meltano copies the whole environment, four thousand times
in a run, and each copy decodes each variable. That was a fifth of Meltano's own CPU in a run in
which nothing had changed.
"""

import os
from typing import Any

from meltano.core.settings_service import SettingsService


class Environment:
    """The variables of this process, decoded."""

    def __init__(self) -> None:
        """Decode nothing yet."""
        self._encoded: dict[Any, Any] = {}
        self._decoded: dict[str, str] = {}

    def of(self, settings: SettingsService) -> dict[str, str]:
        """Return a copy of the variables, with those that the settings add."""
        encoded: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
        if encoded != self._encoded:
            self._encoded, self._decoded = encoded.copy(), dict(os.environ)
        return self._decoded | settings.env_override


def use() -> None:
    """Let Meltano's settings use it."""
    SettingsService.env = property(Environment().of)  # type: ignore[assignment,method-assign]
