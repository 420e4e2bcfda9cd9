"""Requests and answers of the endpoints of syncs, their rejects and schedules."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.problems import Problem
from api.types import Id, Input, Text, Utc


class SyncOrder(Input):
    """How to sync."""

    full: bool = Field(False, strict=True, description="Read everything, not just what changed")


class SyncRun(BaseModel):
    """A run of the pipeline, as `sync_logs` has it."""

    id: int
    run_id: UUID
    sync_type: Literal["FULL", "INCREMENTAL"]
    status: Literal["RUNNING", "SUCCESS", "FAILED"]
    total_fetched: int
    new_records: int
    updated_records: int
    unchanged_records: int
    failed_records: int
    error_message: str | None
    end_reason: Literal["done", "partial", "failed", "cancelled", "died"] | None = Field(
        description="How it ended; a sync that was cancelled has the status FAILED"
    )
    started_at: datetime
    completed_at: datetime | None
    duration_seconds: float | None

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": 7,
                "run_id": "7b0ac4a8-6e5e-4f0b-9d25-6a6d1f1a8c11",
                "sync_type": "INCREMENTAL",
                "status": "SUCCESS",
                "total_fetched": 25,
                "new_records": 5,
                "updated_records": 20,
                "unchanged_records": 0,
                "failed_records": 0,
                "error_message": None,
                "end_reason": "done",
                "started_at": "2026-02-04T00:00:00.512+00:00",
                "completed_at": "2026-02-04T00:00:08.120+00:00",
                "duration_seconds": 7.608,
            }
        }
    )


class HistoryQuery(BaseModel):
    """Which syncs are wanted."""

    limit: int = Field(10, ge=1, le=1000)
    status: Literal["RUNNING", "SUCCESS", "FAILED"] | None = None
    since: Utc | None = Field(None, description="Those that started at this moment or later")
    before: Id | None = Field(None, description="Those before the sync with this `id`: next page")


class SyncRunning(Problem):
    """Refused, for a sync is under way."""

    run: SyncRun


class SyncProgress(SyncRun):
    """A run of the pipeline, and how far it has come."""

    phase: Literal["STARTING", "LOADING", "MERGING", "ENDED"]
    records_claimed: int | None = Field(
        description="How many records the CRM says there are to read; it can be wrong"
    )
    percent: float | None = Field(description="Of the records that the CRM claims, read so far")
    records_per_second: float | None = Field(description="Read, on average so far")


class Phase(BaseModel):
    """A part of a run."""

    name: Literal["LOADING", "MERGING", "ENDING"] = Field(
        description="LOADING: from the start, what the reader needs to begin included"
    )
    started_at: datetime
    completed_at: datetime | None = Field(description="Null: it goes on")
    seconds: float | None


class RejectReason(BaseModel):
    """Records that could not be loaded, for one reason."""

    stream: str = Field(examples=["opportunities"])
    reason: str = Field(examples=["WinProb: 'high' is not a number"])
    records: int
    unresolved: int = Field(description="How many of them have not arrived good since")
    remote_ids: list[str] = Field(description="Of up to five of them, where known")


Outcome = Literal["RUNNING", "SUCCESS", "REJECTS", "FAILED", "CANCELLED"]


class SyncDetail(SyncProgress):
    """All that is known of a run. `GET /api/changes` has the changes that it brought."""

    kind: Literal["sync", "reconcile", "partition", "refresh", "other"]
    outcome: Outcome = Field(
        description="REJECTS: a success in which some records could not be loaded"
    )
    trigger: str | None = Field(description="What started it", examples=["schedule"])
    requested_by: str | None = Field(description="Who started it, where that is known")
    cancelled_by: str | None
    host: str | None = Field(description="Where it ran")
    coverage: Literal["complete", "changes", "partial"] | None = Field(
        description="What it read: all, what had changed, or a part of either"
    )
    is_counted: bool = Field(
        description="Whether it was merged: total_fetched is the sum of new, updated, unchanged "
        "and failed records only then"
    )
    phases: list[Phase]
    new_deals: int = Field(description="Deals that were not here before")
    reconciliation: str | None = Field(description="What a reconcile has found, in words")
    rejects: list[RejectReason] = Field(
        description="What could not be loaded, as far as no later run has met it again; up to 50 "
        "reasons, the most frequent ones first"
    )
    succeeded_since: UUID | None = Field(
        description="The first run of its kind that has succeeded after it"
    )


class RejectedRecord(BaseModel):
    """A record that could not be loaded."""

    id: int
    stream: str = Field(examples=["opportunities"])
    remote_id: str | None = Field(description="Where it is known")
    reason: str = Field(examples=["WinProb: 'high' is not a number"])
    payload: Any = Field(description="The record as it was received")
    first_seen_at: datetime
    last_seen_at: datetime
    last_run_id: UUID | None = Field(description="The last run that met it, where known")
    resolved_at: datetime | None = Field(description="When it arrived good, or was found gone")


class RejectedRecords(BaseModel):
    """A page of rejected records."""

    items: list[RejectedRecord]
    total: int
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page")


class RejectsQuery(BaseModel):
    """Which rejected records are wanted."""

    stream: Text | None = None
    remote_id: Text | None = None
    run_id: UUID | None = Field(None, description="The last run that met them")
    resolved: bool = Field(False, description="Also those that are resolved")
    cursor: Id | None = Field(None, description="`next_cursor` of the page before")
    limit: int = Field(50, ge=1, le=1000)


class Schedule(BaseModel):
    """A schedule of Meltano's, as the scheduler knows it."""

    name: str = Field(examples=["nightly"])
    job: str = Field(examples=["sync"])
    interval: str = Field(description="As cron writes it", examples=["0 0 * * *"])
    timezone: str = Field(examples=["Europe/Zurich"])
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_succeeded: bool | None = Field(description="Whether what the scheduler ran last did")
    outcome: Literal["RUNNING", "SUCCESS", "FAILED", "CANCELLED"] | None = Field(
        description="How its last run ended. After a failure, a later success of the same job "
        "counts, whoever started it"
    )
    attempt: int = Field(description="How often it was tried since it last succeeded")
    heartbeat_at: datetime = Field(description="When the scheduler last was seen alive")
    paused_at: datetime | None = Field(description="Since when it does not run")
    paused_by: str | None
    wanted_by: str | None = Field(description="Who wants it to run now, until the run begins")


class ScheduleChange(Input):
    """What is to be different of a schedule."""

    paused: bool = Field(strict=True, description="What is due in a pause does not run later")
