"""Requests and answers of the endpoints of assessments."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from api.assessments.criteria import CRITERIA, MAX_SCORE
from api.types import Id, Input, LongText

CriterionKey = StrEnum("CriterionKey", {item.key.upper(): item.key for item in CRITERIA})  # type: ignore[misc]
Recommendation = Literal["BID", "NO_BID"]
Status = Literal["DRAFT", "SUBMITTED", "APPROVED", "REJECTED", "RETURNED"]
Body = Annotated[str, Field(min_length=1, max_length=10_000, pattern="^[^\x00]*$")]


class CriterionAnswer(BaseModel):
    """Something that a deal is scored for."""

    key: CriterionKey
    title: str
    question: str
    weight: int
    max_score: int = MAX_SCORE


class Score(Input):
    """A score for a criterion, and why."""

    score: int = Field(ge=0, le=MAX_SCORE, strict=True, description="From against to for bidding")
    comment: LongText = ""


def _of_each_at_most_one(scores: Any) -> Any:
    # Each unknown key would become two errors, and a body has room for many.
    if isinstance(scores, dict) and len(scores) > len(CRITERIA):
        raise ValueError(f"there are {len(CRITERIA)} criteria")
    return scores


class Content(Input):
    """The content of an assessment: each save sends all of it."""

    scores: Annotated[dict[CriterionKey, Score], BeforeValidator(_of_each_at_most_one)] = Field(
        {}, examples=[{"strategic_fit": {"score": 4, "comment": "A reference in a new sector"}}]
    )
    summary: LongText = ""
    recommendation: Recommendation | None = None


class NewAssessment(Input):
    """An assessment to be begun."""

    opportunity_id: Id


class Decision(Input):
    """A manager's decision on a submitted assessment."""

    decision: Literal["APPROVED", "REJECTED", "RETURNED"] = Field(
        description="Bid; don't; or back to the assessors, as a new draft"
    )
    comment: LongText = ""


class Assessment(BaseModel):
    """An assessment of a deal."""

    id: int
    opportunity_id: int
    version: int = Field(description="Counts the assessments of the deal")
    status: Status
    scores: dict[CriterionKey, Score]
    weighted_score: float | None = Field(
        description="Percent of the best, of the criteria scored so far", examples=[72.5]
    )
    summary: str
    recommendation: Recommendation | None
    revision: int = Field(description="Counts the changes; the ETag is made of it")
    created_by: int | None
    created_at: datetime
    updated_by: int | None
    updated_at: datetime
    submitted_by: int | None
    submitted_at: datetime | None
    decided_by: int | None
    decided_at: datetime | None
    decision_comment: str | None


class AssessmentQuery(BaseModel):
    """Which assessments are wanted."""

    opportunity_id: Id | None = None
    status: Status | None = None
    before: Id | None = Field(None, description="Assessments older than this one")
    limit: int = Field(50, ge=1, le=1000)


class NewComment(Input):
    """A comment to be made."""

    body: Body


class Comment(BaseModel):
    """A comment on an assessment."""

    id: int
    assessment_id: int
    author_id: int | None
    author: str | None = Field(description="The author's name")
    body: str
    created_at: datetime
