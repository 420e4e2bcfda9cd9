"""The bid team's workflow: the states of a deal, and who may move one between them.

    NEW → ASSIGNED → UNDER_ASSESSMENT → PENDING_REVIEW → APPROVED (bid) or REJECTED (no bid)

WON, LOST and CLOSED come from the CRM alone (transform/macros/workflow_rule.sql): a deal that
the CRM has closed, as its `crm_outcome` says, is the CRM's until the CRM reopens it.
"""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.auth import CurrentUser, Role
from api.problems import ProblemError, answers

# From a state to a state, and the role that it takes. Steps back stand last.
MOVES: dict[str, dict[str, Role]] = {
    "NEW": {"ASSIGNED": Role.ASSESSOR},
    "ASSIGNED": {"UNDER_ASSESSMENT": Role.ASSESSOR, "NEW": Role.ASSESSOR},
    "UNDER_ASSESSMENT": {"PENDING_REVIEW": Role.ASSESSOR, "ASSIGNED": Role.ASSESSOR},
    "PENDING_REVIEW": {
        "APPROVED": Role.MANAGER,
        "REJECTED": Role.MANAGER,
        "UNDER_ASSESSMENT": Role.MANAGER,
    },
    "APPROVED": {"PENDING_REVIEW": Role.MANAGER},
    "REJECTED": {"PENDING_REVIEW": Role.MANAGER},
}
FROM_CRM = ("WON", "LOST", "CLOSED")
# A status that nobody declared, from another system say, can be put right by a manager.
FROM_UNKNOWN = dict.fromkeys(MOVES, Role.MANAGER)

router = APIRouter(prefix="/api/workflow", tags=["opportunities"])


class Move(BaseModel):
    """A move that a role, and those above it, may make."""

    before: str = Field(examples=["NEW"])
    after: str = Field(examples=["ASSIGNED"])
    role: Role


class Workflow(BaseModel):
    """The states of a deal and the moves between them."""

    states: list[str] = Field(examples=[list(MOVES)])
    from_crm: list[str] = Field(
        description="States that the CRM alone gives and takes", examples=[list(FROM_CRM)]
    )
    moves: list[Move]


@router.get("", responses=answers(401))
async def get_workflow(_: CurrentUser) -> Workflow:
    """Get the states of a deal, and who may move one between them."""
    moves = [
        Move(before=before, after=after, role=role)
        for before, targets in MOVES.items()
        for after, role in targets.items()
    ]
    return Workflow(states=list(MOVES), from_crm=list(FROM_CRM), moves=moves)


def allowed_moves(before: str, role: Role) -> list[str]:
    """Return the states to which a role may move an open deal."""
    moves = MOVES.get(before, FROM_UNKNOWN)
    return [state for state, needed in moves.items() if role.includes(needed)]


def check_move(before: str, after: str, crm_outcome: str | None, role: Role) -> None:
    """Refuse a move that the workflow does not know, or that is above a role.

    Raises:
        ProblemError: 403 or 409 with `allowed`, the states that the role may move the deal to.
    """
    check_open(crm_outcome)
    if before == after:
        return
    moves = MOVES.get(before, FROM_UNKNOWN)
    allowed = allowed_moves(before, role)
    may = f"You may move it to {', '.join(allowed)}." if allowed else "You may not move it."
    if after in FROM_CRM:
        raise ProblemError(409, f"{after} comes from the CRM alone. {may}", allowed=allowed)
    if after not in moves:
        raise ProblemError(409, f"A deal can't go from {before} to {after}. {may}", allowed=allowed)
    if not role.includes(moves[after]):
        detail = f"From {before} to {after} takes the role {moves[after]}. {may}"
        raise ProblemError(403, detail, allowed=allowed)


def check_open(crm_outcome: str | None) -> None:
    """Refuse an edit of a deal that the CRM has closed.

    Raises:
        ProblemError: 409.
    """
    if crm_outcome in FROM_CRM:
        detail = (
            f"The CRM has closed this deal ({crm_outcome}): it can be edited if the CRM reopens it."
        )
        raise ProblemError(409, detail, allowed=[])
