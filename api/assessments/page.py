"""The assessment of a deal, a part of the deal's page: write, submit, decide and comment."""

from typing import Annotated, Any, Literal

from fastapi import Form, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from api.assessments import service
from api.assessments.criteria import CRITERIA, weighted_score
from api.assessments.schemas import Content, Decision, NewAssessment, NewComment, Score
from api.auth import CurrentUser
from api.console.pages import changed, console_router, page
from api.database import Connection
from api.types import LongText, PathId

router = console_router()

# The parts of the deal's page that an assessment changes.
PARTS = ("deal-changed", "assessment-changed")


@router.post("/opportunities/{id}/assessment")
async def begin(
    request: Request, user: CurrentUser, connection: Connection, opportunity_id: PathId
) -> Response:
    """Begin an assessment of a deal."""
    new = NewAssessment(opportunity_id=opportunity_id)
    await service.begin(connection, user, new)
    return changed(request, f"/opportunities/{opportunity_id}", "The assessment has begun.", *PARTS)


@router.post("/score")
async def score(request: Request, _: CurrentUser) -> Response:
    """Show what scores come to, before anything is saved."""
    return page(request, "_score.html", **_standing(await _content(request)))


@router.post("/opportunities/{id}/assessments/{assessment_id}")
async def save(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    opportunity_id: PathId,
    assessment_id: int,
) -> Response:
    """Save a draft, and submit it if that was asked for."""
    form = await request.form()
    await service.save(
        connection,
        user,
        assessment_id,
        str(form.get("etag", "")),
        await _content(request),
        submit="submit" in form,
    )
    words = "Submitted for review." if "submit" in form else "Saved."
    return changed(request, f"/opportunities/{opportunity_id}", words, *PARTS)


class DecisionForm(BaseModel):
    """A manager's decision, and the ETag of the assessment that it is about."""

    etag: str = Field(max_length=100)
    decision: Literal["APPROVED", "REJECTED", "RETURNED"]
    comment: LongText = ""


@router.post("/opportunities/{id}/assessments/{assessment_id}/decision")
async def decide(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    opportunity_id: PathId,
    assessment_id: int,
    given: Annotated[DecisionForm, Form()],
) -> Response:
    """Decide a submitted assessment."""
    decision = Decision(decision=given.decision, comment=given.comment)
    await service.decide(connection, user, assessment_id, given.etag, decision)
    words = {"APPROVED": "We bid.", "REJECTED": "We don't bid.", "RETURNED": "Returned."}
    return changed(request, f"/opportunities/{opportunity_id}", words[given.decision], *PARTS)


@router.post("/opportunities/{id}/assessments/{assessment_id}/comments")
async def say(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    opportunity_id: PathId,
    assessment_id: int,
    new: Annotated[NewComment, Form()],
) -> Response:
    """Comment on an assessment."""
    await service.comment(connection, user, assessment_id, new)
    return changed(
        request, f"/opportunities/{opportunity_id}", "The comment is there.", "comments-changed"
    )


async def _content(request: Request) -> Content:
    """Return the content of an assessment's form."""
    form = await request.form()
    scores = {
        item.key: {
            "score": int(given),
            "comment": str(form.get(f"comment.{item.key}", "")),
        }
        for item in CRITERIA
        if (given := str(form.get(f"score.{item.key}", ""))).isdecimal() and len(given) == 1
    }
    said = {
        "scores": scores,
        "summary": str(form.get("summary", "")),
        "recommendation": form.get("recommendation") or None,
    }
    try:
        return Content.model_validate(said)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _standing(content: Content) -> dict[str, Any]:
    scores: dict[str, Score] = {key.value: given for key, given in content.scores.items()}
    return {
        "score": weighted_score({key: given.score for key, given in scores.items()}),
        "scored": len(scores),
        "of": len(CRITERIA),
    }
