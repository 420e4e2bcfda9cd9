"""Requests and answers of the feed of changes."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.sync.schemas import SyncProgress
from api.types import Input, Utc


class FeedRequest(Input):
    """Where in the feed to read, and how much."""

    since: Utc | None = Field(
        None,
        description="Begin with the first change that was made then or later; UTC where no offset "
        "is given. Without `since` and `cursor`: begin with the oldest one that is kept",
    )
    cursor: str | None = Field(
        None,
        max_length=500,
        description="`next_cursor` of the answer before: go on after it. It goes before `since`",
    )
    limit: int = Field(100, ge=1, le=1000)


class Change(BaseModel):
    """A change of a deal."""

    kind: Literal["new", "changed", "deleted", "returned"] = Field(
        description="`new`: the deal was not here before; `deleted`: it is gone from the CRM; "
        "`returned`: it is there again"
    )
    opportunity_id: int
    remote_id: str = Field(description="OptyId")
    field: str | None = Field(description="Null: the whole deal is new", examples=["deal_value"])
    old_value: str | None = Field(examples=["1200000"])
    new_value: str | None = Field(examples=["1250000.5"])
    changed_at: datetime = Field(description="When the transaction began that made the change")
    changed_by: str | None = Field(description="A user; null: the CRM")
    run_id: UUID | None = Field(description="The run that brought it; null: none did")

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "kind": "changed",
                "opportunity_id": 42,
                "remote_id": "300000012345678",
                "field": "deal_value",
                "old_value": "1200000",
                "new_value": "1250000.5",
                "changed_at": "2026-02-04T00:00:03.120543+00:00",
                "changed_by": None,
                "run_id": "7b0ac4a8-6e5e-4f0b-9d25-6a6d1f1a8c11",
            }
        }
    )


class Feed(BaseModel):
    """A part of the feed."""

    items: list[Change]
    next_cursor: str = Field(
        description="Pass it as `cursor`, now or later: what comes after these items"
    )
    has_more: bool = Field(description="Whether there is more already")


class ChangedDeals(BaseModel):
    """That deals have changed; `GET /api/changes` says how."""

    deals: int = Field(description="How many, since the event before, or since the cursor")
    opportunity_ids: list[int] | None = Field(description="Which; null if they are too many")


class Syncs(BaseModel):
    """What the syncs are doing."""

    run: SyncProgress | None = Field(
        description="The run that loads, of whatever kind, or else the last one; null before it"
    )
    last_success: datetime | None = Field(description="When a sync last succeeded")
