"""The attributes of the CRM's resources, as in ``describe``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

AttributeType = Literal[
    "string", "integer", "number", "boolean", "date", "datetime", "array", "object"
]
ATTRIBUTE_TYPES: tuple[str, ...] = get_args(AttributeType)
STRUCTURED = ("array", "object")


def column(name: str) -> str:
    """Return an attribute's column: SQLite ignores case, but ``GEO_c`` is not ``Geo_c``."""
    if name.endswith("_c"):
        name = re.sub("[A-Z]", lambda capital: f"^{capital[0].lower()}", name)
    return f'"{name}"'


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute. ``high_precision`` ones arrive as strings under framework version 9."""

    name: str
    type: AttributeType
    mandatory: bool = False
    queryable: bool = True
    high_precision: bool = False
    max_length: int | None = None

    def describe(self) -> dict[str, object]:
        """Return the attribute's entry in ``Resources.<name>.attributes``."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", self.name.removesuffix("_c"))
        entry: dict[str, object] = {
            "name": self.name,
            "type": self.type,
            "updatable": not self.mandatory,
            "mandatory": self.mandatory,
            "queryable": self.queryable,
            "allowChanges": "never" if self.mandatory else "always",
            "title": words,
        }
        if self.type == "string":
            entry["maxLength"] = self.max_length or 240
        if self.type == "integer":
            entry["precision"] = 18
        return entry


@dataclass(slots=True)
class Resource:
    """A collection: ``key`` is its immutable integer, ``item_key`` is the key in item URLs.

    ``attributes`` changes if a test adds, deletes or renames a custom field. ``view``
    is the query behind a resource that has no rows of its own.
    """

    name: str
    key: str
    item_key: str
    attributes: dict[str, Attribute]
    children: tuple[str, ...] = ()
    view: str = ""

    def copy(self) -> Resource:
        """Return the same resource with its own copy of the attributes."""
        return replace(self, attributes=dict(self.attributes))


def _attributes(table: str) -> dict[str, Attribute]:
    """Read lines of ``type[!][*][^]: Name Name ...``.

    ``!`` is mandatory, ``*`` high precision, ``^`` not queryable.
    """
    attributes = {}
    for line in table.strip().splitlines():
        declared, _, names = line.partition(":")
        kind = declared.strip().rstrip("!*^")
        if kind not in ATTRIBUTE_TYPES:
            raise ValueError(f"no attribute type {kind!r}")
        for name in names.split():
            attributes[name] = Attribute(
                name,
                kind,  # type: ignore[arg-type]  # checked above
                mandatory="!" in declared,
                high_precision="*" in declared,
                queryable="^" not in declared,
                max_length=2000 if name in ("Description", "Comments") else None,
            )
    return attributes


OPPORTUNITIES = Resource(
    "opportunities",
    key="OptyId",
    item_key="OptyNumber",
    children=("ChildRevenue", "OpportunityResource", "OpportunityTeam"),
    attributes=_attributes(
        """
        integer!*: OptyId
        string!: OptyNumber
        string: Name
        integer*: TargetPartyId
        string: TargetPartyName SalesAccountUniqueName
        number*: Revenue ExpectAmount UpsideAmount DownsideAmount
        string: CurrencyCode
        number: WinProb RcmndWinProb
        string: SalesStage
        integer*: SalesStageId
        string: SalesMethod StatusCode StageStatusCd PhaseCd
        integer: StgOrder MaximumDaysInStage
        date: EffectiveDate
        string: ReasonWonLostCode
        integer*: OwnerResourcePartyId
        string: PartyName1 EmailAddress
        integer*: PrimaryOrganizationId KeyContactId
        string: PrimaryContactPartyName
        integer*: PrimaryRevenueId
        string^: Description
        string: Comments
        boolean: BudgetedFlag ChampionFlag
        date: BudgetAvailableDate
        string: RiskLevelCode StrategicLevelCode DealHorizonCode SalesChannelCd LineOfBusinessCode
        boolean: UpdateFlag DeleteFlag
        datetime!: CreationDate LastUpdateDate
        string!: CreatedBy LastUpdatedBy
        string: LastUpdateLogin
        string: Practice_c GEO_c Region_c Sector_c DealSource_c
        date: BidDueDate_c
        boolean: GoNoGo_c
        number: Margin_c
        integer*: LegacyDealId_c
        """
    ),
)

ACCOUNTS = Resource(
    "accounts",
    key="PartyId",
    item_key="PartyNumber",
    attributes=_attributes(
        """
        integer!*: PartyId
        string!: PartyNumber
        string: OrganizationName UniqueNameSuffix Type Country City
        integer*: OwnerPartyId
        string: OwnerName
        integer: EmployeesTotal
        datetime!: CreationDate LastUpdateDate
        string!: CreatedBy LastUpdatedBy
        """
    ),
)

RESOURCES = Resource(
    "resources",
    key="PartyId",
    item_key="PartyNumber",
    attributes=_attributes(
        """
        integer!*: PartyId
        string!: PartyNumber
        integer!*: ResourceProfileId
        string: PartyName EmailAddress Usage
        date: StartDateActive EndDateActive
        datetime!: CreationDate LastUpdateDate
        string!: CreatedBy LastUpdatedBy
        """
    ),
)

CHILD_REVENUE = Resource(
    "ChildRevenue",
    key="RevnId",
    item_key="RevnId",
    attributes=_attributes(
        """
        integer!*: RevnId OptyId
        string: RevnNumber
        integer: RevnSequenceNumber
        string: Description
        number*: RevnAmount
        string: RevnAmountCurcyCode
        number: WinProb Quantity
        string: StatusCode ProdGroupName
        boolean: PrimaryFlag
        date: EffectiveDate ActualCloseDate
        datetime!: CreationDate LastUpdateDate
        string!: CreatedBy LastUpdatedBy
        """
    ),
)

OPPORTUNITY_RESOURCE = Resource(
    "OpportunityResource",
    key="OptyResourceId",
    item_key="OptyResourceId",
    attributes=_attributes(
        """
        integer!*: OptyResourceId OptyId ResourceId
        string: PartyName EmailAddress MemberFunctionCode AccessLevelCode
        boolean: OwnerFlag
        datetime!: CreationDate LastUpdateDate
        string!: CreatedBy LastUpdatedBy
        """
    ),
)

# Its rows are in the settings.
OPTY_STATUSES = Resource(
    "optyStatusesLOV",
    key="LookupCode",
    item_key="LookupCode",
    attributes=_attributes(
        """
        string!: LookupCode
        string: Meaning LookupCategory LookupType EnabledFlag
        integer: SetId
        """
    ),
)

# A read-only view of members, and members of territories: the key is (OptyId, ResourceId,
# TerritoryVersionId), and there are no items.
OPPORTUNITY_TEAM = Resource(
    "OpportunityTeam",
    key="ResourceId",  # within an opportunity
    item_key="",
    attributes=_attributes(
        """
        integer!*: OptyId ResourceId
        integer*: TerritoryVersionId
        string: PartyName EmailAddress MemberFunctionCode
        boolean: OwnerFlag
        datetime!: CreationDate LastUpdateDate
        string!: CreatedBy LastUpdatedBy
        """
    ),
    view="""
        select
            "OptyId", "ResourceId", null as "TerritoryVersionId", "PartyName", "EmailAddress",
            "MemberFunctionCode", "OwnerFlag", "CreationDate", "LastUpdateDate", "CreatedBy",
            "LastUpdatedBy"
        from "OpportunityResource"
    """,
)

COLLECTIONS = (OPPORTUNITIES, ACCOUNTS, RESOURCES)
CHILDREN = (CHILD_REVENUE, OPPORTUNITY_RESOURCE, OPPORTUNITY_TEAM)
