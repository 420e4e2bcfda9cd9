"""The assessment of a deal, a part of the deal's page: write, submit, decide and comment."""

from typing import Annotated, Literal

from fastapi import Form, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from api.assessments import service
from api.assessments.schemas import Content, Decision, NewAssessment, NewComment
from api.auth import CurrentUser
from api.console.pages import changed, console_router, page
from api.database import Connection
from api.types import LongText, PathId
from declared.model import Key

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


@router.post("/assessments/{assessment_id}/score")
async def score(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    assessment_id: int,
) -> Response:
    """Show what scores come to by the criteria of an assessment, before anything is saved."""
    content = await _content(request)
    standing = await service.weigh(connection, user, assessment_id, content.scores)
    return page(request, "_score.html", **standing)


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
    function: Key | None = None


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
    decision = Decision.model_validate(given.model_dump(exclude={"etag"}))
    decided = await service.decide(connection, user, assessment_id, given.etag, decision)
    words = {
        "SUBMITTED": "You approved.",
        "APPROVED": "We bid.",
        "REJECTED": "We don't bid.",
        "RETURNED": "Returned.",
    }
    said = words[decided["status"]]
    return changed(request, f"/opportunities/{opportunity_id}", said, *PARTS)


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
    given = {
        name.removeprefix("score."): str(value)
        for name, value in form.items()
        if name.startswith("score.")
    }
    scores = {
        key: {"score": int(score), "comment": str(form.get(f"comment.{key}", ""))}
        for key, score in given.items()
        if score.isascii() and score.isdecimal() and len(score) <= 2
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
