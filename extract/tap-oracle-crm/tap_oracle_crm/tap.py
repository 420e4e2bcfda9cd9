"""The tap: its settings and its streams."""

from __future__ import annotations

import signal
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

from singer_sdk import Stream, Tap
from singer_sdk import typing as th
from singer_sdk.helpers.capabilities import PluginCapabilities, TapCapabilities
from singer_sdk.singerlib.catalog import Metadata

from tap_oracle_crm import settings, streams
from tap_oracle_crm.client import FEW_RETRIES, CrmClient
from tap_oracle_crm.discovery import ABSENT, attributes_of, match, schema_of
from tap_oracle_crm.errors import GaveUpError, OracleCrmError, RefusedError, StoppedError
from tap_oracle_crm.query import Query
from tap_oracle_crm.writer import PageWriter

if TYPE_CHECKING:
    from types import FrameType

    from singer_sdk.helpers.capabilities import CapabilitiesEnum

ROWS_TO_LEARN_FROM = 5


class TapOracleCRM(Tap):
    """Singer tap for Oracle Fusion CRM (CX Sales)."""

    name = "tap-oracle-crm"
    package_name = "tap-oracle-crm"
    dynamic_catalog = True
    message_writer_class = PageWriter
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        TapCapabilities.CATALOG,
        TapCapabilities.STATE,
        TapCapabilities.DISCOVER,
        TapCapabilities.ACTIVATE_VERSION,
        PluginCapabilities.ABOUT,
        PluginCapabilities.STREAM_MAPS,
        PluginCapabilities.FLATTENING,
        PluginCapabilities.STRUCTURED_LOGGING,
    ]

    config_jsonschema: ClassVar[dict[str, Any]] = th.PropertiesList(
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
        th.Property(
            "framework_version",
            th.IntegerType,
            default=4,
            title="REST framework version",
            description="REST-Framework-Version to ask for, 1 to 9; it decides how `q` is written.",
        ),
        th.Property(
            "finder",
            th.StringType,
            default=settings.DEFAULTS["finder"],
            title="Finder",
            description="The `finder` parameter for opportunities: which record set the user sees. "
            "`none` sends none.",
        ),
        th.Property(
            "filter",
            th.StringType,
            title="Filter",
            description="A further condition on opportunities, in the language of `q`, such as "
            "StatusCode = 'OPEN'.",
        ),
        th.Property(
            "start_date",
            th.DateTimeType,
            title="Start date",
            description="Records last changed before this moment are left out.",
        ),
        th.Property(
            "page_size",
            th.IntegerType,
            default=499,
            title="Page size",
            description="Rows to ask for at once; Oracle caps it silently, often at 499.",
        ),
        th.Property(
            "custom_fields",
            th.CustomType({"type": ["array", "string", "null"], "items": {"type": "string"}}),
            title="Custom fields",
            description="Custom attributes of opportunities that are always selected: a list or "
            "names with commas between. Upper and lower case do not matter.",
        ),
        th.Property(
            "lookback_seconds",
            th.IntegerType,
            default=300,
            title="Lookback",
            description="How far before the bookmark to read again, for late commits and clocks "
            "that differ.",
        ),
        th.Property(
            "clock_margin_seconds",
            th.IntegerType,
            default=3600,
            title="Clock margin",
            description="How far the CRM's clock is trusted to be right: changes older than this "
            "are taken to be all there, and are not read again.",
        ),
        th.Property(
            "timestamp_format",
            th.StringType,
            default=settings.DEFAULTS["timestamp_format"],
            title="Timestamp format",
            description="strftime format of timestamps (UTC) in `q`.",
        ),
        th.Property(
            "concurrency",
            th.IntegerType,
            default=4,
            title="Concurrency",
            description="Requests at once at most; fewer while Oracle throttles.",
        ),
        th.Property(
            "request_timeout",
            th.IntegerType,
            default=90,
            title="Request time-out",
            description="Seconds to wait for a complete answer.",
        ),
        th.Property(
            "max_retries",
            th.IntegerType,
            default=8,
            title="Retries",
            description="How often a request that failed is tried again.",
        ),
        th.Property(
            "max_backoff_seconds",
            th.IntegerType,
            default=60,
            title="Longest back-off",
            description="Longest pause between two tries, unless Oracle asks for a longer one.",
        ),
        th.Property(
            "max_runtime_seconds",
            th.IntegerType,
            default=0,
            title="Run-time limit",
            description="Stop cleanly after so many seconds; the next run goes on from there. "
            "0: no limit.",
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
    ).to_dict()

    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        self._config = settings.resolve(self._config)
        return super()._validate_config(raise_errors=raise_errors)

    @cached_property
    def client(self) -> CrmClient:
        """The one HTTP client of this run."""
        return CrmClient(self.config)

    @property
    def writer(self) -> PageWriter:
        """Writes this run's messages."""
        return cast("PageWriter", self.message_writer)

    @cached_property
    def rejects(self) -> streams.RejectedRecords:
        """The stream that tells of records that could not be loaded."""
        return cast("streams.RejectedRecords", self.streams["rejected_records"])

    def discover_streams(self) -> list[Stream]:
        """Return all streams; asks the CRM for its attributes unless a catalog tells them."""
        return [
            self._opportunities(),
            streams.OpportunityKeys(self),
            streams.RevenueLines(self),
            streams.OpportunityTeam(self),
            streams.Accounts(self),
            streams.Resources(self),
            streams.RejectedRecords(self),
        ]

    def _opportunities(self) -> streams.Opportunities:
        name = streams.Opportunities.name
        entry = self.input_catalog.get_stream(name) if self.input_catalog else None
        if entry:
            return streams.Opportunities(self, schema=entry.schema.to_dict())
        types, custom = self._opportunity_attributes()
        stream = streams.Opportunities(self, schema=schema_of(types, [streams.Opportunities.key]))
        always = {*custom, *streams.Opportunities.automatic}
        for breadcrumb, metadata in stream.metadata.items():
            if breadcrumb and isinstance(metadata, Metadata):
                attribute = breadcrumb[-1]
                if attribute in always:
                    metadata.inclusion = Metadata.InclusionType.AUTOMATIC
                elif attribute not in streams.Opportunities.attributes:
                    metadata.selected_by_default = False
        return stream

    def _opportunity_attributes(self) -> tuple[dict[str, str], list[str]]:
        """Return the type of each attribute of opportunities, and the custom ones to select."""
        known = dict(streams.Opportunities.attributes)
        wanted: list[str] = self.config["custom_fields"]
        try:
            described = self._described()
            if not described:
                shown = self._shown_attributes() if wanted else []
                wanted = [match(name, shown)[0] or name for name in wanted]
                return {**known, **dict.fromkeys(wanted, "string")}, wanted
        except StoppedError:
            msg = (
                "The CRM did not tell its attributes within the run-time limit of "
                f"{self.config['max_runtime_seconds']} s (setting max_runtime_seconds): nothing "
                "was read."
            )
            raise OracleCrmError(msg) from None
        custom = []
        absent: dict[str, str] = {}
        for name in wanted:
            found, alike = match(name, described)
            if found:
                custom.append(found)
                continue
            hint = f"; alike are {', '.join(alike)}" if alike else ""
            self.logger.warning(
                "Custom field %s does not exist in this CRM: it is null%s", name, hint
            )
            absent[name] = ABSENT
        needed = {"OptyId", "LastUpdateDate", "OptyNumber"}
        types = {name: kind for name, kind in known.items() if name in described or name in needed}
        others = {name: described[name] for name in described if name not in known}
        return types | others | absent, [*custom, *absent]

    def _described(self) -> dict[str, str]:
        """Return name and type of each attribute; empty where the CRM does not tell."""
        cause = "describe has none"
        try:
            described = attributes_of(self.client.describe("opportunities"), "opportunities")
        except (RefusedError, GaveUpError) as error:
            if not error.is_this_request:
                raise
            described, cause = {}, error.cause
        if not described:
            self.logger.warning(
                "The CRM does not tell which attributes opportunities have (%s): the standard ones "
                "and the configured custom fields, as text, have to do", cause,
            )  # fmt: skip
        return described

    def _shown_attributes(self) -> list[str]:
        """Return the attributes that a few opportunities show when none is asked for by name."""
        query = Query(
            self.config["framework_version"], self.config["timestamp_format"],
            self.config.get("filter"), streams.Opportunities.key, streams.Opportunities.changed,
        )  # fmt: skip
        finder = self.config["finder"]
        try:
            page = self.client.page(
                streams.Opportunities.path,
                q=query.q(),
                finder=None if finder.lower() == "none" else finder,
                limit=ROWS_TO_LEARN_FROM,
                retries=FEW_RETRIES,
            )
        except (RefusedError, GaveUpError) as error:
            if not error.is_this_request:
                raise
            return []
        return list(dict.fromkeys(name for row in page.items if type(row) is dict for name in row))

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        """Stop at once, but never in the middle of a message; state is written on the way out."""
        self.logger.warning("Stopped by %s", signal.Signals(signum).name)
        self.writer.leave(128 + signum)
