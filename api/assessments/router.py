"""The endpoints of assessments."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from psycopg.rows import DictRow

from api.assessments import service
from api.assessments.criteria import read_criteria
from api.assessments.schemas import (
    Assessment,
    AssessmentQuery,
    Comment,
    Content,
    CriterionAnswer,
    Decision,
    NewAssessment,
    NewComment,
    criteria_in_order,
)
from api.auth import CurrentUser
from api.caching import RequiredIfMatch
from api.database import Connection
from api.problems import answers
from api.types import PathId

router = APIRouter(prefix="/api", tags=["assessments"])


@router.get("/assessment-criteria", responses=answers(401))
async def list_criteria(_: CurrentUser, connection: Connection) -> list[CriterionAnswer]:
    """List what a new assessment scores a deal for; an older one has its own `criteria`."""
    return criteria_in_order((await read_criteria(connection)).criteria)


@router.get("/assessments", response_model=list[Assessment], responses=answers(401, 422))
async def list_assessments(
    user: CurrentUser, connection: Connection, wanted: Annotated[AssessmentQuery, Query()]
) -> list[DictRow]:
    """List assessments, the newest first."""
    return await service.list_assessments(connection, user, wanted)


@router.post(
    "/assessments",
    status_code=201,
    response_model=Assessment,
    responses=answers(401, 403, 404, 409, 422, 503),
)
async def begin_assessment(
    user: CurrentUser, response: Response, connection: Connection, new: NewAssessment
) -> DictRow:
    """Begin an assessment with the content of the deal's last one, and move the deal."""
    return _tagged(response, await service.begin(connection, user, new))


@router.get("/assessments/{id:int}", response_model=Assessment, responses=answers(401, 404, 422))
async def get_assessment(
    user: CurrentUser, response: Response, connection: Connection, assessment_id: PathId
) -> DictRow:
    """Get an assessment; its ETag is what a change of it has to name."""
    return _tagged(response, await service.get_assessment(connection, user, assessment_id))


@router.put(
    "/assessments/{id:int}",
    response_model=Assessment,
    responses=answers(401, 403, 404, 409, 412, 422, 428),
)
async def write_assessment(
    user: CurrentUser,
    response: Response,
    connection: Connection,
    assessment_id: PathId,
    if_match: RequiredIfMatch,
    content: Content,
) -> DictRow:
    """Write a draft."""
    saved = await service.save(connection, user, assessment_id, if_match, content)
    return _tagged(response, saved)


@router.post(
    "/assessments/{id:int}/submit",
    response_model=Assessment,
    responses=answers(401, 403, 404, 409, 412, 422, 428, 503),
)
async def submit_assessment(
    user: CurrentUser,
    response: Response,
    connection: Connection,
    assessment_id: PathId,
    if_match: RequiredIfMatch,
) -> DictRow:
    """Submit a draft for decision: every mandatory criterion is scored, a recommendation made."""
    submitted = await service.submit_draft(connection, user, assessment_id, if_match)
    return _tagged(response, submitted)


@router.post(
    "/assessments/{id:int}/decision",
    response_model=Assessment,
    responses=answers(401, 403, 404, 409, 412, 422, 428, 503),
)
async def decide_assessment(
    user: CurrentUser,
    response: Response,
    connection: Connection,
    assessment_id: PathId,
    if_match: RequiredIfMatch,
    decision: Decision,
) -> DictRow:
    """Vote on a submitted assessment, or return it to the assessors as a new draft.

    All needed functions approve: we bid. One rejects: we don't. Where none is needed, one manager
    decides. Who submitted it does not.
    """
    decided = await service.decide(connection, user, assessment_id, if_match, decision)
    return _tagged(response, decided)


@router.get(
    "/assessments/{id:int}/comments", response_model=list[Comment], responses=answers(401, 404, 422)
)
async def list_comments(
    user: CurrentUser, connection: Connection, assessment_id: PathId
) -> list[DictRow]:
    """List the comments on an assessment, the oldest first."""
    return await service.list_comments(connection, user, assessment_id)


@router.post(
    "/assessments/{id:int}/comments",
    status_code=201,
    response_model=Comment,
    responses=answers(401, 403, 404, 422),
)
async def comment_on_assessment(
    user: CurrentUser, connection: Connection, assessment_id: PathId, new: NewComment
) -> DictRow:
    """Comment on an assessment, whatever its status."""
    return await service.comment(connection, user, assessment_id, new)


def _tagged(response: Response, assessment: DictRow) -> DictRow:
    response.headers["ETag"] = service.etag_of(assessment)
    return assessment
