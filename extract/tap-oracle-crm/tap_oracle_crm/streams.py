"""The streams and their built-in attributes."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from singer_sdk import Stream
from singer_sdk import typing as th

from tap_oracle_crm.children import ChildStream
from tap_oracle_crm.collection import CollectionStream
from tap_oracle_crm.records import clean_text, reject
from tap_oracle_crm.settings import PERSONAL_DATA

if TYPE_CHECKING:
    from tap_oracle_crm.stream import CrmStream
    from tap_oracle_crm.tap import TapOracleCRM

REJECTS_TOLD = 10
"""The most rejected records that the log shows one by one; the stream has all of them."""

STAMPS = {
    "CreationDate": "date-time",
    "CreatedBy": "string",
    "LastUpdateDate": "date-time",
    "LastUpdatedBy": "string",
}


class Opportunities(CollectionStream):
    """All opportunities of the record set."""

    name = "opportunities"
    path = "opportunities"
    key = "OptyId"
    uses_finder = True
    is_further = False
    automatic = ("OptyNumber",)
    needed = ("OptyId", "OptyNumber", "LastUpdateDate")
    asked_if_described = (
        "StageStatusCd",
        "LookupCategory",
        "PartyName1",
        "CrmConversionRate",
        "CrmCurcyCode",
    )
    attributes: ClassVar = {
        "OptyId": "integer",
        "OptyNumber": "string",
        "Name": "string",
        "TargetPartyId": "integer",
        "TargetPartyName": "string",
        "Revenue": "number",
        "CurrencyCode": "string",
        "WinProb": "number",
        "SalesStage": "string",
        "StatusCode": "string",
        "StageStatusCd": "string",
        "LookupCategory": "string",
        "EffectiveDate": "date",
        "OwnerResourcePartyId": "integer",
        "PartyName1": "string",
        "CrmConversionRate": "number",
        "CrmCurcyCode": "string",
        **STAMPS,
    }

    @property
    def extra_property(self) -> str | None:
        """The property that holds, in an object, all attributes that are not built in."""
        return self.config.get("extra_property")

    def get_child_context(self, record: dict[str, Any], context: Any) -> dict[str, Any] | None:
        """Return nothing: children are read page by page, see `ChildStream.emit_of`."""
        return None


class Accounts(CollectionStream):
    """Accounts: the customers that opportunities are for."""

    name = "accounts"
    path = "accounts"
    key = "PartyId"
    selected_by_default = False
    needed = ("PartyId", "LastUpdateDate")
    attributes: ClassVar = {
        "PartyId": "integer",
        "PartyNumber": "string",
        "OrganizationName": "string",
        "Type": "string",
        "OwnerPartyId": "integer",
        **STAMPS,
    }

    @property
    def extra_property(self) -> str | None:
        """The property that holds, in an object, all attributes that are not built in."""
        return self.config.get("extra_property") if self.config["account_fields"] else None


class Resources(CollectionStream):
    """Resources: the owners of opportunities, with PartyId as their key."""

    name = "resources"
    path = "resources"
    key = "PartyId"
    selected_by_default = False
    attributes: ClassVar = {
        "PartyId": "integer",
        "PartyNumber": "string",
        "PartyName": "string",
        "EmailAddress": "string",
        "ResourceProfileId": "integer",
        **STAMPS,
    }


class RevenueLines(ChildStream):
    """The revenue lines of changed opportunities."""

    name = "revenue_lines"
    path = "ChildRevenue"
    key = "RevnId"
    parent_stream_type = Opportunities
    selected_by_default = False
    attributes: ClassVar = {
        "RevnId": "integer",
        "OptyId": "integer",
        "RevnAmount": "number",
        "RevnAmountCurcyCode": "string",
        "Quantity": "number",
        "WinProb": "number",
        "StatusCode": "string",
        "ProdGroupName": "string",
        "EffectiveDate": "date",
        "ActualCloseDate": "date",
        **STAMPS,
    }


class OpportunityTeam(ChildStream):
    """The sales team members of changed opportunities."""

    name = "opportunity_team"
    path = "OpportunityResource"
    key = "OptyResourceId"
    parent_stream_type = Opportunities
    selected_by_default = False
    attributes: ClassVar = {
        "OptyResourceId": "integer",
        "OptyId": "integer",
        "ResourceId": "integer",
        "PartyName": "string",
        "EmailAddress": "string",
        "MemberFunctionCode": "string",
        "OwnerFlag": "boolean",
        **STAMPS,
    }


class OpportunityAttributes(Stream):
    """The attributes that the CRM's description of opportunities lists, in one record.

    With `account_fields`, there is a second record, of accounts. The attributes are the catalog's,
    so they cost no request. What the CRM did not describe has no record: the last list stays.
    """

    name = "opportunity_attributes"
    primary_keys = ("resource",)
    selected_by_default = False
    schema = th.PropertiesList(
        th.Property("resource", th.StringType, required=True),
        th.Property(
            "attributes",
            th.StringType,
            required=True,
            description="JSON text: objects with `name`, `label` and the CRM's own `type`",
        ),
    ).to_dict()

    def __init__(self, tap: TapOracleCRM) -> None:
        super().__init__(tap)
        self.tap = tap

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        """Return a record for each resource that the CRM has described."""
        for stream in (Opportunities, Accounts):
            properties = self.tap.streams[stream.name].schema["properties"]
            listed = [
                {"name": name, "label": schema["title"], "type": schema["description"]}
                for name, schema in sorted(properties.items())
                if "title" in schema
            ]
            if listed:
                text = json.dumps(listed, ensure_ascii=False)
                yield {"resource": stream.path, "attributes": str(clean_text(text))}


class RejectedRecords(Stream):
    """Records that cannot be loaded, with all their data and the reason; see `records`."""

    name = "rejected_records"
    primary_keys = ("id",)
    schema = th.PropertiesList(
        th.Property("id", th.StringType, required=True, description="Same at each rejection"),
        th.Property("stream", th.StringType, required=True, description="Where it belongs"),
        th.Property("remote_id", th.StringType, description="Its key, where it has one"),
        th.Property("reason", th.StringType, required=True, description="In words for people"),
        th.Property("payload", th.StringType, required=True, description="JSON text as received"),
        th.Property("rejected_at", th.DateTimeType, required=True),
    ).to_dict()

    def __init__(self, tap: TapOracleCRM) -> None:
        super().__init__(tap)
        self.tap = tap
        self._announced = False
        self._told = 0
        self._counter = self.get_record_counter()

    def add(self, stream: CrmStream, row: Any, reason: str, key: str | None = None) -> None:
        """Write the rejection of another stream's row; `key` names the attribute with its key."""
        if self.config["omit_personal_data"] and isinstance(row, dict):
            row = {name: value for name, value in row.items() if name not in PERSONAL_DATA}
        record = reject(stream.name, row, key or stream.key, reason)
        if self._told < REJECTS_TOLD:
            self._told += 1
            where = record["remote_id"] or "without a key"
            stream.log("Rejected record %s: %s", where, record["reason"], level=logging.WARNING)
            if self._told == REJECTS_TOLD:
                stream.log("Further rejected records are not logged one by one")
        self._counter.increment()
        if self.selected:
            if not self._announced:
                self._write_schema_message()
            self._write_record_message(record)

    def log_count(self) -> None:
        """Log the number of records rejected since it was last logged."""
        if self._counter.value:
            self._counter.exit()

    def _write_schema_message(self) -> None:
        self._announced = True
        super()._write_schema_message()

    def _sync_records(
        self, context: Any = None, *, write_messages: bool = True
    ) -> Generator[dict[str, Any], Any, Any]:
        yield from ()  # they are written along with the records of other streams
        self._counter.exit()

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        """Return nothing: see `add`."""
        return ()
