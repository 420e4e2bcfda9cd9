"""The bid team's workflow: the states of a deal, and who may move one between them.

    NEW → ASSIGNED → UNDER_ASSESSMENT → PENDING_REVIEW → APPROVED (bid) or REJECTED (no bid)

Only an assessment leads beyond UNDER_ASSESSMENT: submitted, then decided. `require_assessment:
false` in crm.yml is for teams that work without.

WON, LOST and CLOSED come from the CRM alone (transform/macros/workflow_rule.sql): a deal that
the CRM has closed, as its `crm_outcome` says, is the CRM's until the CRM reopens it.
"""

from dataclasses import dataclass

from fastapi import APIRouter
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field

from api.auth import CurrentUser, Role
from api.database import Connection, fetch_one
from api.problems import ProblemError, answers
from declared.decisions import Decisions
from declared.store import CURRENT

Moves = dict[str, dict[str, Role]]

# From a state to a state, and the role that it takes. Steps back stand last.
MOVES: Moves = {
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
# What leads to these states, if assessments are required.
DOORS = {
    "PENDING_REVIEW": "It is reached by submitting the deal's assessment.",
    "APPROVED": "It is reached by deciding a submitted assessment.",
    "REJECTED": "It is reached by deciding a submitted assessment.",
}
# A decision that is taken back begins a new assessment: the decided one stays as it is.
_REOPENED: Moves = {state: {"UNDER_ASSESSMENT": Role.MANAGER} for state in ("APPROVED", "REJECTED")}
MOVES_BESIDE_ASSESSMENTS: Moves = {
    before: {after: role for after, role in targets.items() if after not in DOORS}
    for before, targets in (MOVES | _REOPENED).items()
}
FROM_CRM = ("WON", "LOST", "CLOSED")

router = APIRouter(prefix="/api/workflow", tags=["opportunities"])


@dataclass(frozen=True)
class Rules:
    """The workflow as the customer declares it."""

    decisions: Decisions

    @property
    def moves(self) -> Moves:
        """The moves that people make by hand."""
        return MOVES_BESIDE_ASSESSMENTS if self.decisions.require_assessment else MOVES

    def moves_from(self, before: str) -> dict[str, Role]:
        """Return the states to which an open deal can be moved, with the role that it takes.

        A status that is none of the workflow, from another system say, can be put right by a
        manager.
        """
        if before in MOVES:
            return self.moves[before]
        closed = DOORS if self.decisions.require_assessment else ()
        return {state: Role.MANAGER for state in MOVES if state not in closed}

    def allowed_moves(self, before: str, role: Role) -> list[str]:
        """Return the states to which a role may move an open deal."""
        return [state for state, needed in self.moves_from(before).items() if role.includes(needed)]

    def door(self, state: str) -> str:
        """Return how deals come to a state to which nobody moves them; empty: by moves."""
        return DOORS.get(state, "") if self.decisions.require_assessment else ""

    def label(self, state: str) -> str:
        """Return how people call a state."""
        return self.decisions.label(state)

    def check_move(self, before: str, after: str, role: Role) -> None:
        """Refuse a move of an open deal that the workflow does not know, or that is above a role.

        Raises:
            ProblemError: 403 or 409 with `allowed`, the states that the role may move the deal to.
        """
        if before == after:
            return
        allowed = self.allowed_moves(before, role)
        words = ", ".join(map(self.label, allowed))
        may = f"You may move it to {words}." if allowed else "You may not move it."
        first, last = self.label(before), self.label(after)
        moves = self.moves_from(before)
        if after in FROM_CRM:
            raise ProblemError(409, f"{last} comes from the CRM alone. {may}", allowed=allowed)
        if after not in moves:
            reasons = [f"A deal can't be moved from {first} to {last}.", may]
            if self.decisions.require_assessment and after in DOORS:
                reasons.insert(1, DOORS[after])
            raise ProblemError(409, " ".join(reasons), allowed=allowed)
        if not role.includes(moves[after]):
            detail = f"From {first} to {last} takes the role {moves[after]}. {may}"
            raise ProblemError(403, detail, allowed=allowed)

    def check_step(self, before: str, after: str) -> None:
        """Refuse a step that an assessment can't make from the status that its deal has.

        Raises:
            ProblemError: 409.
        """
        if before != after and after not in MOVES.get(before, {}):
            first, last = self.label(before), self.label(after)
            detail = f"The deal is {first}: it can't become {last}. Move it first."
            raise ProblemError(409, detail)


async def read_rules(connection: AsyncConnection[DictRow]) -> Rules:
    """Return the rules that are valid now: a change of crm.yml needs no restart."""
    row = await fetch_one(connection, CURRENT, ["decisions"])
    return Rules(Decisions.model_validate(row["content"]))


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


class Move(BaseModel):
    """A move that a role, and those above it, may make."""

    before: str = Field(examples=["NEW"])
    after: str = Field(examples=["ASSIGNED"])
    role: Role


class FunctionAnswer(BaseModel):
    """Something that people are beside their role."""

    label: str = Field(examples=["Practice head"])
    by: str | None = Field(description="The field that routes deals to the holders of a value")


class Workflow(BaseModel):
    """The states of a deal, the moves between them, and who decides."""

    states: list[str] = Field(examples=[list(MOVES)])
    from_crm: list[str] = Field(
        description="States that the CRM alone gives and takes", examples=[list(FROM_CRM)]
    )
    moves: list[Move] = Field(description="Those that `PATCH /api/opportunities/{id}` makes")
    labels: dict[str, str] = Field(description="Of each state, as people read it")
    days: dict[str, int] = Field(description="How long a deal should have a state at most")
    require_assessment: bool = Field(
        description="Only a submitted assessment leads to PENDING_REVIEW, and only its decision "
        "to APPROVED or REJECTED"
    )
    four_eyes: bool = Field(description="Who submitted an assessment does not decide it")
    functions: dict[str, FunctionAnswer]
    approvals: list[str] = Field(
        description="The functions that all have to approve; none: one manager decides"
    )
    parts: dict[str, str] = Field(description="The parts in which people work on a deal")


@router.get("", responses=answers(401))
async def get_workflow(_: CurrentUser, connection: Connection) -> Workflow:
    """Get the states of a deal, who may move one between them, and who decides."""
    rules = await read_rules(connection)
    decisions = rules.decisions
    moves = [
        Move(before=before, after=after, role=role)
        for before, targets in rules.moves.items()
        for after, role in targets.items()
    ]
    return Workflow(
        states=list(MOVES),
        from_crm=list(FROM_CRM),
        moves=moves,
        labels={state: rules.label(state) for state in (*MOVES, *FROM_CRM)},
        days=decisions.days,
        **decisions.model_dump(include={"require_assessment", "four_eyes", "approvals", "parts"}),
        functions={
            name: FunctionAnswer(label=function.label, by=function.by)
            for name, function in decisions.functions.items()
        },
    )
