"""Where the project lies, and how a setting is looked up.

The environment comes first, then `.env`, then the folder that SECRETS_DIR names: a file in it
holds the setting it is named after, as container engines and systemd hand over secrets.
ORACLE_CRM_SYNC_ENV_FILE names another file than `.env`.
"""

import os
from functools import cache
from pathlib import Path

from dotenv import dotenv_values

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / ".data"
DEFAULT_CRM_FILE = "crm.yml"
DEFAULT_LATE_HOURS = 26
DBT_SETTINGS = {
    "ORACLE_PRACTICE_FIELD": "Practice_c",
    "ORACLE_GEO_FIELD": "GEO_c",
    "ORACLE_REGION_FIELD": "Region_c",
    "ORACLE_SECTOR_FIELD": "Sector_c",
    "SYNC_MAX_DELETED_SHARE": "0.2",
    "SYNC_LOCK_TIMEOUT": "60",
}
"""The settings that dbt reads, and their defaults: it always finds them in its environment."""


def env_file() -> Path:
    """Return where `.env` lies."""
    return Path(os.environ.get("ORACLE_CRM_SYNC_ENV_FILE") or ROOT / ".env")


@cache
def _dotenv() -> dict[str, str | None]:
    return dotenv_values(env_file())


def _secrets() -> dict[str, str]:
    folder = os.environ.get("SECRETS_DIR") or _dotenv().get("SECRETS_DIR")
    files = sorted(Path(folder).iterdir()) if folder else []
    return {file.name.upper(): file.read_text().strip() for file in files if file.is_file()}


def setting(name: str) -> str | None:
    """Return a setting's value; an empty one counts as unset."""
    return os.environ.get(name) or _dotenv().get(name) or _secrets().get(name) or None


def export_settings() -> None:
    """Put what `.env` and the secrets' files say into the environment, for plugins to find."""
    for name in {**_secrets(), **_dotenv()}:
        if value := setting(name):
            os.environ[name] = value
