"""Changes of an opportunity by the bid team, under the workflow's rules."""

from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.audit import record
from api.auth import Role, User
from api.problems import ProblemError
from api.workflow import Rules, check_open, read_rules

# Waits for a merge that holds the row, and then sees what that made of it.
LOCK: LiteralString = """
select id, workflow_status, assigned_to, crm_outcome
from opportunities
where id = %s
for no key update
"""
CHANGE: LiteralString = """
update opportunities
set workflow_status = %(workflow_status)s, assigned_to = %(assigned_to)s
where id = %(id)s
"""
# For the history of the deal: see the trigger on the table.
SIGN: LiteralString = "select set_config('app.changed_by', %s, true)"
NOTE_ASSIGNMENT: LiteralString = """
insert into opportunity_changes (opportunity_id, field, old_value, new_value, changed_by)
values (
    %s, 'assigned_to',
    (select name from users where id = %s), (select name from users where id = %s),
    %s
)
"""
# It would wait for ever if its deal went back to work.
SUBMITTED: LiteralString = """
select id from assessments where opportunity_id = %s and status = 'SUBMITTED'
"""
IS_ACTIVE: LiteralString = "select true from users where id = %s and active"


async def lock_opportunity(connection: AsyncConnection[DictRow], opportunity_id: int) -> DictRow:
    """Keep a deal as it is for the rest of the transaction, and return what stands of it.

    Raises:
        ProblemError: 404, there is none.
    """
    deal = await (await connection.execute(LOCK, [opportunity_id])).fetchone()
    if deal is None:
        raise ProblemError(404, f"There is no opportunity {opportunity_id}.")
    return deal


async def change_opportunity(
    connection: AsyncConnection[DictRow],
    user: User,
    opportunity_id: int,
    change: dict[str, Any],
    *,
    by_assessment: bool = False,
) -> dict[str, Any]:
    """Change the status or the assignee of a deal, in the caller's transaction.

    What it had before of what is changed is returned.

    Args:
        connection: To the database.
        user: Who changes it.
        opportunity_id: The deal.
        change: May hold `workflow_status` and `assigned_to`.
        by_assessment: Whether its assessment was submitted or decided, by one who may do that.

    Raises:
        ProblemError: 403, 404, 409 or 422, why not.
    """
    before = await lock_opportunity(connection, opportunity_id)
    check_open(before["crm_outcome"])
    after = before | change
    steps = before["workflow_status"], after["workflow_status"]
    rules = await read_rules(connection)
    if by_assessment:
        rules.check_step(*steps)
    else:
        rules.check_move(*steps, user.role)
        await _check_no_vote_is_open(connection, rules, opportunity_id, *steps)
    if after["assigned_to"] != before["assigned_to"]:
        await check_assignment(
            connection, user, before["assigned_to"], after["assigned_to"], "assigned_to"
        )
    if after == before:
        return {}
    await connection.execute(SIGN, [user.name])
    await connection.execute(CHANGE, after)
    if after["assigned_to"] != before["assigned_to"]:
        people = [before["assigned_to"], after["assigned_to"]]
        await connection.execute(NOTE_ASSIGNMENT, [opportunity_id, *people, user.name])
    changed = [name for name in ("workflow_status", "assigned_to") if after[name] != before[name]]
    states = [{name: state[name] for name in changed} for state in (before, after)]
    await record(connection, user, "update", "opportunity", opportunity_id, *states)
    return states[0]


async def _check_no_vote_is_open(
    connection: AsyncConnection[DictRow], rules: Rules, opportunity_id: int, before: str, after: str
) -> None:
    if before == after or before != "PENDING_REVIEW" or not rules.decisions.require_assessment:
        return
    found = await (await connection.execute(SUBMITTED, [opportunity_id])).fetchone()
    if found is not None:
        detail = "Its assessment waits for a decision: decide or return that."
        raise ProblemError(409, detail, allowed=[], assessment_id=found["id"])


async def check_assignment(
    connection: AsyncConnection[DictRow],
    user: User,
    before: int | None,
    after: int | None,
    field: str,
) -> None:
    """Check that a user may give to `after` what `before` has had; None is nobody.

    Raises:
        ProblemError: 403, a manager assigns others; 422, naming the field: no such user.
    """
    own = {before, after} <= {user.id, None}
    if not own and not user.role.includes(Role.MANAGER):
        raise ProblemError(403, "You may take a deal or give it back; a manager assigns others.")
    if (
        after is not None
        and await (await connection.execute(IS_ACTIVE, [after])).fetchone() is None
    ):
        raise ProblemError(422, f"body.{field}: there is no active user {after}")
