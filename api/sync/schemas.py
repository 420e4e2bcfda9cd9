"""Requests and answers of the endpoints of syncs."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.problems import Problem


class SyncOrder(BaseModel):
    """How to sync."""

    model_config = ConfigDict(extra="forbid")

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
