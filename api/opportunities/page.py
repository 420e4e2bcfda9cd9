"""The table of opportunities: find, sort, page on, and move a deal in the workflow."""

import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from secrets import token_hex
from typing import Annotated, Any, Self
from urllib.parse import parse_qs, urlencode

from fastapi import Form, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field, Json, ValidationError

from api.addresses import split
from api.auth import CurrentUser, User
from api.console.pages import changed, console_router, page, wants_part
from api.database import Connection
from api.fields import CurrentFields, Fields, shown
from api.opportunities import service, views
from api.opportunities.choices import frequent_values, owner_names, people
from api.opportunities.many import Results, Step, change_each, ways_back, words_of
from api.opportunities.schemas import (
    MOST_CHOSEN,
    MOST_EXPORTED,
    OpportunityChange,
    PageRequest,
    SortKey,
)
from api.opportunities.service import STALE_DAYS
from api.opportunities.turns import given_up_in_time
from api.opportunities.unchanged import unchanged_for
from api.opportunities.views import NewView, PageName, closed_in, title_of
from api.types import Id, PathId
from api.workflow import MOVES, Rules, read_rules

router = console_router()


class Column(StrEnum):
    """A column that the table can show beside the name, in the table's order."""

    CUSTOMER = "customer"
    STAGE = "stage"
    WORKFLOW_STATUS = "workflow_status"
    DEAL_VALUE = "deal_value"
    WIN_PROBABILITY = "win_probability"
    CLOSE_DATE = "close_date"
    ASSIGNED_TO = "assigned_to"
    SALES_OWNER = "sales_owner"
    PRACTICE = "practice"
    GEO = "geo"
    REGION = "region"
    SECTOR = "sector"
    OPTY_NUMBER = "opty_number"
    STATUS_CODE = "status_code"
    CURRENCY = "currency"
    REMOTE_CREATED_AT = "remote_created_at"
    REMOTE_UPDATED_AT = "remote_updated_at"
    LAST_SYNCED_AT = "last_synced_at"


TITLES = {
    Column.CUSTOMER: "Customer",
    Column.STAGE: "Stage",
    Column.WORKFLOW_STATUS: "Workflow",
    Column.DEAL_VALUE: "Value",
    Column.WIN_PROBABILITY: "Win",
    Column.CLOSE_DATE: "Closes",
    Column.ASSIGNED_TO: "Assigned",
    Column.SALES_OWNER: "Owner",
    Column.PRACTICE: "Practice",
    Column.GEO: "Geo",
    Column.REGION: "Region",
    Column.SECTOR: "Sector",
    Column.OPTY_NUMBER: "Number",
    Column.STATUS_CODE: "Status in the CRM",
    Column.CURRENCY: "Currency",
    Column.REMOTE_CREATED_AT: "Created in the CRM",
    Column.REMOTE_UPDATED_AT: "Changed in the CRM",
    Column.LAST_SYNCED_AT: "Synced",
}
KINDS = {
    "name": "wide",
    Column.WORKFLOW_STATUS: "status",
    Column.DEAL_VALUE: "number",
    Column.WIN_PROBABILITY: "percent",
    Column.CLOSE_DATE: "day",
    Column.REMOTE_CREATED_AT: "ago",
    Column.REMOTE_UPDATED_AT: "ago",
    Column.LAST_SYNCED_AT: "ago",
}
"""What columns hold that are no text. Columns of one kind have one width: so no row depends on the
others, and thousands of them stay cheap to lay out."""
OF_THE_TEAM = (Column.WORKFLOW_STATUS, Column.ASSIGNED_TO)
"""Usual columns that are no fields of the CRM."""


class View(PageRequest):
    """A view of the table: its address holds all of it."""

    columns: list[Annotated[str, Field(max_length=100)]] = Field(
        [], max_length=1000, description="Nothing: the usual ones"
    )

    rows: int | None = Field(
        None, ge=1, le=1000, description="How many rows more to show, to come back to a place"
    )

    def fit(self, fields: Fields, own: list[str], reporting: str | None) -> Self:
        """Return the view with the columns that there are; none: it has the user's own ones.

        The table sorts values in the reporting currency, if there is one.
        """
        titles = titles_of(fields)
        columns = [name for name in dict.fromkeys(self.columns) if name in titles]
        return self.model_copy(
            update={
                "columns": [] if columns == own else columns,
                "sort": _with_value_key(self.sort, reporting),
            }
        )

    def without_closed(self, fields: Fields) -> tuple[Self, list[str]]:
        """Return the view without what lists do not have any more, and what people call that.

        Addresses and saved views live longer than what crm.yml says.
        """
        # A parameter may also have another type by now.
        own = dict((self.model_extra or {}).items())
        wrong = [
            name for name in own if name in fields.parameters and not fields.accepts(own, name)
        ]
        names = [*self.model_dump(exclude_defaults=True), *wrong]
        names += [name for name in self.missing if not fields.can_filter(name)]
        closed = [*closed_in(fields, names, self.sort), *wrong]
        if not closed:
            return self, []
        standard = {
            name: field.get_default(call_default_factory=True)
            for name, field in type(self).model_fields.items()
            if name in closed
        }
        missing = [name for name in self.missing if name not in closed]
        view = self.model_copy(update=standard | {"missing": missing})
        view.__pydantic_extra__ = {name: value for name, value in own.items() if name not in closed}
        return view, list(dict.fromkeys(title_of(fields, name) for name in closed))

    @property
    def key(self) -> str:
        """The table's sort key."""
        # The user is still typing, and ranking all deals with this letter is slow.
        is_typing = self.search is not None and len(self.search) == 1
        return SortKey.ID if self.sort is None and is_typing else super().key

    def query(self, without: str = "", **changes: Any) -> str:
        """Return the query of the address of this view, with some changes.

        `without` names a filter to leave out, or `name=value` one value of it.
        """
        given = self.model_dump(mode="json", exclude_defaults=True, exclude={"cursor", "rows"})
        given |= changes
        name, _, value = without.partition("=")
        if value:
            set_ones = given.get(name, [])
            values = set_ones if isinstance(set_ones, list) else [set_ones]
            given[name] = [one for one in values if str(one) != value]
        elif name:
            given.pop(name, None)
        kept = {key: value for key, value in given.items() if value not in (None, "", [])}
        return urlencode(_plain(kept), doseq=True)

    def address(self, path: str) -> str:
        """Return the address of this view of a page."""
        return f"{path}?{query}" if (query := self.query()) else path

    def sorted_by(self, name: str) -> str:
        """Return the query that sorts by a column, the other way round if it does already."""
        return self.query(sort=f"-{name}" if self.sort == name else name)

    def unlisted(self, reporting: str | None) -> list[tuple[str, str]]:
        """Return the filters of the address that the page has no control for: names and values."""
        given = self.model_dump(
            mode="json",
            exclude_defaults=True,
            include={
                "id",
                "region",
                "sector",
                "missing",
                # The page has controls for two of these, see `value_filters`.
                "min_value",
                "max_value",
                "min_reporting_value",
                "max_reporting_value",
                "late",
                "outliers",
                "taking_part",
                "waiting_for",
                "updated_since",
                "limit",
            },
        )
        return [
            (name, str(one))
            for name, value in given.items()
            if name not in value_filters(reporting)
            for one in (value if isinstance(value, list) else [value])
        ]

    @property
    def export_query(self) -> str:
        """The query of the API's export of this view."""
        return self.model_copy(update={"columns": [], "limit": 50}).query()

    def workbook_query(self, columns: list[str], reporting: str | None) -> str:
        """Return the query of the API's export as a workbook with these columns and their keys."""
        # A value says little without its currency.
        money = ["deal_value", "currency", "reporting_value", "reporting_currency"]
        money = money if reporting else money[:2]
        shown = [name for column in columns for name in (money if column in money else [column])]
        chosen = list(dict.fromkeys(["remote_id", "name", *shown]))
        if len(chosen) > MOST_EXPORTED:
            chosen = []  # all
        view = self.model_copy(update={"columns": chosen, "limit": 50})
        return view.query(format="xlsx")

    def chips(
        self, names: dict[int, str], owners: dict[str, str], rules: Rules, fields: Fields
    ) -> list[tuple[str, str]]:
        """Return each filter in words, and the query of the view without it."""
        chips = [
            (f"{fields.title(name, title)}: {value}", self.query(f"{name}={value}"))
            for name, title in (
                ("stage", "Stage"),
                ("practice", "Practice"),
                ("geo", "Geo"),
                ("region", "Region"),
                ("sector", "Sector"),
                ("currency", "Currency"),
            )
            for value in getattr(self, name)
        ]
        chips += [(f"No {name}", self.query(f"missing={name}")) for name in self.missing]
        chips += [
            (
                f"{fields.title('sales_owner', 'Owner')}: {owners.get(owner, owner)}",
                self.query(f"sales_owner={owner}"),
            )
            for owner in self.sales_owner
        ]
        chips += [
            (rules.label(state), self.query(f"workflow_status={state}"))
            for state in self.workflow_status
        ]
        chips += [
            (f"In the CRM: {outcome.lower()}", self.query(f"crm_outcome={outcome}"))
            for outcome in self.crm_outcome
        ]
        chips += [
            (f"Assigned to {names.get(id_, id_)}", self.query(f"assigned_to={id_}"))
            for id_ in self.assigned_to
        ]
        chips += [
            (f"A part for {names.get(id_, id_)}", self.query(f"taking_part={id_}"))
            for id_ in self.taking_part
        ]
        worth = fields.title("deal_value", "Value")
        closes = fields.title("close_date", "Closes")
        changed = fields.title("remote_updated_at", "Changed")
        for name, before, after in (
            ("search", "“", "”"),
            ("min_value", f"{worth} from ", ""),
            ("max_value", f"{worth} to ", ""),
            ("min_reporting_value", f"{worth}, converted, from ", ""),
            ("max_reporting_value", f"{worth}, converted, to ", ""),
            ("closing_after", f"{closes} from ", ""),
            ("closing_before", f"{closes} by ", ""),
            ("updated_since", f"{changed} since ", ""),
        ):
            value = getattr(self, name)
            if value is not None:
                chips.append((f"{before}{value}{after}", self.query(name)))
        for name, given in (self.model_extra or {}).items():
            for value in given if isinstance(given, list) else [given]:
                words = fields.parameters[name].chip.format(value)
                chips.append((words, self.query(f"{name}={value}")))
        if self.outliers:
            words = {"only": "Outliers only", "without": "Without outliers"}[self.outliers]
            chips.append((words, self.query("outliers")))
        if self.id:
            chips.append((f"{len(self.id)} chosen", self.query("id")))
        if self.late:
            chips.append(("Late", self.query("late")))
        if self.waiting_for:
            chips.append(("Waiting for me", self.query("waiting_for")))
        if self.include_deleted:
            chips.append(("With deleted ones", self.query("include_deleted")))
        return chips


def value_filters(reporting: str | None) -> tuple[str, str]:
    """Return the filters by the value that people compare deals by."""
    if reporting is None:
        return "min_value", "max_value"
    return "min_reporting_value", "max_reporting_value"


def value_key(reporting: str | None) -> str:
    """Return the sort key of the value that people compare deals by."""
    return SortKey.DEAL_VALUE if reporting is None else SortKey.REPORTING_VALUE


def _with_value_key(sort: str | None, reporting: str | None) -> str | None:
    """Return a sort; one by the value is one by the value that people compare deals by."""
    if sort is None or sort.removeprefix("-") not in (SortKey.DEAL_VALUE, SortKey.REPORTING_VALUE):
        return sort
    return ("-" if sort.startswith("-") else "") + value_key(reporting)


def titles_of(fields: Fields) -> dict[str, str]:
    """Return the titles of the columns that the table can show, by name."""
    built_in = {str(name): fields.title(name, title) for name, title in TITLES.items()}
    return {name: title for name, title in built_in.items() if not fields.is_hidden(name)} | {
        field.name: fields.labels[field.name] for field in fields.listed
    }


def usual(fields: Fields) -> list[str]:
    """Return the columns that a table has unless others are chosen."""
    own = [field.name for field in fields.listed]
    return [
        str(name) for name in Column if name in OF_THE_TEAM or fields.place(name) == "list"
    ] + own


def own_columns(request: Request, fields: Fields) -> list[str]:
    """Return the columns that a user has chosen last, in their order; else the usual ones."""
    titles = titles_of(fields)
    chosen = request.cookies.get("columns", "").split(".")
    return [name for name in dict.fromkeys(chosen) if name in titles] or usual(fields)


def own_sort(request: Request, fields: Fields, reporting: str | None) -> str | None:
    """Return the order that a user has chosen last; None: none, or there is no such any more."""
    sort = request.cookies.get("sort")
    known = fields.sort_keys(set(SortKey) - {SortKey.RELEVANCE})
    is_known = sort and sort.removeprefix("-") in known
    return _with_value_key(sort, reporting) if is_known else None


def _columns_of(
    request: Request, view: View, fields: Fields, reporting: str | None
) -> dict[str, Any]:
    """Return what templates need for the columns of a view."""
    titles = titles_of(fields)
    own = own_columns(request, fields)
    columns = view.columns or own
    sortable = set(fields.sort_keys(SortKey))
    sorts = {name: name for name in ("name", *titles) if name in sortable}
    if "deal_value" in sorts:
        sorts["deal_value"] = value_key(reporting)
    of_own = {field.name: "number" if field.type == "number" else "text" for field in fields.listed}
    return {
        "titles": titles,
        "columns": columns,
        # For others, who have other columns.
        "whole_query": view.query(columns=[] if columns == usual(fields) else columns),
        "kinds": dict.fromkeys(titles, "text") | KINDS | of_own,
        "own": {field.name: field for field in fields.listed},
        # The sort key of each column that has one.
        "sorts": sorts,
        "reporting": reporting,
        "shown": shown,
    }


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    return {key: "true" if value is True else value for key, value in given.items()}


def _view(**given: Any) -> str:
    return View.model_validate(given).query()


def presets(user: User, fields: Fields, reporting: str | None) -> list[tuple[str, str]]:
    """Return views that many want: their names and the queries of their addresses."""
    today = datetime.now(UTC).date()
    soon = {"closing_after": today, "closing_before": today + timedelta(days=30)}
    largest = _sorted(fields, f"-{value_key(reporting)}")
    views = [
        ("All", ""),
        ("Mine", _view(assigned_to=[user.id])),
        ("My parts", _view(taking_part=[user.id])),
        ("Waiting for me", _view(waiting_for="me")),
        ("New", _view(workflow_status=["NEW"], **largest)),
        ("To review", _view(workflow_status=["PENDING_REVIEW"])),
    ]
    if fields.can_filter("closing_before"):
        views.append(("Closing in 30 days", _view(**soon, **_sorted(fields, "close_date"))))
    if largest:
        views.append(("Largest", _view(**largest)))
    return views


def _sorted(fields: Fields, sort: str) -> dict[str, Any]:
    """Return the part of a view that sorts it, if crm.yml lets lists be sorted so."""
    return {"sort": sort} if fields.can_sort(sort.removeprefix("-")) else {}


@router.get("/opportunities")
async def show_opportunities(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    view: Annotated[View, Query()],
) -> Response:
    """Show the table, or the part of it that has changed."""
    unchanged = unchanged_for(request, user.seen)
    reporting = await service.read_reporting_currency(connection, user)
    view, closed = view.without_closed(fields)
    view = view.fit(fields, own_columns(request, fields), reporting)
    asked = view.query()
    if view.sort is None and view.search is None and "hx-request" not in request.headers:
        view = view.model_copy(update={"sort": own_sort(request, fields, reporting)})
    wanted = view.model_copy(update={"limit": max(view.limit, view.rows or 0)})
    sums, counted = [], None
    async with given_up_in_time(request):
        if view.cursor is None:
            sums = await service.read_sums(connection, user, unchanged, fields, view)
            counted = sum(row["deals"] for row in sums)
        deals, total, cursor = await service.read_deals(
            connection, user, unchanged, fields, wanted, counted
        )
    users = await people(connection, user)
    context: dict[str, Any] = {
        "view": view,
        "deals": deals,
        "total": total,
        "sums": sums,
        "next_cursor": cursor,
        "rules": await read_rules(connection),
        "fields": fields,
        **_columns_of(request, view, fields, reporting),
        "asked": asked,
        "value_filters": value_filters(reporting),
        "names": {row["id"]: row["label"] for row in users},
        "stale_days": STALE_DAYS,
        "owners": await owner_names(connection, user, view.sales_owner),
        "closed": closed,
    }
    if wants_part(request, "more"):
        return page(request, "_rows.html", **context)
    context |= await views_of(connection, user, fields, "list", presets(user, fields, reporting))
    if wants_part(request, "results"):
        response = page(request, "_changed_results.html", **context)
        response.headers["HX-Push-Url"] = view.address(request.url.path)
        return response
    choices = await request.app.state.choices.get(connection, user)
    return page(
        request,
        "opportunities.html",
        choices=choices,
        users=users,
        bulk_moves=_moves_of(user, context["rules"]),
        **context,
    )


def _moves_of(user: User, rules: Rules) -> list[str]:
    """Return the states to which a user may move some deals."""
    found = {after for before in MOVES for after in rules.allowed_moves(before, user.role)}
    return [state for state in MOVES if state in found]


async def views_of(
    connection: AsyncConnection[DictRow],
    user: User,
    fields: Fields,
    name: PageName,
    presets: list[tuple[str, str]],
) -> dict[str, Any]:
    """Return what templates need for the views of a page."""
    saved = await views.list_views(connection, user, fields, name)
    return {
        "presets": presets,
        "saved": [
            view | {"closed": [title_of(fields, one) for one in view["closed"]]} for view in saved
        ],
        "page_name": name,
    }


class ViewForm(NewView):
    """A view to save, from a form, which has texts only."""

    is_shared: bool = False


@router.post("/views")
async def save_view(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    new: Annotated[ViewForm, Form()],
) -> Response:
    """Save the view of the list or of the board that is shown."""
    saved = await views.save_view(connection, user, fields, new)
    path = "/board" if saved["page"] == "board" else "/opportunities"
    words = f"Saved: {saved['name']}"
    return changed(request, f"{path}?{saved['query']}", words, "views-changed")


@router.post("/views/{id}/delete")
async def delete_view(
    request: Request, user: CurrentUser, connection: Connection, view_id: PathId
) -> Response:
    """Delete a saved view."""
    await views.delete_view(connection, user, view_id)
    return changed(request, "/opportunities", "The view is deleted.", "views-changed")


@router.get("/fields/{name}/values")
async def offer_values(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    name: Annotated[str, Path(max_length=50)],
) -> Response:
    """Offer the most frequent values of an own field to its filter."""
    values = await frequent_values(connection, user, fields, name)
    return page(request, "_frequent.html", values=values)


# An empty field of a form counts as none, so that 0 is nobody.
UserOrNobody = Annotated[int, Field(ge=0, lt=10**15)]


class StatusForm(BaseModel):
    """A move in the workflow, the status from which it was made, and who gets the deal with it."""

    workflow_status: str = Field(max_length=100)
    seen: str
    assigned_to: UserOrNobody | None = None


@router.post("/opportunities/{id}/status")
async def move(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    opportunity_id: PathId,
    given: Annotated[StatusForm, Form()],
) -> Response:
    """Move a deal, unless it has moved since the page was made, and offer the way back."""
    wanted: dict[str, Any] = {"workflow_status": given.workflow_status}
    if given.assigned_to is not None:
        wanted["assigned_to"] = given.assigned_to or None
    made = await service.change(connection, user, fields, opportunity_id, wanted, seen=given.seen)
    deal = await service.read_deal(
        connection, user, request.app.state.unchanged, fields, opportunity_id
    )
    rules = await read_rules(connection)
    names = {row["id"]: row["label"] for row in await people(connection, user)}
    label = rules.label(deal["workflow_status"])
    if wanted.get("assigned_to"):
        label += f", {names[deal['assigned_to']]}"
    message: dict[str, Any] = {"text": f"{deal['name'] or deal['remote_id']}: {label}"}
    target = request.headers.get("hx-target", "")
    if given.seen in rules.allowed_moves(deal["workflow_status"], user.role):
        back = {"workflow_status": given.seen, "seen": deal["workflow_status"]}
        if "assigned_to" in made.before:
            back["assigned_to"] = made.before["assigned_to"] or 0
        message["undo"] = {
            "path": f"/opportunities/{opportunity_id}/status",
            "values": back,
            "target": f"#{target}",
        }
    if target == f"deal-{opportunity_id}":
        reporting = await service.read_reporting_currency(connection, user)
        response: Response = page(
            request,
            "_row.html",
            deal=deal,
            names=names,
            **_columns_of(request, _view_behind(request, fields, reporting), fields, reporting),
            stale_days=STALE_DAYS,
            rules=rules,
        )
        events: dict[str, Any] = {"message": message}
    else:
        response = Response(status_code=204)
        events = {"message": message, "deal-changed": {}}
    response.headers["HX-Trigger"] = json.dumps(events)
    return response


class BulkForm(BaseModel):
    """A change of the deals that are chosen: of their status, or of whom they are assigned to."""

    deal: list[Annotated[str, Field(pattern=r"^[1-9]\d{0,14} ")]] = Field(
        min_length=1, max_length=MOST_CHOSEN, description="Ids, each with the status as it was seen"
    )
    row: list[Id] = Field([], max_length=MOST_CHOSEN, description="Those that have a row")
    workflow_status: str | None = Field(None, max_length=100)
    assigned_to: UserOrNobody | None = None


@router.post("/opportunities/bulk")
async def change_chosen(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    given: Annotated[BulkForm, Form()],
) -> Response:
    """Change the chosen deals, show their rows again, and say which were refused, and why."""
    wanted: dict[str, Any] = {}
    if given.workflow_status:
        wanted["workflow_status"] = given.workflow_status
    if given.assigned_to is not None:
        wanted["assigned_to"] = given.assigned_to or None
    try:
        change = OpportunityChange(**wanted)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    # Somebody else's move makes this one another one, but it is the same to whom a deal belongs.
    is_move = "workflow_status" in wanted
    # The status may be one of another system: any text.
    seen = dict(one.split(" ", 1) for one in given.deal)
    steps = [
        Step(id=int(id_), wanted=change, seen=state if is_move else None)
        for id_, state in seen.items()
    ]
    results = await change_each(connection, user, fields, steps)
    return await _answer_bulk(
        request, user, connection, fields, results, given.row, words_of(results)
    )


class UndoForm(BaseModel):
    """What takes a change of the chosen deals back."""

    steps: Json[Annotated[list[Step], Field(min_length=1, max_length=MOST_CHOSEN)]]
    row: list[Id] = Field([], max_length=MOST_CHOSEN, description="Those that have a row")


@router.post("/opportunities/bulk/undo")
async def undo_change_of_chosen(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    given: Annotated[UndoForm, Form()],
) -> Response:
    """Give the deals back what they had before, but those that have changed since."""
    results = await change_each(connection, user, fields, given.steps)
    words = f"Taken back: {words_of(results)}"
    return await _answer_bulk(request, user, connection, fields, results, given.row, words)


async def _answer_bulk(
    request: Request,
    user: User,
    connection: AsyncConnection[DictRow],
    fields: Fields,
    results: Results,
    rows: list[int],
    words: str,
) -> Response:
    """Say what became of a change of some deals; `rows` are those whose rows are shown again."""
    if "hx-request" not in request.headers:
        return changed(request, "/opportunities", words)
    wanted = View.model_validate(
        {
            "id": [one.id for one in results.results],
            "include_deleted": True,
            "limit": MOST_CHOSEN,
        }
    )
    deals, _, _ = await service.read_deals(
        connection, user, unchanged_for(request, user.seen), fields, wanted
    )
    reporting = await service.read_reporting_currency(connection, user)
    back = [step.model_dump(mode="json", exclude_unset=True) for step in ways_back(results)]
    name = f"undo-{token_hex(8)}"
    response = page(
        request,
        "_bulk.html",
        deals=deals,
        rows=set(rows),
        by_id={deal["id"]: deal for deal in deals},
        refused=[one for one in results.results if one.detail],
        changed={one.id for one in results.results if one.before},
        words=words,
        back=json.dumps(back) if back else None,
        back_name=name,
        names={row["id"]: row["label"] for row in await people(connection, user)},
        **_columns_of(request, _view_behind(request, fields, reporting), fields, reporting),
        stale_days=STALE_DAYS,
        rules=await read_rules(connection),
    )
    message: dict[str, Any] = {"text": words}
    if back:
        message["undo"] = {"form": name}
    # The form is in the answer: hundreds of deals do not fit into a header.
    response.headers["HX-Trigger-After-Swap"] = json.dumps({"message": message})
    return response


def _view_behind(request: Request, fields: Fields, reporting: str | None) -> View:
    """Return a view with the columns of the table that a row is to go back into."""
    query = parse_qs(split(request.headers.get("hx-current-url", "")).query)
    view = View.model_construct(columns=query.get("columns", []))
    return view.fit(fields, own_columns(request, fields), reporting)
