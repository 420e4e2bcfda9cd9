"""Requests and answers of the endpoints of opportunities."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from api.problems import Problem
from api.spreadsheets import Format
from api.types import AnyOf, Day, Id, Input, Money, Text, Utc


class SortKey(StrEnum):
    """The sort keys of a list: a column, or how well a row fits the search."""

    RELEVANCE = "relevance"
    ID = "id"
    REMOTE_ID = "remote_id"
    OPTY_NUMBER = "opty_number"
    NAME = "name"
    CUSTOMER = "customer"
    PRACTICE = "practice"
    GEO = "geo"
    REGION = "region"
    SECTOR = "sector"
    DEAL_VALUE = "deal_value"
    REPORTING_VALUE = "reporting_value"
    CURRENCY = "currency"
    WIN_PROBABILITY = "win_probability"
    SALES_OWNER = "sales_owner"
    STAGE = "stage"
    STATUS_CODE = "status_code"
    CRM_OUTCOME = "crm_outcome"
    WORKFLOW_STATUS = "workflow_status"
    CLOSE_DATE = "close_date"
    REMOTE_CREATED_AT = "remote_created_at"
    REMOTE_UPDATED_AT = "remote_updated_at"
    FIRST_SYNCED_AT = "first_synced_at"
    LAST_SYNCED_AT = "last_synced_at"
    DELETED_AT = "deleted_at"


# More columns might not fit into the address.
MOST_EXPORTED = 200
# More ids might not fit, either.
MOST_CHOSEN = 500
BUILT_IN_KEYS = frozenset(SortKey)
# The customer's own fields, too: see api.fields.
Sort = Annotated[str, Field(pattern="^-?[a-z][a-z0-9_]*$", max_length=60)]


# What counts as open: a deal with an unknown outcome, too.
OPEN: list[Literal["OPEN", "WON", "LOST", "CLOSED", "UNKNOWN"]] = ["OPEN", "UNKNOWN"]


class Filters(Input):
    """Which opportunities are meant: those that fulfil every condition given.

    What it does not know may be a parameter of the customer's own fields: `api.fields` checks that.
    """

    model_config = ConfigDict(extra="allow")
    MOST_UNKNOWN = 50

    search: Text | None = Field(
        None,
        description="Words in the name or the customer; accents, case and small slips of the pen "
        "don't matter. Or an OptyNumber or OptyId: whole, or how it begins, if that has four "
        "digits in a row.",
        examples=["societe generale"],
    )
    id: list[Id] = Field([], max_length=MOST_CHOSEN, description="Any of these opportunities")
    stage: AnyOf = Field([], description="Any of these sales stages", examples=[["03 - Proposal"]])
    workflow_status: AnyOf = Field([], description="Any of these", examples=[["NEW", "ASSIGNED"]])
    crm_outcome: list[Literal["OPEN", "WON", "LOST", "CLOSED", "UNKNOWN"]] = Field(
        [],
        max_length=50,
        description="Any of these; `UNKNOWN`: nobody knows what the CRM's code means",
    )
    sales_owner: AnyOf = Field([], description="Any of these owners")
    practice: AnyOf = Field([], description="Any of these practices")
    geo: AnyOf = Field([], description="Any of these")
    region: AnyOf = Field([], description="Any of these")
    sector: AnyOf = Field([], description="Any of these")
    currency: AnyOf = Field([], description="Any of these currencies", examples=[["EUR"]])
    missing: list[Literal["stage", "practice", "currency", "rate"]] = Field(
        [],
        max_length=50,
        description="Those that have none of these values; `rate`: whose value can't be converted",
    )
    assigned_to: list[Id] = Field([], max_length=50, description="Any of these users")
    taking_part: list[Id] = Field(
        [], max_length=50, description="In which any of these users has a part"
    )
    waiting_for: Literal["me"] | None = Field(None, description="Those that I can vote on")
    late: bool = Field(
        False,
        description="Only open ones that have their state for longer than crm.yml says",
    )
    outliers: Literal["only", "without"] | None = Field(
        None,
        description="Only those, or all but those, whose value is more than 100 times the 99th "
        "percentile of the open deals: in the reporting currency, else among those of its currency",
    )
    min_value: Money | None = Field(None, description="Least deal value, inclusive")
    max_value: Money | None = Field(None, description="Greatest deal value, inclusive")
    min_reporting_value: Money | None = Field(
        None, description="Least value in the reporting currency, inclusive"
    )
    max_reporting_value: Money | None = Field(
        None, description="Greatest value in the reporting currency, inclusive"
    )
    closing_before: Day | None = Field(None, description="Last close date, inclusive")
    closing_after: Day | None = Field(None, description="First close date, inclusive")
    updated_since: Utc | None = Field(
        None, description="Changed in the CRM then or later; UTC where no offset is given"
    )
    include_deleted: bool = Field(False, description="Also those that are gone from the CRM")


class Listing(Filters):
    """A list: which opportunities, and in which order."""

    sort: Sort | None = Field(
        None,
        description="A column, with `-` before it for descending; what has no value comes last. "
        "By default `-relevance` for a search, else `id`, in which no sync moves a row.",
        examples=["-deal_value"],
    )

    @model_validator(mode="after")
    def _relevance_is_of_a_search(self) -> Self:
        if self.sort is not None and self.key == SortKey.RELEVANCE and self.search is None:
            raise ValueError("sort by relevance needs a search")
        return self

    @property
    def key(self) -> str:
        """The list's sort key: a SortKey, or the name of an own field."""
        if self.sort is None:
            return SortKey.ID if self.search is None else SortKey.RELEVANCE
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        """Whether the greatest comes first."""
        return self.key == SortKey.RELEVANCE if self.sort is None else self.sort.startswith("-")


class PageRequest(Listing):
    """A page of a list."""

    limit: int = Field(50, ge=1, le=1000)
    cursor: str | None = Field(
        None, max_length=2000, description="`next_cursor` of the page before, with the same filters"
    )


class Export(Listing):
    """What to export, and how."""

    format: Format = Field(
        Format.CSV,
        description="`csv`: a table as text; `ndjson`: for programs, a JSON object on each line; "
        "`xlsx`: a workbook with titles, real dates, and names instead of ids",
    )
    columns: list[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$", max_length=50)]] = Field(
        [],
        max_length=MOST_EXPORTED,
        description="Of a table or a workbook: names of fields, in this order; nothing: all",
        examples=[["remote_id", "name", "deal_value"]],
    )
    separator: Literal["comma", "semicolon", "tab"] = Field(
        "comma", description="Of the cells in CSV; many countries' spreadsheets want `semicolon`"
    )
    byte_order_mark: bool = Field(
        False, description="Whether CSV begins with one, by which Excel finds out that it is UTF-8"
    )

    @model_validator(mode="after")
    def _options_fit_the_format(self) -> Self:
        if self.columns and self.format is Format.NDJSON:
            raise ValueError("ndjson has all fields: leave columns out")
        if self.format is not Format.CSV and (self.separator != "comma" or self.byte_order_mark):
            raise ValueError("separator and byte_order_mark are of the format csv")
        return self


class Opportunity(BaseModel):
    """An opportunity: the CRM's fields, and the bid team's `workflow_status`."""

    id: int = Field(description="Stable for ever")
    remote_id: str = Field(description="OptyId, as text: it outgrows JavaScript's integers")
    opty_number: str | None
    name: str | None
    customer: str | None
    practice: str | None
    geo: str | None
    region: str | None
    sector: str | None
    deal_value: float | None
    currency: str | None
    reporting_value: float | None = Field(
        description="`deal_value` in `reporting_currency`; null: no rate is known"
    )
    reporting_currency: str | None = Field(
        description="The one that crm.yml declares to compare and add up deals; null: none"
    )
    win_probability: float | None = Field(description="Percent")
    sales_owner: str | None
    sales_owner_name: str | None = Field(description="Where the pipeline reads `resources`")
    stage: str | None
    status_code: str | None
    crm_outcome: Literal["OPEN", "WON", "LOST", "CLOSED"] | None = Field(
        description="What the CRM says of the deal, whatever its codes are called. Null: nobody "
        "knows what the code means; the deal counts as open"
    )
    workflow_status: str
    close_date: date | None
    remote_created_at: datetime | None
    remote_updated_at: datetime | None
    first_synced_at: datetime
    last_synced_at: datetime
    deleted_at: datetime | None = Field(description="Since when it is gone from the CRM")
    assigned_to: int | None = Field(description="The user who works on it")
    custom: dict[str, Any] = Field(
        description="The fields of your own that crm.yml declares, by name; in a list those whose "
        "place is `list`. A deal that could not be loaded since its field got another type still "
        "has the value from before"
    )

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": 42,
                "remote_id": "300000012345678",
                "opty_number": "CDRM_1042",
                "name": "Data centre renewal",
                "customer": "Example AG",
                "practice": "Cloud",
                "geo": "EMEA",
                "region": "DACH",
                "sector": "Manufacturing",
                "deal_value": 1250000.5,
                "currency": "USD",
                "reporting_value": 1150000.46,
                "reporting_currency": "EUR",
                "win_probability": 60,
                "sales_owner": "300000000000017",
                "sales_owner_name": "Mira Kowalchik",
                "stage": "03 - Proposal",
                "status_code": "OPEN",
                "crm_outcome": "OPEN",
                "workflow_status": "NEW",
                "close_date": "2026-09-30",
                "remote_created_at": "2026-01-12T08:15:00+00:00",
                "remote_updated_at": "2026-02-03T14:00:00+00:00",
                "first_synced_at": "2026-02-04T00:00:03.120543+00:00",
                "last_synced_at": "2026-02-04T00:00:03.120543+00:00",
                "deleted_at": None,
                "assigned_to": 3,
                "custom": {},
            }
        }
    )


class Page(BaseModel):
    """A page of a list."""

    items: list[Opportunity]
    total: int = Field(description="How many the list had when its first page was read")
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page")


class OpportunityChange(Input):
    """The changes of an opportunity; a field that is missing stays as it is."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    workflow_status: Text | SkipJsonSchema[None] = Field(
        None, description="See GET /api/workflow", examples=["ASSIGNED"]
    )
    assigned_to: Id | None = Field(None, description="A user; null: nobody", examples=[3])

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set & OpportunityChange.model_fields.keys():
            raise ValueError("give workflow_status or assigned_to")
        if "workflow_status" in self.model_fields_set and self.workflow_status is None:
            raise ValueError("workflow_status can't be null")
        return self


class PastChange(BaseModel):
    """A past change of an opportunity."""

    id: int
    field: str = Field(examples=["stage"])
    old_value: str | None = Field(examples=["02 - Discovery"])
    new_value: str | None = Field(examples=["03 - Proposal"])
    changed_at: datetime
    changed_by: str | None = Field(description="A user; null: the CRM")


class HistoryRequest(BaseModel):
    """Which changes are wanted."""

    before: Id | None = Field(None, description="Changes older than this one")
    limit: int = Field(100, ge=1, le=1000)


class MoveRefused(Problem):
    """Refused by the workflow."""

    allowed: list[str] | None = Field(
        None, description="The states that you may move the deal to", examples=[["ASSIGNED"]]
    )
