"""Where the project lies, and how a setting is looked up: the environment first, then `.env`."""

import os
from functools import cache
from pathlib import Path

from dotenv import dotenv_values

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / ".data"


@cache
def _dotenv() -> dict[str, str | None]:
    return dotenv_values(ROOT / ".env")


def setting(name: str) -> str | None:
    """Return a setting's value; an empty one counts as unset."""
    return os.environ.get(name) or _dotenv().get(name) or None
