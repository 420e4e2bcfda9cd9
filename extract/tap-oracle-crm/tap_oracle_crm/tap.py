"""The tap: its settings and its streams."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

from singer_sdk import Stream, Tap
from singer_sdk.helpers.capabilities import PluginCapabilities, TapCapabilities
from singer_sdk.singerlib.catalog import Metadata

from tap_oracle_crm import config, streams
from tap_oracle_crm.client import FEW_RETRIES, CrmClient
from tap_oracle_crm.discovery import (
    ABSENT,
    ATTACHMENT,
    annotations_of,
    attributes_of,
    is_name,
    match,
    schema_of,
)
from tap_oracle_crm.errors import (
    ConfigError,
    GaveUpError,
    OracleCrmError,
    RefusedError,
    StoppedError,
)
from tap_oracle_crm.settings import SETTINGS
from tap_oracle_crm.statuses import OpportunityStatuses
from tap_oracle_crm.stream import CrmStream
from tap_oracle_crm.writer import PageWriter

if TYPE_CHECKING:
    from types import FrameType

    from requests.adapters import BaseAdapter
    from singer_sdk.helpers.capabilities import CapabilitiesEnum

    from tap_oracle_crm.collection import CollectionStream

ROWS_TO_LEARN_FROM = 25
"""How many rows are searched for attributes if the CRM does not describe them."""


class TapOracleCRM(Tap):
    """Singer tap for Oracle Fusion CRM (CX Sales)."""

    name = "tap-oracle-crm"
    package_name = "tap-oracle-crm"
    dynamic_catalog = True
    message_writer_class = PageWriter
    adapter: BaseAdapter | None = None
    """Sends the requests; a test replaces it by one without sockets."""
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

    config_jsonschema: ClassVar[dict[str, Any]] = SETTINGS.to_dict()

    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        self._config = config.resolve(self._config)
        extra = self._config.get("extra_property")
        if extra in {*streams.Opportunities.attributes, *streams.Accounts.attributes}:
            raise ConfigError(f"extra_property: {extra} is an attribute; take another name.")
        return super()._validate_config(raise_errors=raise_errors)

    @cached_property
    def client(self) -> CrmClient:
        """The one HTTP client of this run."""
        return CrmClient(self.config, self.adapter)

    @property
    def writer(self) -> PageWriter:
        """Writes this run's messages."""
        return cast("PageWriter", self.message_writer)

    @cached_property
    def rejects(self) -> streams.RejectedRecords:
        """The stream of records that could not be loaded."""
        return cast("streams.RejectedRecords", self.streams["rejected_records"])

    def setup_mapper(self) -> None:
        """Let the maps start from the records' own schemas."""
        super().setup_mapper()
        for stream in self.streams.values():
            schema = stream.record_schema if isinstance(stream, CrmStream) else stream.schema
            self.mapper.register_raw_stream_schema(stream.name, schema, stream.primary_keys)

    def discover_streams(self) -> list[Stream]:
        """Return all streams; ask the CRM for its attributes unless there is a catalog."""
        return [
            self._opportunities(),
            OpportunityStatuses(self),
            streams.RevenueLines(self),
            streams.OpportunityTeam(self),
            self._accounts(),
            streams.Resources(self),
            streams.OpportunityAttributes(self),
            streams.RejectedRecords(self),
        ]

    def _opportunities(self) -> Stream:
        wanted = [*self.config["mapped_fields"], *self.config["custom_fields"]]
        return self._with_attributes(streams.Opportunities, wanted)

    def _accounts(self) -> Stream:
        wanted = self.config["account_fields"]
        return self._with_attributes(streams.Accounts, wanted) if wanted else streams.Accounts(self)

    def _with_attributes(self, stream: type[CollectionStream], wanted: list[str]) -> Stream:
        """Return a stream with all attributes that the CRM has; the wanted ones are selected."""
        entry = self.input_catalog.get_stream(stream.name) if self.input_catalog else None
        if entry:
            return stream(self, schema=entry.schema.to_dict())
        try:
            described, annotations = self._described(stream)
            names = described or dict.fromkeys(self._names_in_rows(stream), "string")
        except StoppedError:
            msg = (
                "The CRM did not list its attributes within the run-time limit of "
                f"{self.config['max_runtime_seconds']} s (setting max_runtime_seconds): nothing "
                "was read."
            )
            raise OracleCrmError(msg) from None
        custom = self._wanted(stream, wanted, names, others_are_absent=bool(described))
        known = {
            name: kind
            for name, kind in stream.attributes.items()
            if name in names
            or name in stream.needed
            or not (described or name in stream.asked_if_described)
        }
        others = {name: kind for name, kind in names.items() if kind != ATTACHMENT} | custom
        types = {**known, **{n: kind for n, kind in others.items() if n not in known}}
        made = stream(self, schema=schema_of(types, [stream.key], annotations))
        always = {*custom, *stream.automatic}
        for breadcrumb, metadata in made.metadata.items():
            if breadcrumb and isinstance(metadata, Metadata):
                attribute = breadcrumb[-1]
                if attribute in always:
                    metadata.inclusion = Metadata.InclusionType.AUTOMATIC
                elif attribute not in stream.attributes:
                    metadata.selected_by_default = False
        return made

    def _wanted(
        self,
        stream: type[CollectionStream],
        wanted: list[str],
        names: Mapping[str, str],
        *,
        others_are_absent: bool,
    ) -> dict[str, str]:
        """Return name and type of the configured attributes, as the CRM spells them."""
        what = "Custom field" if stream is streams.Opportunities else "Account field"
        custom: dict[str, str] = {}
        for name in wanted:
            found, alike = match(name, names)
            if found:
                custom[found] = names[found]
                if alike:
                    twins = ", ".join(alike)
                    self.logger.warning("Of %s and %s, %s is read", found, twins, found)
            elif others_are_absent:
                custom[name] = ABSENT
                hint = f"; alike are {', '.join(alike)}" if alike else ""
                self.logger.warning(
                    "%s %s does not exist in this CRM: it is null%s", what, name, hint
                )
            else:
                custom[name] = "string"
        return custom

    def _described(
        self, stream: type[CollectionStream]
    ) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """Return the types and the annotations of the attributes; empty if the CRM gives none."""
        described: dict[str, str] = {}
        annotations: dict[str, dict[str, str]] = {}
        try:
            answer = self.client.describe(stream.path)
            described = attributes_of(answer, stream.path)
            annotations = annotations_of(answer, stream.path)
            reason = "its answer names none"
        except (RefusedError, GaveUpError) as error:
            if not error.is_this_request:
                raise
            reason = error.cause
        if not described:
            self.logger.warning(
                "The CRM does not list the attributes of %s (%s): only the built-in "
                "ones and those in some rows are read, the latter as text",
                stream.path,
                reason,
            )
        return described, annotations

    def _names_in_rows(self, stream: type[CollectionStream]) -> set[str]:
        """Return the attributes of a few rows; empty if none can be read."""
        reader = stream(self).reader()
        try:
            rows = reader.client.page(
                reader.collection.resource,
                q=reader.collection.query.q(),
                finder=reader.collection.finder,
                limit=ROWS_TO_LEARN_FROM,
                retries=FEW_RETRIES,
            ).items
        except (RefusedError, GaveUpError) as error:
            if not error.is_this_request:
                raise
            return set()
        shown = {name for row in rows if isinstance(row, dict) for name in row if is_name(name)}
        return shown - {"links"}

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        """Stop at once, but never in the middle of a message; the state is still written."""
        self.logger.warning("Stopped by %s", signal.Signals(signum).name)
        self.writer.exit(128 + signum)
