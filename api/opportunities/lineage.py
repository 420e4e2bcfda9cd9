"""Where each value of a deal comes from: the attribute, what it was read as, the rule, the run."""

import json
from decimal import Decimal
from typing import Annotated, Any, LiteralString
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import AwareDatetime, BaseModel, Field

from api.auth import CurrentUser, User
from api.console.pages import console_router, page
from api.database import Connection, fetch_one
from api.exact import exact_response
from api.fields import CurrentFields, Fields, shown
from api.opportunities import service
from api.problems import answers
from api.types import PathId, Text
from api.workflow import FROM_CRM

router = APIRouter(prefix="/api/opportunities", tags=["opportunities"])
pages = console_router()

READ: LiteralString = "select * from attributes_as_read(%s)"
# Of a field that has not changed, the run that brought the deal has brought the value.
ARRIVAL: LiteralString = """
select arrived_at as changed_at, null as changed_by, run_id
from opportunity_arrivals
where ids @> %s::bigint
order by id
limit 1
"""
LAST_CHANGES: LiteralString = """
select distinct on (field) field, changed_at, changed_by, run_id
from opportunity_changes
where opportunity_id = %s
order by field, id desc
"""
OUTCOME: LiteralString = """
select
    unknown_status_code,
    workflow_status_before_close as before_close,
    (select source from status_outcomes where code = %(code)s) as source,
    exists (
        select from declared_outcomes where section = 'stages' and name = stage
    ) as is_stage_declared
from opportunities
where id = %(id)s
"""
CODES = ("StatusCode", "StageStatusCd")
"""The attributes that decide on the outcome: the first one with a value. Else the stage does."""
SAME = "as it is in the CRM"
RULES = {
    "sales_owner": "the number, as text",
    "practice": "an attribute of your own, in whatever case",
    "geo": "an attribute of your own, in whatever case",
    "region": "an attribute of your own, in whatever case",
    "sector": "an attribute of your own, in whatever case",
    "win_probability": "a record with one outside of 0 to 100 is rejected",
    "close_date": "a record with one before 1900 or after 9999 is rejected",
    "remote_created_at": "in UTC",
    "remote_updated_at": "in UTC",
}
OF_OUTCOME = {
    "declared": "crm.yml declares what this code means",
    "crm": "the CRM's list says the category of this code",
    "row": "the category that the CRM's records give this code",
    "predefined": "one of the four predefined codes",
}


class Origin(BaseModel):
    """Where the value of a field comes from."""

    field: str = Field(examples=["deal_value"])
    label: str = Field(examples=["Value"])
    attribute: str | None = Field(
        description="Of the CRM's record; null: the value is not the CRM's", examples=["Revenue"]
    )
    as_read: str | None = Field(
        description="What the attribute was when the deal was last loaded, as text",
        examples=["1250000.5"],
    )
    rule: str = Field(description="How the value is made of it", examples=[SAME])
    value: Any = Field(description="What the deal has now", examples=[1250000.5])
    changed_at: AwareDatetime | None = Field(
        description="When it became so here; null: the history does not know"
    )
    changed_by: str | None = Field(description="The user who changed it; null: nobody did")
    run_id: UUID | None = Field(description="The run that brought it; null: none did")


class Lineage(BaseModel):
    """Where the values of a deal come from."""

    remote_id: str
    read_at: AwareDatetime | None = Field(
        description="When the record was read that was last loaded; null: it is here no more"
    )
    fields: list[Origin]


async def read_lineage(
    connection: AsyncConnection[DictRow], user: User, fields: Fields, remote_id: str
) -> dict[str, Any]:
    """Return where the values of a deal come from, as `Lineage` says.

    Raises:
        ProblemError: 404, there is no such deal.
    """
    item = await service.get_item_by_remote_id(connection, user, fields, remote_id)
    deal = json.loads(item, parse_float=Decimal)
    read = await (await connection.execute(READ, [remote_id])).fetchall()
    as_read = {row["attribute"]: row["as_read"] for row in read}
    found = await (await connection.execute(LAST_CHANGES, [deal["id"]])).fetchall()
    changes = {row.pop("field"): row for row in found}
    arrival = await (await connection.execute(ARRIVAL, [deal["id"]])).fetchone()
    unknown = {"changed_at": None, "changed_by": None, "run_id": None}

    def origin(
        name: str, label: str, attribute: str | None, rule: str, value: Any, *, is_own: bool = False
    ) -> dict[str, Any]:
        # The first value of an own field is no change.
        first = unknown if is_own else arrival or unknown
        return {
            "field": name,
            "label": label,
            "attribute": attribute,
            "as_read": None if attribute is None else as_read.get(attribute),
            "rule": rule,
            "value": value,
        } | changes.get(name, first)

    decides = next((name for name in CODES if (as_read.get(name) or "").strip()), None)
    code = None if decides is None else as_read[decides]
    outcome = await fetch_one(connection, OUTCOME, {"id": deal["id"], "code": code})
    origins = [origin("remote_id", "OptyId", "OptyId", "the number, as text", deal["remote_id"])]
    for field in fields.all:
        if field.column is None:
            rule = f"of the type {field.type or 'text'}; a record with another one is rejected"
            value = deal["custom"].get(field.name)
        else:
            rule, value = RULES.get(field.name, SAME), deal[field.column]
        label = fields.labels[field.name]
        is_own = field.column is None
        origins.append(origin(field.name, label, field.attribute, rule, value, is_own=is_own))
    origins += [
        origin(
            "crm_outcome",
            "Outcome in the CRM",
            decides or "SalesStage",
            _rule_of_outcome(code, outcome),
            deal["crm_outcome"],
        ),
        origin(
            "workflow_status",
            "Workflow",
            None,
            _rule_of_workflow(deal["workflow_status"], outcome["before_close"]),
            deal["workflow_status"],
        ),
    ]
    if deal["deleted_at"] is not None:
        rule = "a complete read of the CRM did not find the deal"
        origins.append(origin("deleted_at", "Deleted", None, rule, deal["deleted_at"]))
    read_at = read[0]["read_at"] if read else None
    return {"remote_id": remote_id, "read_at": read_at, "fields": origins}


def _rule_of_outcome(code: str | None, found: DictRow) -> str:
    if found["unknown_status_code"] is not None:
        return "nobody knows what this code means, so it changes nothing"
    if code is not None:
        return OF_OUTCOME.get(found["source"], "nobody has said yet what this code means")
    if found["is_stage_declared"]:
        return "it has no code, and crm.yml declares what this stage means"
    return "it has neither a code nor a stage that crm.yml declares: it counts as open"


def _rule_of_workflow(status: str, before_close: str | None) -> str:
    if status in FROM_CRM and before_close is not None:
        return f"the CRM has closed the deal; if it opens it again, this is {before_close} again"
    return "the bid team's; a sync changes it only when the CRM closes the deal"


@router.get("/{remote_id}/lineage", response_model=Lineage, responses=answers(401, 404, 422))
async def get_lineage(
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    remote_id: Annotated[Text, Path()],
) -> Response:
    """Tell where each value of a deal comes from, by the CRM's OptyId.

    `as_read` is the record that was last loaded. If a later version was rejected, or it breaks a
    rule, `value` is still the one before.
    """
    found = await read_lineage(connection, user, fields, remote_id)
    return exact_response(Lineage.model_validate(found).model_dump())


@pages.get("/opportunities/{id}/lineage")
async def show_lineage(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    opportunity_id: PathId,
) -> Response:
    """Show where the values of a deal come from."""
    deal = json.loads(await service.get_item(connection, user, fields, opportunity_id))
    lineage = await read_lineage(connection, user, fields, deal["remote_id"])
    own = {field.name: field for field in fields.own}
    kept = [one for one in lineage["fields"] if one["field"] not in fields.hidden]
    return page(
        request, "_lineage.html", loaded_at=lineage["read_at"], origins=kept, own=own, shown=shown
    )
