"""One opportunity: what the CRM says of it, what became of it, and its assessment."""

import json
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Form, Path, Query, Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field

from api.assessments import service as assessments_service
from api.assessments.schemas import AssessmentQuery
from api.auth import CurrentUser, User
from api.console.pages import changed, console_router, page
from api.database import Connection
from api.fields import CurrentFields, Fields, shown, shown_text
from api.opportunities import service
from api.opportunities.choices import people
from api.opportunities.parts import PartChange, list_parts, set_part
from api.opportunities.schemas import HistoryRequest
from api.opportunities.service import STALE_DAYS
from api.sync.schemas import RejectsQuery
from api.sync.service import list_rejects
from api.types import PathId, Text
from api.workflow import read_rules
from database.environment import setting
from declared.model import Key

router = console_router()

# Where Oracle's page of an opportunity is, on the CRM's host unless it names another.
CRM_LINK = "/fscmUI/faces/deeplink?objType=OPPORTUNITY&action=EDIT_IN_TAB&objKey=OptyId%3D{}"

FACTS = (
    ("Customer", "customer"),
    ("Stage", "stage"),
    ("Status in the CRM", "status_code"),
    ("Outcome in the CRM", "crm_outcome"),
    ("Sales owner", "sales_owner"),
    ("Practice", "practice"),
    ("Geo", "geo"),
    ("Region", "region"),
    ("Sector", "sector"),
    ("Number", "opty_number"),
    ("OptyId", "remote_id"),
)
FIELDS = {
    "stage": "Stage",
    "status_code": "Status in the CRM",
    "crm_outcome": "Outcome in the CRM",
    "deal_value": "Value",
    "win_probability": "Win probability",
    "close_date": "Close date",
    "sales_owner": "Sales owner",
    "workflow_status": "Workflow",
    "assigned_to": "Assigned to",
    "deleted_at": "Deleted in the CRM",
}


def crm_link(remote_id: str) -> str | None:
    """Return the address of a deal in the CRM, if it is known where that is."""
    base = setting("ORACLE_BASE_URL")
    if base is None or not base.startswith(("https://", "http://")):
        return None
    return base.rstrip("/") + CRM_LINK.format(quote(remote_id, safe=""))


@router.get("/opportunities/{id}")
async def show_deal(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    opportunity_id: PathId,
) -> Response:
    """Show a deal."""
    deal = await service.read_deal(
        connection, user, request.app.state.unchanged, fields, opportunity_id
    )
    users = await people(connection, user)
    of_opportunity = AssessmentQuery.model_validate({"opportunity_id": opportunity_id})
    assessments = await assessments_service.list_assessments(connection, user, of_opportunity)
    of_deal = RejectsQuery.model_validate(
        {"stream": "opportunities", "remote_id": deal["remote_id"], "limit": 1}
    )
    rejects = await list_rejects(connection, user, of_deal)
    first_changes = HistoryRequest.model_validate({"limit": 30})
    # Taken from the rows that are shown: a second read could already see another edit.
    open_ones = [item for item in assessments if item["status"] in ("DRAFT", "SUBMITTED")]
    context = {
        "deal": deal,
        "conversion": await service.read_conversion(connection, user, opportunity_id),
        "etag": assessments_service.etag_of(open_ones[0]) if open_ones else None,
        "link": crm_link(deal["remote_id"]),
        "rejects": rejects,
        "facts": [
            (fields.title(name, title), name) for title, name in FACTS if not fields.is_hidden(name)
        ],
        "own_facts": [field for field in fields.own if field.place != "hidden"],
        "fields": fields,
        "labels": fields.labels,
        "shown": shown,
        "users": users,
        "names": {row["id"]: row["label"] for row in users},
        "stale_days": STALE_DAYS,
        "assessments": assessments,
        "comments": [
            {**said, "version": assessment["version"]}
            for assessment in reversed(assessments)
            for said in await assessments_service.list_comments(connection, user, assessment["id"])
        ],
        "parts": await list_parts(connection, user, opportunity_id),
        **await _votes(user, connection, open_ones),
    } | await _timeline(user, connection, fields, opportunity_id, first_changes)
    return page(request, "deal.html", **context)


@router.get("/opportunities/{id}/timeline")
async def show_more_changes(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    opportunity_id: PathId,
    wanted: Annotated[HistoryRequest, Query()],
) -> Response:
    """Show older changes of a deal."""
    deal = await service.read_deal(
        connection, user, request.app.state.unchanged, fields, opportunity_id
    )
    changes = await _timeline(user, connection, fields, opportunity_id, wanted)
    return page(request, "_timeline.html", deal=deal, **changes)


async def _votes(
    user: User, connection: AsyncConnection[DictRow], open_ones: list[DictRow]
) -> dict[str, Any]:
    if not open_ones or open_ones[0]["status"] != "SUBMITTED":
        return {"votes_as": None, "may_return": False}
    return await assessments_service.ways_to_vote(connection, user, open_ones[0])


async def _timeline(
    user: User,
    connection: AsyncConnection[DictRow],
    fields: Fields,
    deal: int,
    wanted: HistoryRequest,
) -> dict[str, Any]:
    rules = await read_rules(connection)
    one_more = wanted.model_copy(update={"limit": wanted.limit + 1})
    changes = await service.list_changes(connection, user, deal, one_more, fields.hidden)
    return {
        "changes": changes[: wanted.limit],
        "has_more": len(changes) > wanted.limit,
        # The history has the names with which people sign in.
        "called": {row["name"]: row["label"] for row in await people(connection, user)},
        "titles": fields.labels
        | {name: fields.title(name, title) for name, title in FIELDS.items()}
        | {f"part {name}": label for name, label in rules.decisions.parts.items()},
        "own": {field.name: field for field in fields.own},
        "shown_text": shown_text,
        "rules": rules,
    }


@router.get("/remote/{remote_id}")
async def go_to_deal(
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    remote_id: Annotated[Text, Path()],
) -> Response:
    """Go to the deal of an OptyId."""
    item = await service.get_item_by_remote_id(connection, user, fields, remote_id)
    return Response(
        status_code=303, headers={"Location": f"/opportunities/{json.loads(item)['id']}"}
    )


class AssignForm(BaseModel):
    """The user that a deal is assigned to; empty for nobody."""

    assigned_to: Annotated[str, Field(pattern=r"^\d{0,15}$")] = ""
    etag: str | None = Field(None, max_length=100, description="Of the deal as it has to be")


@router.post("/opportunities/{id}/assign")
async def assign(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    opportunity_id: PathId,
    given: Annotated[AssignForm, Form()],
) -> Response:
    """Assign a deal."""
    assigned_to = int(given.assigned_to) if given.assigned_to else None
    made = await service.change(
        connection,
        user,
        fields,
        opportunity_id,
        {"assigned_to": assigned_to},
        if_match=given.etag,
    )
    words = "Assigned." if assigned_to else "Given back."
    path = f"/opportunities/{opportunity_id}"
    undo = made.before and {
        "path": f"{path}/assign",
        "values": {"assigned_to": made.before["assigned_to"] or "", "etag": made.etag},
        "target": "#deal-head",
    }
    return changed(request, path, words, "deal-changed", undo=undo)


class PartForm(BaseModel):
    """The part that is given to a user; empty for nobody."""

    assigned_to: Annotated[str, Field(pattern=r"^\d{0,15}$")] = ""
    part: Key


@router.post("/opportunities/{id}/part")
async def give_part(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    opportunity_id: PathId,
    given: Annotated[PartForm, Form()],
) -> Response:
    """Give a part of a deal to somebody, or to nobody."""
    user_id = int(given.assigned_to) if given.assigned_to else None
    change = PartChange(part=given.part, user_id=user_id)
    await set_part(connection, user, opportunity_id, change)
    words = "Assigned." if user_id else "Given back."
    return changed(request, f"/opportunities/{opportunity_id}", words, "deal-changed")
