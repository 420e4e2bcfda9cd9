"""The API's settings: the environment first, then `.env`, then files of secrets."""

from typing import Annotated

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from database.environment import env_file, setting


class Settings(BaseSettings):
    """What can be set; each field is the environment variable of its name in capitals.

    Where `SECRETS_DIR` names a folder, a file in it named after a setting holds that setting.
    """

    model_config = SettingsConfigDict(
        env_file=env_file(),
        env_ignore_empty=True,
        extra="ignore",
        secrets_dir=setting("SECRETS_DIR"),
    )

    api_host: str = "127.0.0.1"
    api_port: int = 8000
    api_cors_origins: Annotated[frozenset[str], NoDecode] = frozenset()
    """Origins whose pages may call the API, comma-separated; none by default."""
    api_pool_size: int = 10
    """Connections to the database that the API holds at most."""
    api_pool_timeout: float = 5
    """Seconds that a request waits for one of them."""
    api_statement_timeout: int = 30
    """Seconds after which a query is given up."""
    api_lock_timeout: int = 10
    """Seconds an edit waits for a merge that holds the same row."""
    oracle_webhook_secret: SecretStr | None = None
    """What the CRM proves its calls with; unset, they are refused."""
    webhook_quiet_seconds: float = 5
    """How long no call has come before the sync starts that they ask for."""
    metrics_token: SecretStr | None = None
    """A token that reads `/metrics` and nothing else."""

    notify_urls: SecretStr | None = None
    """Where to tell of failed, late and empty syncs and of rejects: Apprise URLs, by spaces."""
    notify_late_hours: int = 26
    """Hours without a successful sync after which one is late."""

    @field_validator("api_cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(part.strip().rstrip("/") for part in value.split(",") if part.strip())
        return value
