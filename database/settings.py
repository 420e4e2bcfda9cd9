"""Every setting: what it means, its type and its default. Declared here and nowhere else.

`.env.example` and `docs/settings.md` are written from this: `make settings`. Values come from
`database.environment`, which each run asks by name, since pydantic takes a third of a second to
import.
"""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, quote_plus, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    NonNegativeFloat,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from database.environment import DBT_SETTINGS, DEFAULT_CRM_FILE, DEFAULT_LATE_HOURS, setting

Days = Annotated[int, Field(ge=1, le=100_000)]
TO_FILL: JsonDict = {"to_fill": True}
"""Marks what most installations have to set."""


def _by_commas(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _origins(value: object) -> object:
    if isinstance(value, str):
        return [part.strip().rstrip("/") for part in value.split(",") if part.strip(" /")]
    return value


def _origin(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        url = HttpUrl(value)
    except ValidationError:
        url = None
    if url is None or url.username or url.path not in (None, "/") or url.query or url.fragment:
        raise ValueError("It must look like https://crm.example.com, without a path")
    return str(url).rstrip("/")


class _Group(BaseSettings):
    """Settings of one subject; each is the environment variable of its name in capitals."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *others: PydanticBaseSettingsSource,
        **named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Ask `database.environment`, as everything else does."""
        return init_settings, _Environment(settings_cls)


class _Environment(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return setting(field_name.upper()), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: setting(name.upper()) for name in self.settings_cls.model_fields}
        return {name: value for name, value in values.items() if value is not None}


class Crm(_Group):
    """The CRM."""

    oracle_base_url: str | None = Field(default=None, json_schema_extra=TO_FILL)
    """The address of your Oracle Fusion pod, with https. Required."""
    oracle_user: str | None = Field(default=None, json_schema_extra=TO_FILL)
    """The user name, for basic authentication."""
    oracle_pass: SecretStr | None = Field(default=None, json_schema_extra=TO_FILL)
    """The password of that user."""
    oracle_token_url: str | None = None
    """The address of the token endpoint. If it is set, OAuth 2 client credentials are used instead
    of user name and password."""
    oracle_client_id: str | None = None
    """The client's id, for OAuth 2."""
    oracle_client_secret: SecretStr | None = None
    """The client's secret, for OAuth 2."""
    oracle_scope: str | None = None
    """The scope to ask for, for OAuth 2."""

    oracle_practice_field: str = DBT_SETTINGS["ORACLE_PRACTICE_FIELD"]
    """The custom field in your CRM that holds the practice. If your CRM has no field of this name,
    the column stays empty."""
    oracle_geo_field: str = DBT_SETTINGS["ORACLE_GEO_FIELD"]
    """The same for the geo."""
    oracle_region_field: str = DBT_SETTINGS["ORACLE_REGION_FIELD"]
    """The same for the region."""
    oracle_sector_field: str = DBT_SETTINGS["ORACLE_SECTOR_FIELD"]
    """The same for the sector."""
    crm_file: str = DEFAULT_CRM_FILE
    """The file with what differs between customers: status codes, decisions, assessments."""


class Reading(_Group):
    """How the CRM is read.

    Each setting of the tap can be given as TAP_ORACLE_CRM_ and its name: see
    extract/tap-oracle-crm/README.md. These are changed most often.
    """

    tap_oracle_crm_custom_fields: str | None = Field(default=None, examples=["Budget_c,Tier_c"])
    """Further custom fields to read, separated by commas. They arrive in the column `custom`."""
    tap_oracle_crm_finder: str | None = Field(
        default=None, examples=["MyOpportunitiesFinder;RecordSet='ALLOPTIES'"]
    )
    """Which deals the account asks for."""
    tap_oracle_crm_filter: str | None = Field(
        default=None, examples=["CreationDate >= '2024-01-01T00:00:00Z'"]
    )
    """Which of them are wanted. Use only attributes that never change."""
    tap_oracle_crm_concurrency: str | None = Field(default=None, examples=["8"])
    """How many requests the CRM gets at once, at most. The tap finds how many it serves well."""
    tap_oracle_crm_calls_per_hour: str | None = Field(default=None, examples=["5000"])
    """How many requests the CRM gets in any hour, at most. 0: no limit."""
    tap_oracle_crm_max_runtime_seconds: str | None = Field(default=None, examples=["3600"])
    """Seconds after which a run stops cleanly. The next run continues from there."""
    tap_oracle_crm_omit_personal_data: bool = False
    """Whether to leave out names, e-mails and user names of people in the CRM, such as owners of
    deals. Housekeeping then also deletes what was read before."""


class Database(_Group):
    """The database."""

    database_url: SecretStr | None = Field(
        default=None, examples=["postgresql://user:password@host:5432/database"]
    )
    """The PostgreSQL database; percent-encode special characters. Through a socket:
    `postgresql://user@/database?host=/folder`. Parameters for the connection pools of other
    programs, such as `pgbouncer=true`, are ignored; other parameters that PostgreSQL does not know
    are an error. If it is not set, an embedded PostgreSQL is used, with its data in `.data/`."""
    database_direct_url: SecretStr | None = None
    """The server's own address, in the same format, if `DATABASE_URL` is the address of a
    connection pooler in transaction mode, such as PgBouncer or RDS Proxy. Everything then uses this
    one, since syncs and the API need sessions. The API has its own pool: see `API_POOL_SIZE`."""
    database_migrate_password: SecretStr | None = None
    """The password of the role `oracle_crm_migrate`, which owns the tables. It migrates, backs up,
    adopts and cleans up. `make roles` creates this role and the next four. A part whose password is
    not set uses the role of `DATABASE_URL`."""
    database_run_password: SecretStr | None = None
    """The password of the role `oracle_crm_run`, for Meltano, the scheduler and the alerts."""
    database_load_password: SecretStr | None = None
    """The password of the role `oracle_crm_load`, for the loader."""
    database_transform_password: SecretStr | None = None
    """The password of the role `oracle_crm_transform`, for dbt."""
    database_api_password: SecretStr | None = None
    """The password of the role `oracle_crm_api`, for the API and the console."""
    sync_max_deleted_share: Annotated[float, Field(ge=0, le=1)] = float(
        DBT_SETTINGS["SYNC_MAX_DELETED_SHARE"]
    )
    """The largest share of all deals that one reconcile may mark as deleted."""
    sync_lock_timeout: Annotated[int, Field(ge=1, le=86_400)] = int(
        DBT_SETTINGS["SYNC_LOCK_TIMEOUT"]
    )
    """Seconds that a sync waits for a lock that another session holds on a table or row. Then it
    fails and says who holds the lock; what is loaded stays, and the scheduler tries again."""


class Schedule(_Group):
    """The schedule."""

    schedule_timezone: str = "UTC"
    """The time zone of the schedules in `meltano.yml`, such as `Europe/Zurich`."""
    schedule_retry_minutes: Annotated[tuple[NonNegativeFloat, ...], BeforeValidator(_by_commas)] = (
        1,
        5,
        15,
    )
    """After how many minutes a failed sync is tried again, separated by commas."""


class Api(_Group):
    """The API and the console."""

    api_host: str = "127.0.0.1"
    """The address that the API listens on."""
    api_port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """The port that the API listens on."""
    api_public_url: Annotated[str | None, BeforeValidator(_origin)] = Field(
        default=None, examples=["https://crm.example.com"]
    )
    """The address that browsers use, without a path. Set it if a proxy is in front: the API then
    serves this host only (and the machine itself), checks the origin of changes by it, and with
    https sends its cookie by TLS only. Set the addresses of the proxies, too. Alerts link to the
    console if this is set for what sends them: scheduler, API and runs."""
    forwarded_allow_ips: str = "127.0.0.1"
    """The addresses of the proxies in front, separated by commas. The API believes them for whom
    they ask, and whether by https. If a proxy is missing here, all its users count as one address:
    wrong passwords that one of them tries for a name delay others with this name."""
    api_cors_origins: Annotated[frozenset[str], BeforeValidator(_origins)] = Field(
        default=frozenset(), examples=["https://bids.example.com"]
    )
    """The origins of other frontends that may call the API, separated by commas."""
    api_pool_size: Annotated[int, Field(ge=1)] = 10
    """How many connections to the database the API opens at most. One user gets a third of them;
    three of them do not serve lists and pages, but changes and `/health/ready`."""
    api_pool_timeout: Annotated[float, Field(gt=0)] = 5
    """Seconds that a request waits for a connection."""
    api_statement_timeout: Annotated[int, Field(ge=1)] = 30
    """Seconds after which a query is cancelled."""
    api_list_timeout: Annotated[float, Field(gt=0)] = 5
    """Seconds after which a list of deals, the board or the pipeline over time is given up, so that
    a search for a word that most deals have does not take the database from the others."""
    api_lock_timeout: Annotated[int, Field(ge=1)] = 10
    """Seconds that an edit waits for a merge that holds the same row."""
    oracle_webhook_secret: SecretStr | None = None
    """The secret with which the CRM signs its calls to `/api/webhooks/oracle`. If it is not set,
    these calls are refused."""
    webhook_quiet_seconds: Annotated[float, Field(ge=0)] = 5
    """Seconds without a further call after which the sync starts that the calls ask for."""
    api_keep_addresses: bool = True
    """Whether audit trail, log, sessions and tokens keep where users are: addresses and browsers.
    The address always counts for failed sign-ins, and for 30 days where a user signed in from."""
    metrics_token: SecretStr | None = None
    """A token that may read `/metrics` and nothing else."""


def _personal(url: SecretStr | None) -> SecretStr | None:
    if url is not None and not re.search(r"\{(email|name)\}", url.get_secret_value()):
        raise ValueError("it needs {email} or {name} in the place of the user")
    return url


def _roles(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
    return {group.strip(): role.strip() for group, _, role in pairs}


def _secure_address(issuer: str | None) -> str | None:
    if issuer is not None:
        parts = urlsplit(issuer)
        is_local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or (
            parts.scheme != "https" and not (parts.scheme == "http" and is_local)
        ):
            raise ValueError("give an address with https")
    return issuer


class SignIn(_Group):
    """How people sign in.

    With passwords of their own, with OpenID Connect, or with both. The runbook says what to set at
    the identity provider.
    """

    oidc_issuer: Annotated[str | None, AfterValidator(_secure_address)] = Field(
        default=None, examples=["https://login.example.com/realms/company"]
    )
    """The identity provider's issuer: the address before `/.well-known/openid-configuration`. If it
    is set, people can sign in there, with OpenID Connect. `API_PUBLIC_URL` has to be set, too."""
    oidc_client_id: str | None = None
    """The id of this application at the provider."""
    oidc_client_secret: SecretStr | None = None
    """Its secret, if the provider gave it one."""
    oidc_scopes: str = "openid profile email"
    """The scopes to ask for, separated by spaces. Some providers need one more for groups."""
    oidc_name_claim: str = "preferred_username"
    """The claim with the user's name. It is read at the first sign-in only."""
    oidc_groups_claim: str = "groups"
    """The claim with the user's groups."""
    oidc_roles: Annotated[
        dict[str, Literal["viewer", "assessor", "manager", "admin"]], BeforeValidator(_roles)
    ] = Field(default={}, examples=["crm-admins=admin,bid-managers=manager,sales=viewer"])
    """Which group has which role. The highest role of a user counts; who is in none of these
    groups cannot sign in."""
    password_sign_in: bool = True
    """Whether users sign in with passwords. If not, only admins can that
    `python -m api.users` created, for emergencies."""
    password_link_hours: Annotated[int, Field(ge=1, le=8760)] = 24
    """Hours for which a link to set a password is good that an admin made."""


class Notifications(_Group):
    """Notifications.

    The scheduler, the API and each run at its end look for what is wrong.
    """

    notify_urls: SecretStr | None = None
    """Where to report failed, late and empty syncs, rejects, many failed sign-ins, and a database
    that cannot be used: Apprise URLs, separated by spaces."""
    notify_late_hours: Annotated[int, Field(ge=1)] = DEFAULT_LATE_HOURS
    """Hours without a successful sync after which it is reported as late."""
    notify_success_url: SecretStr | None = None
    """An address that is called (GET) after each successful sync, whoever started it: a dead man's
    switch, which reports when the calls stay away."""
    digest_url: Annotated[SecretStr | None, AfterValidator(_personal)] = None
    """Where the daily digest of the page Today goes: an Apprise URL with `{email}` or `{name}` in
    the place of the user, such as `mailtos://user:password@mail.example.com?to={email}`. Each user
    chooses under *Account* whether to get one. Unset: none is sent."""
    digest_hour: Annotated[int, Field(ge=0, le=23)] = 7
    """From which hour on digests are sent, by the clock of SCHEDULE_TIMEZONE."""


class Housekeeping(_Group):
    """Housekeeping.

    For how many days rows are kept that the sync itself does not need.
    """

    sync_log_retention_days: Days = 365
    """Runs in the sync log, and incidents. The newest successful run stays, and so does what is not
    over."""
    reject_retention_days: Days = 90
    """Rejected records that have arrived without an error since."""
    raw_retention_days: Days = 90
    """Raw rows of deals that are deleted in the CRM. The merged rows stay."""
    change_retention_days: Days = 1095
    """The history of each deal. The last change of its workflow status stays."""
    token_retention_days: Days = 90
    """API tokens and sessions after they have expired or were revoked, and failed attempts to
    sign in."""
    address_retention_days: Days = 365
    """Where users were, addresses and browsers: in the audit trail, of sessions and tokens, and of
    failed attempts to sign in."""
    owner_retention_days: Days = 1095
    """Names and e-mails of owners of deals after the last change of their deals; they stay while a
    deal is open. They come back if the CRM sends them again, as in a full refresh, until the next
    housekeeping."""
    audit_retention_days: Days = 3650
    """The audit trail: who signed in, exported or changed something."""


class Secrets(_Group):
    """Secrets in files."""

    secrets_dir: str | None = Field(default=None, examples=["/run/secrets"])
    """A folder with a file for each secret, named after the setting (`oracle_pass`,
    `database_url`, ...), as container engines and systemd provide them. What is set otherwise comes
    first."""


GROUPS = (Crm, Reading, Database, Schedule, Api, SignIn, Notifications, Housekeeping, Secrets)


class Settings(Crm, Reading, Database, Schedule, Api, SignIn, Notifications, Housekeeping, Secrets):
    """All settings."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        needed = (self.oidc_client_id, self.oidc_roles, self.api_public_url)
        if self.oidc_issuer is not None and not all(needed):
            raise ValueError("OIDC_ISSUER needs OIDC_CLIENT_ID, OIDC_ROLES and API_PUBLIC_URL, too")
        if self.oidc_issuer is None and not self.password_sign_in:
            raise ValueError("Without OIDC_ISSUER, PASSWORD_SIGN_IN has to be true")
        return self


def secret_names() -> Iterator[str]:
    """Yield the environment variables that hold secrets."""
    for name, field in Settings.model_fields.items():
        if SecretStr in getattr(field.annotation, "__args__", ()):
            yield name.upper()


def secret_hider() -> Callable[[str], str]:
    """Return a function that replaces every secret of the settings in a text."""
    passwords = [
        urlsplit(setting(name) or "").password or ""
        for name in ("DATABASE_URL", "DATABASE_DIRECT_URL")
    ]
    secrets = {*passwords, *(setting(name) or "" for name in secret_names())}
    # In addresses they are percent-encoded.
    secrets |= {form(secret) for secret in secrets for form in (unquote, quote, quote_plus)}
    secrets -= {""}
    longest_first = sorted(secrets, key=len, reverse=True)

    def hide(text: str) -> str:
        for secret in longest_first:
            text = text.replace(secret, "***")
        return text

    return hide


def read_settings() -> Settings:
    """Read all settings.

    Raises:
        SystemExit: some are wrong: the message says which, and not what they were set to.
    """
    try:
        return Settings()
    except ValidationError as error:
        # Not pydantic's own words: they quote the value, which may be a secret.
        sys.exit("; ".join(": ".join([*_names(e), e["msg"]]) for e in error.errors()))


def _names(error: ErrorDetails) -> list[str]:
    """Return the setting that is wrong; none if several do not fit together."""
    return [str(place).upper() for place in error["loc"][:1]]
