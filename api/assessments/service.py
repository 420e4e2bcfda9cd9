"""What can be done with assessments, and by whom.

A change names by its ETag the state that it changes, so two assessors don't overwrite each other.
To begin, submit or decide an assessment moves its deal in the workflow, in the same transaction.
"""

from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from api.assessments import queries
from api.assessments.criteria import CRITERIA, weighted_score
from api.assessments.schemas import (
    AssessmentQuery,
    Content,
    Decision,
    NewAssessment,
    NewComment,
)
from api.audit import record
from api.auth import Role, User
from api.caching import check_match
from api.opportunities.changes import change_opportunity, lock_opportunity
from api.problems import ProblemError
from api.workflow import check_open


def etag_of(assessment: DictRow) -> str:
    """Return the ETag of an assessment as it was read."""
    return f'"{assessment["id"]}-{assessment["revision"]}"'


async def list_assessments(
    connection: AsyncConnection[DictRow], user: User, wanted: AssessmentQuery
) -> list[DictRow]:
    """List assessments, the newest first."""
    user.must_be(Role.VIEWER)
    return await (await connection.execute(queries.LIST, wanted.model_dump())).fetchall()


async def get_assessment(
    connection: AsyncConnection[DictRow], user: User, assessment_id: int
) -> DictRow:
    """Return an assessment; raises 404 if there is none."""
    user.must_be(Role.VIEWER)
    return await _find(connection, queries.GET, assessment_id)


async def begin(connection: AsyncConnection[DictRow], user: User, new: NewAssessment) -> DictRow:
    """Begin an assessment with the content of the deal's last one, and move the deal.

    Raises:
        ProblemError: 404, there is no such deal; 409, it has an open assessment, or is closed.
    """
    user.must_be(Role.ASSESSOR)
    async with connection.transaction():
        deal = await lock_opportunity(connection, new.opportunity_id)
        found = await connection.execute(queries.OPEN_OF, [new.opportunity_id])
        if (present := await found.fetchone()) is not None:
            detail = f"The deal has an assessment already: {present['id']}, {present['status']}."
            raise ProblemError(409, detail, assessment_id=present["id"])
        if deal["workflow_status"] == "NEW":
            take = {"workflow_status": "ASSIGNED", "assigned_to": deal["assigned_to"] or user.id}
            await change_opportunity(connection, user, new.opportunity_id, take)
        await _move_deal(connection, user, new.opportunity_id, "UNDER_ASSESSMENT")
        parameters = {"opportunity_id": new.opportunity_id, "user_id": user.id}
        created = await _write(connection, queries.CREATE, parameters)
        await record(connection, user, "create", "assessment", created["id"])
    return created


async def save(
    connection: AsyncConnection[DictRow],
    user: User,
    assessment_id: int,
    etag: str,
    content: Content,
    *,
    submit: bool = False,
) -> DictRow:
    """Write a draft, and submit it if asked to: both or neither.

    Raises:
        ProblemError: 404; 409, it is no draft, or not complete; 412, it has another ETag now.
    """
    user.must_be(Role.ASSESSOR)
    async with connection.transaction():
        before = await _lock(connection, assessment_id, etag, "DRAFT")
        scores = {key.value: score.score for key, score in content.scores.items()}
        written = content.model_dump(mode="json")
        parameters = written | {
            "scores": Jsonb(written["scores"]),
            "weighted_score": weighted_score(scores),
            "user_id": user.id,
            "id": assessment_id,
        }
        after = await _write(connection, queries.WRITE, parameters)
        states = [
            {name: state[name] for name in ("scores", "summary", "recommendation")}
            for state in (before, after)
        ]
        await record(connection, user, "update", "assessment", assessment_id, *states)
        if submit:
            after = await submit_draft(connection, user, assessment_id, etag_of(after))
    return after


async def submit_draft(
    connection: AsyncConnection[DictRow], user: User, assessment_id: int, etag: str
) -> DictRow:
    """Submit a draft for decision.

    Raises:
        ProblemError: 404; 409, it is no draft, or not complete; 412, it has another ETag now.
    """
    user.must_be(Role.ASSESSOR)
    async with connection.transaction():
        draft = await _lock(connection, assessment_id, etag, "DRAFT")
        missing = [item.key for item in CRITERIA if item.key not in draft["scores"]]
        if draft["recommendation"] is None:
            missing.append("recommendation")
        if missing:
            raise ProblemError(409, f"Not complete: {', '.join(missing)}.", missing=missing)
        await _move_deal(connection, user, draft["opportunity_id"], "PENDING_REVIEW")
        parameters = {"id": assessment_id, "user_id": user.id}
        submitted = await _write(connection, queries.SUBMIT, parameters)
        await record(connection, user, "submit", "assessment", assessment_id)
    return submitted


async def decide(
    connection: AsyncConnection[DictRow],
    user: User,
    assessment_id: int,
    etag: str,
    decision: Decision,
) -> DictRow:
    """Decide a submitted assessment: bid, don't bid, or back to the assessors as a new draft.

    Raises:
        ProblemError: 404; 409, it is not submitted; 412, it has another ETag now.
    """
    user.must_be(Role.MANAGER)
    async with connection.transaction():
        submitted = await _lock(connection, assessment_id, etag, "SUBMITTED")
        deal = submitted["opportunity_id"]
        returned = decision.decision == "RETURNED"
        status = "UNDER_ASSESSMENT" if returned else decision.decision
        await _move_deal(connection, user, deal, status)
        parameters = decision.model_dump() | {"id": assessment_id, "user_id": user.id}
        decided = await _write(connection, queries.DECIDE, parameters)
        if returned:
            draft = {"opportunity_id": deal, "user_id": submitted["created_by"]}
            await _write(connection, queries.CREATE, draft)
        await record(
            connection, user, "decide", "assessment", assessment_id, after=decision.model_dump()
        )
    return decided


async def list_comments(
    connection: AsyncConnection[DictRow], user: User, assessment_id: int
) -> list[DictRow]:
    """List the comments on an assessment, the oldest first."""
    user.must_be(Role.VIEWER)
    await _find(connection, queries.GET, assessment_id)
    return await (await connection.execute(queries.COMMENTS, [assessment_id])).fetchall()


async def comment(
    connection: AsyncConnection[DictRow], user: User, assessment_id: int, new: NewComment
) -> DictRow:
    """Comment on an assessment, whatever its status."""
    user.must_be(Role.ASSESSOR)
    await _find(connection, queries.GET, assessment_id)
    parameters = {"assessment_id": assessment_id, "author_id": user.id, "body": new.body}
    return await _write(connection, queries.COMMENT, parameters) | {"author": user.name}


async def _write(
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


async def _lock(
    connection: AsyncConnection[DictRow], assessment_id: int, etag: str, status: str
) -> DictRow:
    """Lock an assessment that is to be changed: its deal first, as everyone does who locks both."""
    assessment = await _find(connection, queries.GET, assessment_id)
    deal = await lock_opportunity(connection, assessment["opportunity_id"])
    check_open(deal["crm_outcome"])
    assessment = await _find(connection, queries.GET_FOR_CHANGE, assessment_id)
    check_match(etag, etag_of(assessment))
    if assessment["status"] != status:
        detail = f"The assessment is {assessment['status']}; only a {status} can be changed so."
        raise ProblemError(409, detail)
    return assessment


async def _move_deal(
    connection: AsyncConnection[DictRow], user: User, opportunity_id: int, status: str
) -> None:
    await change_opportunity(connection, user, opportunity_id, {"workflow_status": status})
