"""The endpoints of assessments.

A change names by If-Match what it changes, so two assessors don't overwrite each other. Who
begins, submits or decides one moves the deal in the workflow, in the same transaction.
"""

from typing import Annotated, LiteralString

from fastapi import APIRouter, Query, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from api.assessments import queries
from api.assessments.criteria import CRITERIA, weighted_score
from api.assessments.schemas import (
    Assessment,
    AssessmentQuery,
    Comment,
    Content,
    CriterionAnswer,
    Decision,
    NewAssessment,
    NewComment,
)
from api.audit import record
from api.auth import Assessor, Manager, User, Viewer
from api.caching import RequiredIfMatch, check_match
from api.database import Connection
from api.opportunities.changes import change_opportunity, lock_opportunity
from api.problems import ProblemError, answers
from api.types import PathId
from api.workflow import check_open

router = APIRouter(prefix="/api", tags=["assessments"])


@router.get("/assessment-criteria", responses=answers(401))
async def list_criteria(_: Viewer) -> list[CriterionAnswer]:
    """List what a deal is scored for."""
    return [CriterionAnswer.model_validate(criterion._asdict()) for criterion in CRITERIA]


@router.get("/assessments", response_model=list[Assessment], responses=answers(401, 422))
async def list_assessments(
    _: Viewer, connection: Connection, wanted: Annotated[AssessmentQuery, Query()]
) -> list[DictRow]:
    """List assessments, the newest first."""
    return await (await connection.execute(queries.LIST, wanted.model_dump())).fetchall()


@router.post(
    "/assessments",
    status_code=201,
    response_model=Assessment,
    responses=answers(401, 403, 404, 409, 422, 503),
)
async def begin_assessment(
    user: Assessor, response: Response, connection: Connection, new: NewAssessment
) -> DictRow:
    """Begin an assessment, with what the last one of the deal said; the deal is then under it."""
    async with connection.transaction():
        deal = await lock_opportunity(connection, new.opportunity_id)
        found = await connection.execute(queries.OPEN_OF, [new.opportunity_id])
        if (present := await found.fetchone()) is not None:
            detail = f"The deal has an assessment already: {present['id']}, {present['status']}."
            raise ProblemError(409, detail, assessment_id=present["id"])
        if deal["workflow_status"] == "NEW":
            take = {"workflow_status": "ASSIGNED", "assigned_to": deal["assigned_to"] or user.id}
            await change_opportunity(connection, user, new.opportunity_id, take)
        await _move(connection, user, new.opportunity_id, "UNDER_ASSESSMENT")
        parameters = {"opportunity_id": new.opportunity_id, "user_id": user.id}
        created = await _one(connection, queries.CREATE, parameters)
        await record(connection, user, "create", "assessment", created["id"])
    return _tagged(response, created)


@router.get("/assessments/{id:int}", response_model=Assessment, responses=answers(401, 404, 422))
async def get_assessment(
    _: Viewer, response: Response, connection: Connection, assessment_id: PathId
) -> DictRow:
    """Get an assessment; its ETag is what a change of it has to name."""
    return _tagged(response, await _find(connection, queries.GET, assessment_id))


@router.put(
    "/assessments/{id:int}",
    response_model=Assessment,
    responses=answers(401, 403, 404, 409, 412, 422, 428),
)
async def write_assessment(
    user: Assessor,
    response: Response,
    connection: Connection,
    assessment_id: PathId,
    if_match: RequiredIfMatch,
    content: Content,
) -> DictRow:
    """Write a draft."""
    async with connection.transaction():
        before = await _for_change(connection, assessment_id, if_match, "DRAFT")
        scores = {key.value: score.score for key, score in content.scores.items()}
        written = content.model_dump(mode="json")
        parameters = written | {
            "scores": Jsonb(written["scores"]),
            "weighted_score": weighted_score(scores),
            "user_id": user.id,
            "id": assessment_id,
        }
        after = await _one(connection, queries.WRITE, parameters)
        await record(
            connection, user, "update", "assessment", assessment_id, _said(before), _said(after)
        )
    return _tagged(response, after)


@router.post(
    "/assessments/{id:int}/submit",
    response_model=Assessment,
    responses=answers(401, 403, 404, 409, 412, 422, 428, 503),
)
async def submit_assessment(
    user: Assessor,
    response: Response,
    connection: Connection,
    assessment_id: PathId,
    if_match: RequiredIfMatch,
) -> DictRow:
    """Submit a draft for decision. Every criterion has to be scored, and a recommendation made."""
    async with connection.transaction():
        draft = await _for_change(connection, assessment_id, if_match, "DRAFT")
        missing = [item.key for item in CRITERIA if item.key not in draft["scores"]]
        if draft["recommendation"] is None:
            missing.append("recommendation")
        if missing:
            raise ProblemError(409, f"Not complete: {', '.join(missing)}.", missing=missing)
        await _move(connection, user, draft["opportunity_id"], "PENDING_REVIEW")
        parameters = {"id": assessment_id, "user_id": user.id}
        submitted = await _one(connection, queries.SUBMIT, parameters)
        await record(connection, user, "submit", "assessment", assessment_id)
    return _tagged(response, submitted)


@router.post(
    "/assessments/{id:int}/decision",
    response_model=Assessment,
    responses=answers(401, 403, 404, 409, 412, 422, 428, 503),
)
async def decide_assessment(
    user: Manager,
    response: Response,
    connection: Connection,
    assessment_id: PathId,
    if_match: RequiredIfMatch,
    decision: Decision,
) -> DictRow:
    """Decide a submitted assessment: bid, don't bid, or back to the assessors as a new draft."""
    async with connection.transaction():
        submitted = await _for_change(connection, assessment_id, if_match, "SUBMITTED")
        deal = submitted["opportunity_id"]
        returned = decision.decision == "RETURNED"
        await _move(connection, user, deal, "UNDER_ASSESSMENT" if returned else decision.decision)
        parameters = decision.model_dump() | {"id": assessment_id, "user_id": user.id}
        decided = await _one(connection, queries.DECIDE, parameters)
        if returned:
            draft = {"opportunity_id": deal, "user_id": submitted["created_by"]}
            await _one(connection, queries.CREATE, draft)
        await record(
            connection, user, "decide", "assessment", assessment_id, after=decision.model_dump()
        )
    return _tagged(response, decided)


@router.get(
    "/assessments/{id:int}/comments", response_model=list[Comment], responses=answers(401, 404, 422)
)
async def list_comments(_: Viewer, connection: Connection, assessment_id: PathId) -> list[DictRow]:
    """List the comments on an assessment, the oldest first."""
    await _find(connection, queries.GET, assessment_id)
    return await (await connection.execute(queries.COMMENTS, [assessment_id])).fetchall()


@router.post(
    "/assessments/{id:int}/comments",
    status_code=201,
    response_model=Comment,
    responses=answers(401, 403, 404, 422),
)
async def comment_on_assessment(
    user: Assessor, connection: Connection, assessment_id: PathId, new: NewComment
) -> DictRow:
    """Comment on an assessment, whatever its status."""
    await _find(connection, queries.GET, assessment_id)
    parameters = {"assessment_id": assessment_id, "author_id": user.id, "body": new.body}
    return await _one(connection, queries.COMMENT, parameters) | {"author": user.name}


async def _one(
    connection: AsyncConnection[DictRow], query: LiteralString, parameters: DictRow
) -> DictRow:
    row = await (await connection.execute(query, parameters)).fetchone()
    assert row is not None  # noqa: S101 - `returning` gives one
    return row


async def _find(
    connection: AsyncConnection[DictRow], query: LiteralString, assessment_id: int
) -> DictRow:
    row = await (await connection.execute(query, [assessment_id])).fetchone()
    if row is None:
        raise ProblemError(404, f"There is no assessment {assessment_id}.")
    return row


async def _for_change(
    connection: AsyncConnection[DictRow], assessment_id: int, if_match: str, status: str
) -> DictRow:
    """Lock an assessment that is to be changed: the deal first, as all who take both do."""
    assessment = await _find(connection, queries.GET, assessment_id)
    deal = await lock_opportunity(connection, assessment["opportunity_id"])
    check_open(deal["crm_outcome"])
    assessment = await _find(connection, queries.GET_FOR_CHANGE, assessment_id)
    check_match(if_match, _etag(assessment))
    if assessment["status"] != status:
        detail = f"The assessment is {assessment['status']}; only a {status} can be changed so."
        raise ProblemError(409, detail)
    return assessment


async def _move(
    connection: AsyncConnection[DictRow], user: User, opportunity_id: int, status: str
) -> None:
    await change_opportunity(connection, user, opportunity_id, {"workflow_status": status})


def _said(assessment: DictRow) -> DictRow:
    return {name: assessment[name] for name in ("scores", "summary", "recommendation")}


def _etag(assessment: DictRow) -> str:
    return f'"{assessment["id"]}-{assessment["revision"]}"'


def _tagged(response: Response, assessment: DictRow) -> DictRow:
    response.headers["ETag"] = _etag(assessment)
    return assessment
