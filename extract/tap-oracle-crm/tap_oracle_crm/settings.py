"""The tap's settings, with their types and bounds.

`config.resolve` converts, completes and checks the passed settings by this declaration. The SDK
shows it with `--about`, and tests compare `meltano.yml`, the README and the hub's definition.
"""

from __future__ import annotations

from typing import Any

from singer_sdk import typing as th

ENVIRONMENT = {
    "base_url": "ORACLE_BASE_URL",
    "username": "ORACLE_USER",
    "password": "ORACLE_PASS",
    "token_url": "ORACLE_TOKEN_URL",
    "client_id": "ORACLE_CLIENT_ID",
    "client_secret": "ORACLE_CLIENT_SECRET",
    "scope": "ORACLE_SCOPE",
    "limits_database_url": "TAP_ORACLE_CRM_LIMITS_DATABASE_URL",
}
"""The environment variable that is read if a setting is not passed."""
DEFAULT_FINDER = "MyOpportunitiesFinder;RecordSet='ALLOPTIES'"
"""All deals that the account may see."""
PERSONAL_DATA = ("PartyName1", "PartyName", "EmailAddress", "CreatedBy", "LastUpdatedBy")
"""The attributes that name people, of all streams."""
MONTH = 30 * 86_400
_NAMES = th.CustomType({"type": ["array", "string", "null"], "items": {"type": "string"}})


def _number(
    name: str, title: str, description: str, *, default: int, minimum: int, maximum: int
) -> th.Property[Any]:
    return th.Property(
        name,
        th.IntegerType(minimum=minimum, maximum=maximum),
        default=default,
        title=title,
        description=f"{description} From {minimum:,} to {maximum:,}.",
    )


SETTINGS = th.PropertiesList(
    th.Property(
        "base_url",
        th.StringType,
        title="Address of the pod",
        description="Address of the Oracle Fusion pod, such as https://crm.example.com. "
        "Needed; environment variable ORACLE_BASE_URL.",
    ),
    th.Property(
        "username",
        th.StringType,
        title="User",
        description="User name for basic authentication; ORACLE_USER.",
    ),
    th.Property(
        "password",
        th.StringType,
        secret=True,
        title="Password",
        description="Password for basic authentication; ORACLE_PASS.",
    ),
    th.Property(
        "token_url",
        th.StringType,
        title="Token endpoint",
        description="OAuth 2 token endpoint of the identity domain (client credentials); "
        "ORACLE_TOKEN_URL. When set, it is used instead of user and password.",
    ),
    th.Property(
        "client_id",
        th.StringType,
        title="Client id",
        description="OAuth 2 client id; ORACLE_CLIENT_ID.",
    ),
    th.Property(
        "client_secret",
        th.StringType,
        secret=True,
        title="Client secret",
        description="OAuth 2 client secret; ORACLE_CLIENT_SECRET.",
    ),
    th.Property(
        "scope",
        th.StringType,
        title="Scope",
        description="OAuth 2 scope; ORACLE_SCOPE.",
    ),
    th.Property(
        "api_version",
        th.StringType,
        default="latest",
        title="API version",
        description="Version in the API's path: `latest` or a fixed one such as 11.13.18.05.",
    ),
    _number(
        "framework_version",
        "REST framework version",
        "REST-Framework-Version to ask for; it decides how `q` is written.",
        default=4,
        minimum=1,
        maximum=9,
    ),
    th.Property(
        "finder",
        th.StringType,
        default=DEFAULT_FINDER,
        title="Finder",
        description="The `finder` parameter for opportunities: which record set the user sees. "
        "`none` sends none.",
    ),
    th.Property(
        "filter",
        th.StringType,
        title="Filter",
        description="A further condition on opportunities, in the language of `q`, such as "
        "CreationDate >= '2024-01-01T00:00:00Z'. It may be about what never changes alone: "
        "OptyId, OptyNumber, CreationDate, CreatedBy, PrimaryOrganizationId, and what "
        "fixed_attributes names.",
    ),
    th.Property(
        "fixed_attributes",
        _NAMES,
        title="Fixed attributes",
        description="Further attributes of opportunities that never change in this CRM, such "
        "as the mark of an import: filter may be about them, and finder have variables of "
        "these names.",
    ),
    th.Property(
        "start_date",
        th.DateTimeType,
        title="Start date",
        description="Records last changed before this moment are left out.",
    ),
    _number(
        "page_size",
        "Page size",
        "Rows to ask for at once; Oracle caps it silently, often at 499.",
        default=499,
        minimum=1,
        maximum=500,
    ),
    th.Property(
        "custom_fields",
        _NAMES,
        title="Custom fields",
        description="Custom attributes of opportunities that are always selected: a list or "
        "names with commas between. Upper and lower case do not matter where the CRM has one "
        "such name.",
    ),
    th.Property(
        "mapped_fields",
        _NAMES,
        title="Mapped fields",
        description="Custom attributes that a project around the tap maps to columns of its "
        "own: selected like those in custom_fields, which adds to them.",
    ),
    th.Property(
        "account_fields",
        _NAMES,
        title="Account fields",
        description="Attributes of accounts that are always selected where the stream accounts "
        "is. With it, the tap asks the CRM to describe accounts, too.",
    ),
    th.Property(
        "extra_property",
        th.StringType,
        title="Extra property",
        description="Name of a property of opportunities, and of accounts with account_fields, "
        "that holds all selected attributes but the built-in ones, as an object. Without it, "
        "each attribute is a property.",
    ),
    _number(
        "lookback_seconds",
        "Lookback",
        "How far before the bookmark to read again, for late commits and clocks that differ.",
        default=300,
        minimum=0,
        maximum=MONTH,
    ),
    _number(
        "clock_margin_seconds",
        "Clock margin",
        "How far the CRM's clock is trusted to be right: changes older than this are taken to be "
        "all there, and are not read again.",
        default=3_600,
        minimum=0,
        maximum=MONTH,
    ),
    th.Property(
        "timestamp_format",
        th.StringType,
        default="%Y-%m-%dT%H:%M:%SZ",
        title="Timestamp format",
        description="strftime format of timestamps (UTC) in `q`.",
    ),
    _number(
        "concurrency",
        "Concurrency",
        "Requests at once at most. The tap begins with 4, finds how many Oracle serves without "
        "throttling or getting slower, and sends no more.",
        default=8,
        minimum=1,
        maximum=32,
    ),
    _number(
        "calls_per_hour",
        "Calls per hour",
        "Requests in any hour at most. Half of them are sent as fast as Oracle serves them, "
        "the others are spread over the time. 0: no limit.",
        default=5_000,
        minimum=0,
        maximum=1_000_000,
    ),
    th.Property(
        "limits_database_url",
        th.StringType,
        secret=True,
        title="Database of limits",
        description="PostgreSQL address with the function share_crm_calls: runs with the same "
        "account share concurrency and calls_per_hour through it. Needs psycopg. Without it, each "
        "run has these limits for itself.",
    ),
    _number(
        "request_timeout",
        "Request time-out",
        "Seconds to wait for a complete answer.",
        default=90,
        minimum=1,
        maximum=3_600,
    ),
    _number(
        "max_retries",
        "Retries",
        "How often a request that failed is tried again.",
        default=8,
        minimum=0,
        maximum=100,
    ),
    _number(
        "max_backoff_seconds",
        "Longest back-off",
        "Longest pause between two tries, unless Oracle asks for a longer one.",
        default=60,
        minimum=1,
        maximum=3_600,
    ),
    _number(
        "max_runtime_seconds",
        "Run-time limit",
        "Stop cleanly after so many seconds; the next run goes on from there. 0: no limit.",
        default=0,
        minimum=0,
        maximum=MONTH,
    ),
    th.Property(
        "ca_bundle",
        th.StringType,
        title="CA bundle",
        description="File with the certificates of authorities to trust. Without it, "
        "REQUESTS_CA_BUNDLE or the well-known ones.",
    ),
    th.Property(
        "allow_http",
        th.BooleanType,
        default=False,
        title="Allow plain http",
        description="Send credentials over plain http to other hosts than this one.",
    ),
    th.Property(
        "allow_partial",
        th.BooleanType,
        default=False,
        title="Allow a part of the CRM",
        description="Let a first read pass that finds no opportunities at all, or fewer than "
        "the record set ALLOPTIES shows. It fails by default, since a wrong record set or "
        "missing rights look just like that.",
    ),
    th.Property(
        "omit_personal_data",
        th.BooleanType,
        default=False,
        title="Omit personal data",
        description="Do not read names, e-mails and user names of people: "
        f"{', '.join(PERSONAL_DATA)}. Rejected records do not have them either.",
    ),
    th.Property(
        "accept_language",
        th.StringType,
        title="Language",
        description="The Accept-Language header, such as en: the language of stages and other "
        "names. Without it, the account's own.",
    ),
    th.Property(
        "user_agent",
        th.StringType,
        default="tap-oracle-crm",
        title="User agent",
        description="The User-Agent header.",
    ),
)

SCHEMAS: dict[str, dict[str, Any]] = SETTINGS.to_dict()["properties"]
"""The JSON schema of each setting, with its default and bounds, by name."""
