"""What can be done with assessments, and by whom.

A change names by its ETag the state that it changes, so two assessors don't overwrite each other.
To begin, submit or decide an assessment moves its deal in the workflow, in the same transaction.

An assessment keeps the criteria that it was begun with. When it is submitted, a round of votes
begins, which keeps the approvals that are declared then. Returned, it becomes a new draft with
today's criteria and, once submitted again, a new round.
"""

from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from api.assessments import queries
from api.assessments.criteria import Criteria, read_criteria
from api.assessments.schemas import (
    AssessmentQuery,
    Content,
    Decision,
    NewAssessment,
    NewComment,
    Score,
    criteria_in_order,
)
from api.audit import record
from api.auth import Role, Scope, User
from api.caching import check_match
from api.database import fetch_one, fetch_or_404
from api.opportunities.changes import change_opportunity, lock_opportunity
from api.problems import ProblemError
from api.workflow import check_open, read_rules


def etag_of(assessment: DictRow) -> str:
    """Return the ETag of an assessment as it was read."""
    return f'"{assessment["id"]}-{assessment["revision"]}"'


async def list_assessments(
    connection: AsyncConnection[DictRow], user: User, wanted: AssessmentQuery
) -> list[DictRow]:
    """List assessments, the newest first."""
    user.must_be(Role.VIEWER)
    parameters = wanted.model_dump() | {"user_id": user.id}
    found = await (await connection.execute(queries.LIST, parameters)).fetchall()
    return [_complete(row) for row in found]


async def get_assessment(
    connection: AsyncConnection[DictRow], user: User, assessment_id: int
) -> DictRow:
    """Return an assessment; raises 404 if there is none."""
    user.must_be(Role.VIEWER)
    return await _get(connection, assessment_id)


async def weigh(
    connection: AsyncConnection[DictRow], user: User, assessment_id: int, given: dict[str, Score]
) -> dict[str, Any]:
    """Return what scores would come to: `score` in percent, `scored` `of` all, `suggestion`."""
    user.must_be(Role.VIEWER)
    assessment = await _get(connection, assessment_id)
    criteria = await _criteria_of(connection, assessment)
    scores = {key: one.score for key, one in given.items()}
    _check_scores(criteria, scores)
    return {
        "score": criteria.weighted_score(scores),
        "scored": len(scores),
        "of": len(criteria.criteria),
        "suggestion": criteria.suggestion(scores),
    }


async def ways_to_vote(
    connection: AsyncConnection[DictRow], user: User, assessment: DictRow
) -> dict[str, Any]:
    """Return what a user can do with an assessment that is submitted.

    `votes_as` has the labels of the functions that the user can vote as, and is empty for one who
    decides alone; None: no vote. `may_return` says whether the user may return it.
    """
    user.must_be(Role.VIEWER)
    found = await connection.execute(queries.OPEN_VOTES, [assessment["id"], user.id])
    possible = {row["function"] for row in await found.fetchall()}
    labels = {
        one["function"]: one["label"] + (f" ({one['value']})" if one["value"] else "")
        for one in assessment["approvals"]
        if one["function"] in possible
    }
    may_vote = bool(possible) and Scope.WORKFLOW in user.scopes
    return {
        "votes_as": labels if may_vote else None,
        "may_return": await _may_return(connection, user, assessment),
    }


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
            present_status = present["status"].lower()
            detail = f"The deal has an assessment already: {present['id']}, {present_status}."
            raise ProblemError(409, detail, assessment_id=present["id"])
        if deal["workflow_status"] == "NEW":
            take = {"workflow_status": "ASSIGNED", "assigned_to": deal["assigned_to"] or user.id}
            await change_opportunity(connection, user, new.opportunity_id, take)
        again = {"workflow_status": "UNDER_ASSESSMENT"}
        await change_opportunity(connection, user, new.opportunity_id, again)
        created = await _create(connection, new.opportunity_id, user.id)
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
        criteria = await _criteria_of(connection, before)
        scores = {key: score.score for key, score in content.scores.items()}
        _check_scores(criteria, scores)
        written = content.model_dump(mode="json")
        parameters = written | {
            "scores": Jsonb(written["scores"]),
            "weighted_score": criteria.weighted_score(scores),
            "user_id": user.id,
            "id": assessment_id,
        }
        await connection.execute(queries.WRITE, parameters)
        after = await _get(connection, assessment_id)
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
    """Submit a draft: a round of votes begins, with the approvals that are declared now.

    Raises:
        ProblemError: 404; 409, it is no draft, or not complete; 412, it has another ETag now.
    """
    user.must_be(Role.ASSESSOR)
    async with connection.transaction():
        draft = await _lock(connection, assessment_id, etag, "DRAFT")
        missing = (await _criteria_of(connection, draft)).missing(draft["scores"])
        if not draft["scores"] and not missing:
            missing["scores"] = "a score"
        if draft["recommendation"] is None:
            missing["recommendation"] = "the recommendation"
        if missing:
            detail = f"Not complete: {', '.join(missing.values())}."
            raise ProblemError(409, detail, missing=list(missing))
        deal = draft["opportunity_id"]
        await _move_deal(connection, user, deal, "PENDING_REVIEW")
        approvals = await _approvals(connection, deal)
        parameters = {"id": assessment_id, "user_id": user.id, "approvals": Jsonb(approvals)}
        await connection.execute(queries.SUBMIT, parameters)
        await record(connection, user, "submit", "assessment", assessment_id)
        return await _get(connection, assessment_id)


async def decide(
    connection: AsyncConnection[DictRow],
    user: User,
    assessment_id: int,
    etag: str,
    decision: Decision,
) -> DictRow:
    """Vote on a submitted assessment, or return it to the assessors as a new draft.

    All needed functions approve: we bid. One rejects: we don't. Where none is needed, one manager
    decides.

    Raises:
        ProblemError: 403, the vote is not the user's; 404; 409, it is not submitted, or has the
            vote; 412, it has another ETag now; 422, the user could vote as several functions.
    """
    user.must_be(Role.VIEWER, Scope.WORKFLOW)
    if not user.role.includes(Role.MANAGER):
        holds = (await fetch_one(connection, queries.HOLDS_ANY, [user.id]))["holds"]
        if not holds:
            user.must_be(Role.MANAGER)
    async with connection.transaction():
        submitted = await _lock(connection, assessment_id, etag, "SUBMITTED")
        traced = decision.model_dump(exclude_none=True)
        if decision.decision == "RETURNED":
            await _check_may_return(connection, user, submitted)
        else:
            function = await _function_to_vote_as(connection, user, submitted, decision.function)
            if function is not None:
                traced |= {"function": function}
                vote = traced | {"id": assessment_id, "user_id": user.id}
                await connection.execute(queries.VOTE, vote)
                voted = await _get(connection, assessment_id)
                waits = any(one["decision"] is None for one in voted["approvals"])
                if decision.decision == "APPROVED" and waits:
                    await record(
                        connection, user, "vote", "assessment", assessment_id, after=traced
                    )
                    return voted
        await record(connection, user, "decide", "assessment", assessment_id, after=traced)
        return await _end_round(connection, user, submitted, decision)


async def _end_round(
    connection: AsyncConnection[DictRow], user: User, submitted: DictRow, decision: Decision
) -> DictRow:
    deal, is_returned = submitted["opportunity_id"], decision.decision == "RETURNED"
    status = "UNDER_ASSESSMENT" if is_returned else decision.decision
    await _move_deal(connection, user, deal, status)
    parameters = decision.model_dump() | {"id": submitted["id"], "user_id": user.id}
    await connection.execute(queries.DECIDE, parameters)
    if is_returned:
        await _create(connection, deal, submitted["created_by"])
    return await _get(connection, submitted["id"])


async def _function_to_vote_as(
    connection: AsyncConnection[DictRow], user: User, submitted: DictRow, wanted: str | None
) -> str | None:
    """Return the function that a user votes as; None: one manager decides.

    Raises:
        ProblemError: 403, 409 or 422, why there is no vote.
    """
    found = await connection.execute(queries.OPEN_VOTES, [submitted["id"], user.id])
    possible = [row["function"] for row in await found.fetchall()]
    asked = {one["function"]: one for one in submitted["approvals"]}
    if wanted is None and len(possible) > 1:
        names = ", ".join(one for one in asked if one in possible)
        raise ProblemError(422, f"You can vote as several: give `function`, one of {names}.")
    if wanted in possible:
        return wanted
    if wanted is None and possible:
        return str(possible[0]) if asked else None

    decisions = (await read_rules(connection)).decisions
    if decisions.four_eyes and submitted["submitted_by"] == user.id:
        raise ProblemError(403, "You submitted this assessment: somebody else decides.")
    if wanted is not None and wanted not in asked:
        raise ProblemError(422, f"This assessment needs no vote of {wanted!r}.")
    full = await _get(connection, submitted["id"])
    votes = {one["function"]: one for one in full["approvals"] if one["decision"] is not None}
    if wanted in votes:
        vote = votes[wanted]
        raise ProblemError(409, f"{vote['label']} has voted already: {vote['decision']}.")
    if not asked:
        raise ProblemError(403, "A manager decides this assessment.")
    names = ", ".join(
        f"{one['label']} ({one['value']})" if one["value"] else one["label"]
        for name, one in asked.items()
        if name not in votes
    )
    raise ProblemError(403, f"It waits for the vote of {names}: that is not you.")


async def _check_may_return(
    connection: AsyncConnection[DictRow], user: User, submitted: DictRow
) -> None:
    if not await _may_return(connection, user, submitted):
        raise ProblemError(403, "Managers, and those who vote on it, can return an assessment.")


async def _may_return(connection: AsyncConnection[DictRow], user: User, submitted: DictRow) -> bool:
    if user.role.includes(Role.MANAGER):
        return True
    asked = [{name: one[name] for name in ("function", "value")} for one in submitted["approvals"]]
    parameters = {"approvals": Jsonb(asked), "user_id": user.id}
    return bool((await fetch_one(connection, queries.HOLDS_ONE_OF, parameters))["holds"])


async def _approvals(
    connection: AsyncConnection[DictRow], opportunity_id: int
) -> list[dict[str, Any]]:
    """Return the declared approvals, with the values of the deal that route them."""
    decisions = (await read_rules(connection)).decisions
    deal = (await fetch_one(connection, queries.DEAL, [opportunity_id]))["fields"]
    approvals = []
    for name in decisions.approvals:
        function = decisions.functions[name]
        value = None if function.by is None else deal.get(function.by)
        text = None if value is None else str(value).strip()
        approvals.append({"function": name, "label": function.label, "value": text})
    return approvals


async def list_comments(
    connection: AsyncConnection[DictRow], user: User, assessment_id: int
) -> list[DictRow]:
    """List the comments on an assessment, the oldest first."""
    user.must_be(Role.VIEWER)
    await _get(connection, assessment_id)
    return await (await connection.execute(queries.COMMENTS, [assessment_id])).fetchall()


async def comment(
    connection: AsyncConnection[DictRow], user: User, assessment_id: int, new: NewComment
) -> DictRow:
    """Comment on an assessment, whatever its status."""
    user.must_be(Role.ASSESSOR)
    await _get(connection, assessment_id)
    parameters = {"assessment_id": assessment_id, "author_id": user.id, "body": new.body}
    return await fetch_one(connection, queries.COMMENT, parameters) | {"author": user.name}


async def _get(connection: AsyncConnection[DictRow], assessment_id: int) -> DictRow:
    missing = f"There is no assessment {assessment_id}."
    return _complete(await fetch_or_404(connection, queries.GET, [assessment_id], missing))


def _complete(row: DictRow) -> DictRow:
    """Add to an assessment what follows from its criteria."""
    criteria = Criteria.model_validate(row["criteria"])
    scores = {key: given["score"] for key, given in row["scores"].items()}
    return row | {
        "criteria": criteria_in_order(criteria),
        "suggestion": criteria.suggestion(scores),
    }


async def _criteria_of(connection: AsyncConnection[DictRow], assessment: DictRow) -> Criteria:
    row = await fetch_one(connection, queries.CRITERIA, [assessment["criteria_id"]])
    return Criteria.model_validate(row["content"])


def _check_scores(criteria: Criteria, scores: dict[str, int]) -> None:
    """Refuse scores that the criteria don't know; raises 422."""
    for key, score in scores.items():
        item = criteria.criteria.get(key)
        if item is None:
            known = ", ".join(criteria.criteria)
            raise ProblemError(422, f"body.scores.{key}: there is no such criterion, only {known}")
        if score > item.scale:
            detail = f"body.scores.{key}.score: {item.title} goes from 0 to {item.scale}"
            raise ProblemError(422, detail)


async def _create(
    connection: AsyncConnection[DictRow], opportunity_id: int, user_id: int | None
) -> DictRow:
    """Create a draft with today's criteria, and with what the last version said of them."""
    id_, criteria = await read_criteria(connection)
    last = await (await connection.execute(queries.LAST, [opportunity_id])).fetchone() or {}
    scores = {
        key: given
        for key, given in last.get("scores", {}).items()
        if key in criteria.criteria and given["score"] <= criteria.criteria[key].scale
    }
    parameters = {
        "opportunity_id": opportunity_id,
        "version": last.get("version", 0) + 1,
        "criteria_id": id_,
        "scores": Jsonb(scores),
        "weighted_score": criteria.weighted_score(
            {key: given["score"] for key, given in scores.items()}
        ),
        "summary": last.get("summary", ""),
        "recommendation": last.get("recommendation"),
        "user_id": user_id,
    }
    created = await fetch_one(connection, queries.CREATE, parameters)
    return await _get(connection, created["id"])


async def _lock(
    connection: AsyncConnection[DictRow], assessment_id: int, etag: str, status: str
) -> DictRow:
    """Lock an assessment that is to be changed: its deal first, as everyone does who locks both."""
    assessment = await _get(connection, assessment_id)
    deal = await lock_opportunity(connection, assessment["opportunity_id"])
    check_open(deal["crm_outcome"])
    assessment = await fetch_one(connection, queries.LOCK, [assessment_id])
    check_match(etag, etag_of(assessment))
    if assessment["status"] != status:
        present = assessment["status"].lower()
        detail = f"The assessment is {present}; it can be changed so only as {status.lower()}."
        raise ProblemError(409, detail)
    return assessment


async def _move_deal(
    connection: AsyncConnection[DictRow], user: User, opportunity_id: int, status: str
) -> None:
    change = {"workflow_status": status}
    await change_opportunity(connection, user, opportunity_id, change, by_assessment=True)
