"""The section `fields`: the attributes of the CRM's deals that people want to see.

A field is a built-in one, which has a column of `opportunities`, or one of the customer's own,
which is in the column `custom` by its name. The database has the fields in `declared_fields`; the
view `fields` adds what the CRM's description says of those that declare no type or label.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from itertools import chain
from typing import Any, Literal, get_args

import psycopg
import yaml
from psycopg.rows import tuple_row

from database.environment import setting
from declared.nodes import WrongLineError, pairs

Type = Literal["text", "number", "date", "timestamp", "boolean", "list"]
TYPES: tuple[str, ...] = get_args(Type)
PLACES = ("list", "deal", "hidden")
KEYS = ("attribute", "name", "label", "type", "filter", "sort", "place")
OF_ACCOUNT = "Account."
"""Before the name of an attribute: it belongs to the account of the deal."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Field:
    """A field.

    Attributes:
        name: its name in the API and in `custom`.
        attribute: the CRM's attribute; one of the deal's account begins with OF_ACCOUNT.
        label: what people read; None: the CRM's label, else the attribute.
        type: None: the CRM's type, else text.
        column: the column of `opportunities`; None: it is in `custom`.
        filter: whether lists can be filtered by it.
        sort: whether lists can be sorted by it.
        place: where the console shows it: `list`, the table has its column, unless people choose
            others; `deal`, the deal's page, and of a built-in field people can choose the column;
            `hidden`, nowhere.
    """

    name: str
    attribute: str
    label: str | None = None
    type: str | None = None
    column: str | None = None
    filter: bool = False
    sort: bool = False
    place: str = "deal"


BUILT_IN_PARAMETERS = {
    "practice": ("practice",),
    "geo": ("geo",),
    "region": ("region",),
    "sector": ("sector",),
    "deal_value": ("min_value", "max_value", "min_reporting_value", "max_reporting_value"),
    "currency": ("currency",),
    "sales_owner": ("sales_owner",),
    "stage": ("stage",),
    "close_date": ("closing_before", "closing_after"),
    "remote_updated_at": ("updated_since",),
}
"""The parameters that filter lists by a built-in field; those without one have no filter."""


def _built_in(
    column: str, attribute: str, label: str, type_: str = "text", place: str = "deal"
) -> Field:
    has_filter = column in BUILT_IN_PARAMETERS
    return Field(column, attribute, label, type_, column, has_filter, True, place)


BUILT_IN = {
    field.name: field
    for field in (
        _built_in("opty_number", "OptyNumber", "Number"),
        _built_in("name", "Name", "Name", place="list"),
        _built_in("customer", "TargetPartyName", "Customer", place="list"),
        _built_in("practice", "Practice_c", "Practice"),
        _built_in("geo", "GEO_c", "Geo"),
        _built_in("region", "Region_c", "Region"),
        _built_in("sector", "Sector_c", "Sector"),
        _built_in("deal_value", "Revenue", "Value", "number", "list"),
        _built_in("currency", "CurrencyCode", "Currency"),
        _built_in("win_probability", "WinProb", "Win probability", "number", "list"),
        _built_in("sales_owner", "OwnerResourcePartyId", "Owner"),
        _built_in("stage", "SalesStage", "Stage", place="list"),
        _built_in("status_code", "StatusCode", "Status"),
        _built_in("close_date", "EffectiveDate", "Close date", "date", "list"),
        _built_in("remote_created_at", "CreationDate", "Created", "timestamp"),
        _built_in("remote_updated_at", "LastUpdateDate", "Changed", "timestamp"),
    )
}
"""The fields with a column, by its name; they are declared if the file has no section `fields`."""
OF_CUSTOMER = ("practice", "geo", "region", "sector")
"""The built-in fields whose attributes each customer has created."""
OTHER_COLUMNS = (
    "id",
    "remote_id",
    "sales_owner_name",
    "crm_outcome",
    "crm_rate",
    "crm_rate_currency",
    "reporting_value",
    "reporting_currency",
    "unknown_status_code",
    "workflow_status",
    "workflow_status_before_close",
    "first_synced_at",
    "last_synced_at",
    "deleted_at",
    "assigned_to",
    "search_text",
    "custom",
    "relevance",
)
"""Names that mean something else in lists."""
OTHER_PARAMETERS = (
    *chain.from_iterable(BUILT_IN_PARAMETERS.values()),
    "id",
    "search",
    "include_deleted",
    "waiting_for",
    "taking_part",
    "late",
    "missing",
    "outliers",
    "sort",
    "limit",
    "cursor",
    "format",
    "columns",
    "rows",
    "separator",
    "byte_order_mark",
)
"""Parameters of lists that belong to no field of the customer's."""


def built_in() -> tuple[Field, ...]:
    """Return the built-in fields, with the attributes that the settings name."""
    return tuple(map(_with_setting, BUILT_IN.values()))


def field_settings(fields: Iterable[Field]) -> dict[str, str]:
    """Return what the pipeline finds in its environment: the attributes to read, and four names.

    The accounts are read if a field is theirs. Then deals have the key of their account, too.
    """
    standard = {field.attribute for field in BUILT_IN.values() if field.name not in OF_CUSTOMER}
    fields = list(fields)
    own = [field.attribute for field in fields if field.attribute not in standard]
    of_account = [name.removeprefix(OF_ACCOUNT) for name in own if name.startswith(OF_ACCOUNT)]
    of_deal = [name for name in own if not name.startswith(OF_ACCOUNT)]
    names = {field.name: field.attribute for field in fields}
    return {
        "CRM_FIELDS": ",".join([*of_deal, *(["TargetPartyId"] if of_account else [])]),
        "CRM_ACCOUNT_FIELDS": ",".join(of_account),
        # Meltano selects each of its patterns; this one is selected in any case.
        "CRM_ACCOUNTS": "accounts.PartyId" if of_account else "opportunities.OptyId",
    } | {f"ORACLE_{name.upper()}_FIELD": names.get(name, "") for name in OF_CUSTOMER}


def parameters(name: str, type_: str) -> list[str]:
    """Return the parameters that filter a list by a field of the customer's own."""
    return {
        "number": [f"min_{name}", f"max_{name}"],
        "date": [f"{name}_after", f"{name}_before"],
        "timestamp": [f"{name}_after", f"{name}_before"],
    }.get(type_, [name])


def key_expression(name: str, type_: str) -> str:
    """Return the SQL by which lists are sorted and filtered by a field of the customer's own.

    It is never null, and fails for no value: a deal may have one of another type. Indexes and
    queries have to use the same expression.
    """
    if type_ == "number":
        return (
            f"coalesce(case when jsonb_typeof(custom -> '{name}') = 'number'"
            f" then (custom -> '{name}')::numeric end, '-infinity')"
        )
    text = f"left(coalesce(custom ->> '{name}', ''), 200)"
    return f'{text} collate "C"' if type_ in {"date", "timestamp"} else f"lower({text})"


def read_fields(node: yaml.Node) -> tuple[Field, ...]:
    """Return the fields that the section lists, in its order.

    Raises:
        WrongLineError: a line has an error.
    """
    if not isinstance(node, yaml.SequenceNode):
        raise WrongLineError(node, "fields must be a list of lines like '- Budget_c'")
    fields: dict[str, Field] = {}
    attributes: dict[str, int] = {}
    for entry in node.value:
        field = _with_setting(_field(entry))
        line = entry.start_mark.line + 1
        if field.name in fields:
            problem = f"the name {field.name!r} is taken; write name: and another one"
            raise WrongLineError(entry, problem)
        if (before := attributes.setdefault(field.attribute, line)) != line:
            problem = f"{field.attribute!r} stands in line {before} too; remove one of them"
            raise WrongLineError(entry, problem)
        fields[field.name] = field
    taken = {*OTHER_PARAMETERS, *OTHER_COLUMNS, *BUILT_IN}
    for entry, field in zip(node.value, fields.values(), strict=True):
        # The CRM may have any type: a name must fit all of them.
        own = set() if field.column else {p for t in TYPES for p in parameters(field.name, t)}
        if clash := sorted(own & taken):
            problem = f"{field.name!r} would clash with {clash[0]!r}; write name: and another one"
            raise WrongLineError(entry, problem)
        taken |= own
    return tuple(fields.values())


def _field(node: yaml.Node) -> Field:
    if isinstance(node, yaml.ScalarNode):
        given: dict[str, yaml.ScalarNode] = {"attribute": node}
    else:
        given = {}
        for key, value in pairs(node, "a field"):
            if key.value not in KEYS:
                problem = f"a field has no {key.value!r}; write {', '.join(KEYS)}"
                raise WrongLineError(key, problem)
            if not isinstance(value, yaml.ScalarNode):
                raise WrongLineError(value, f"{key.value} must be one value")
            given[key.value] = value
    attribute = given["attribute"].value.strip() if "attribute" in given else ""
    if not attribute.removeprefix(OF_ACCOUNT).replace("$", "_").isidentifier():
        raise WrongLineError(
            node,
            "a field needs attribute: and a name that the CRM has, such as Budget_c or "
            f"{OF_ACCOUNT}Country",
        )
    return _field_of(attribute, given, node)


def _field_of(attribute: str, given: Mapping[str, yaml.ScalarNode], node: yaml.Node) -> Field:
    known = {field.attribute: field for field in BUILT_IN.values()}
    name = given["name"].value if "name" in given else None
    standard = known.get(attribute) or (BUILT_IN.get(name) if name in OF_CUSTOMER else None)
    if standard is None and name is None:  # one customer has GEO_c, another one Geo_c
        alike = {BUILT_IN[name].attribute.lower(): BUILT_IN[name] for name in OF_CUSTOMER}
        standard = alike.get(attribute.lower())
    if name is not None and standard is not None and name != standard.name:
        raise WrongLineError(given["name"], f"{attribute} is always called {standard.name}")
    if name is None:
        name = standard.name if standard else default_name(attribute)
    if not _NAME.fullmatch(name):
        problem = "a name has small letters, digits and _, and begins with a letter: write name:"
        raise WrongLineError(given.get("name", node), problem)
    type_ = _one_of(given.get("type"), TYPES)
    if standard is not None and type_ not in {None, standard.type}:
        raise WrongLineError(given["type"], f"{name} is always a {standard.type}")
    basis = standard or Field(name, attribute)
    place = _one_of(given.get("place"), PLACES)
    is_filtered = _boolean(given.get("filter"), basis.filter)
    if standard is not None and is_filtered and not standard.filter:
        raise WrongLineError(given["filter"], f"lists have no filter for {name}: remove filter:")
    if place == "hidden" and basis.column == "name":
        raise WrongLineError(given["place"], "the name of a deal can't be hidden: remove place:")
    label = given["label"].value.strip() if "label" in given else ""
    return Field(
        name,
        attribute,
        label[:100] or basis.label,
        type_ or basis.type,
        basis.column,
        is_filtered,
        _boolean(given.get("sort"), basis.sort),
        place or basis.place,
    )


def default_name(attribute: str) -> str:
    """Return the name of a field that declares none.

    >>> default_name("GoLiveDate_c")
    'go_live_date'
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", attribute)
    return re.sub(r"[^a-z0-9]+", "_", words.removesuffix("_c").lower()).strip("_")


def _one_of(node: yaml.ScalarNode | None, known: Iterable[str]) -> str | None:
    if node is None:
        return None
    if node.value not in known:
        raise WrongLineError(node, f"{node.value!r} must be {', '.join(known)}")
    return str(node.value)


def _boolean(node: yaml.ScalarNode | None, default: bool) -> bool:
    if node is None:
        return default
    if node.value.lower() not in _BOOLEANS:
        raise WrongLineError(node, f"{node.value!r} must be true or false")
    return _BOOLEANS[node.value.lower()]


def _with_setting(field: Field) -> Field:
    """Let ORACLE_PRACTICE_FIELD and its like name the attribute: they are older than the file."""
    if field.column not in OF_CUSTOMER:
        return field
    attribute = setting(f"ORACLE_{field.name.upper()}_FIELD")
    return Field(field.name, attribute or field.attribute, *astuple(field)[2:])


def fields_differ(connection: psycopg.Connection[Any], fields: tuple[Field, ...]) -> bool:
    """Return whether the database has other fields."""
    found = connection.cursor(row_factory=tuple_row).execute(
        'select name, attribute, label, type, "column", filter, sort, place'
        " from public.declared_fields where removed_at is null order by position"
    )
    return [astuple(field) for field in fields] != list(found)


def store_fields(connection: psycopg.Connection[Any], fields: tuple[Field, ...]) -> None:
    """Make these the fields of the database, if it has others.

    A field that is no longer declared stays as removed, since deals keep its values. One of another
    attribute or type keeps what it was, for the view `field_news`.
    """
    if not fields_differ(connection, fields):
        return
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("lock table public.declared_fields in share row exclusive mode")
        before = cursor.execute("select name, attribute, type from public.fields").fetchall()
        cursor.execute(
            "update public.declared_fields set removed_at = now()"
            " where removed_at is null and name != all(%s)",
            [[field.name for field in fields]],
        )
        cursor.executemany(
            """
            insert into public.declared_fields
                (position, name, attribute, label, type, "column", filter, sort, place)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (name) do update
            set position = excluded.position, attribute = excluded.attribute,
                label = excluded.label, type = excluded.type, "column" = excluded."column",
                filter = excluded.filter, sort = excluded.sort, place = excluded.place,
                removed_at = null
            """,
            [(position, *astuple(field)) for position, field in enumerate(fields)],
        )
        cursor.execute(
            """
            update public.declared_fields as declared
            set previous_attribute = before.attribute,
                previous_type = before.type,
                changed_at = now()
            from unnest(%s::text[], %s::text[], %s::text[]) as before (name, attribute, type)
            inner join public.fields on before.name = fields.name
            where
                declared.name = fields.name
                and (fields.attribute, fields.type) != (before.attribute, before.type)
            """,
            [list(column) for column in zip(*before, strict=True)] or [[], [], []],
        )
