"""Requests and answers of the endpoints of assessments."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from api.assessments.criteria import Criteria
from api.types import Id, Input, LongText
from declared.model import Key

MOST_CRITERIA = 50
Recommendation = Literal["BID", "NO_BID"]
Status = Literal["DRAFT", "SUBMITTED", "APPROVED", "REJECTED", "RETURNED"]
Body = Annotated[str, Field(min_length=1, max_length=10_000, pattern="^[^\x00]*$")]


class CriterionAnswer(BaseModel):
    """Something that a deal is scored for."""

    key: str = Field(examples=["strategic_fit"])
    title: str
    question: str
    guidance: str = Field(description="What the scores mean")
    weight: int
    max_score: int
    mandatory: bool = Field(description="Whether nothing is submitted without it")


def criteria_in_order(criteria: Criteria) -> list[CriterionAnswer]:
    """Return the criteria in the order of the form."""
    return [
        CriterionAnswer(key=key, max_score=item.scale, **item.model_dump(exclude={"scale"}))
        for key, item in criteria.criteria.items()
    ]


class Score(Input):
    """A score for a criterion, and why."""

    score: int = Field(
        ge=0,
        le=10,
        strict=True,
        description="From against bidding to the criterion's `max_score` for it",
    )
    comment: LongText = ""


def _are_few(scores: Any) -> Any:
    # Each unknown key would become two errors, and a body has room for many.
    if isinstance(scores, dict) and len(scores) > MOST_CRITERIA:
        raise ValueError(f"there are {MOST_CRITERIA} criteria at most")
    return scores


class Content(Input):
    """The content of an assessment: each save sends all of it."""

    scores: Annotated[dict[Key, Score], BeforeValidator(_are_few)] = Field(
        {},
        description="By the keys of the assessment's `criteria`",
        examples=[{"strategic_fit": {"score": 4, "comment": "A reference in a new sector"}}],
    )
    summary: LongText = ""
    recommendation: Recommendation | None = None


class NewAssessment(Input):
    """An assessment to be begun."""

    opportunity_id: Id


class Decision(Input):
    """A vote on a submitted assessment; where one manager decides, the decision."""

    decision: Literal["APPROVED", "REJECTED", "RETURNED"] = Field(
        description="Bid; don't; or back to the assessors, as a new draft"
    )
    comment: LongText = ""
    function: Key | None = Field(
        None, description="Votes as this: needed by those who could vote as more than one"
    )


class Approval(BaseModel):
    """A function that has to approve, and its vote."""

    function: str = Field(examples=["practice_head"])
    label: str = Field(examples=["Practice head"])
    value: str | None = Field(
        description="Of the field that routes the deal, when it was submitted", examples=["Cloud"]
    )
    decision: Literal["APPROVED", "REJECTED"] | None
    comment: str | None
    user_id: int | None = Field(description="Who voted")
    voted_at: datetime | None
    waits_for: list[int] = Field(description="The users who can give the vote")


class Assessment(BaseModel):
    """An assessment of a deal."""

    id: int
    opportunity_id: int
    version: int = Field(description="Counts the assessments of the deal")
    status: Status
    criteria: list[CriterionAnswer] = Field(description="Those that it was begun with")
    scores: dict[str, Score]
    weighted_score: float | None = Field(
        description="Percent of the best, of the criteria scored so far", examples=[72.5]
    )
    suggestion: Recommendation | None = Field(
        description="What the score suggests; null: nothing, or a mandatory criterion has no score"
    )
    summary: str
    recommendation: Recommendation | None
    revision: int = Field(
        description="Counts the changes; the ETag is made of it. A vote that leaves the decision "
        "open changes nothing that others vote on, so it does not count"
    )
    created_by: int | None
    created_at: datetime
    updated_by: int | None
    updated_at: datetime
    submitted_by: int | None
    submitted_at: datetime | None
    decided_by: int | None
    decided_at: datetime | None
    decision_comment: str | None
    approvals: list[Approval] = Field(
        description="The functions that have to approve; none: one manager decides"
    )


class AssessmentQuery(BaseModel):
    """Which assessments are wanted."""

    opportunity_id: Id | None = None
    status: Status | None = None
    waiting_for: Literal["me"] | None = Field(None, description="Those that I can vote on")
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
