"""The fields of deals as crm.yml declares them: what lists, filters and pages know of them.

Each process reads them again when they have changed, so no request waits for that. A deal can have
a value of another type than its field: it was rejected, or the field has just got another type. So
no expression casts a value that it has not looked at.
"""

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, LiteralString, NamedTuple

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from psycopg.sql import SQL, Composable, Composed, Identifier
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    create_model,
)
from pydantic import Field as Described

from api.database import Pool, fetch_one
from api.types import AnyOf, Day, Money, Utc
from declared.fields import BUILT_IN, BUILT_IN_PARAMETERS, Field, key_expression, parameters

REFRESH_SECONDS = 2
_SCALAR = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?|true|false")
_TIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?")
# An update gives a row another place, and a load of a backup other transactions.
_VERSION: LiteralString = """
select concat_ws(' ',
    (select md5(string_agg(concat_ws(' ', xmin, ctid), ' ')) from declared_fields),
    (select md5(string_agg(concat_ws(' ', xmin, ctid), ' ')) from crm_attributes)
) as version
"""
_READ: LiteralString = """
select name, attribute, label, type, "column", filter, sort, place from fields order by position
"""


def _as_list(given: object) -> object:
    return given if isinstance(given, list) else [given]


def _iso(at: datetime) -> str:
    """Return a time as `custom` has it: UTC, and no zeros at the end of the second."""
    text = at.astimezone(UTC).replace(tzinfo=None).isoformat()
    return (text.rstrip("0") if "." in text else text) + "+00:00"


def _end_of_day(given: object) -> object:
    """Return the last moment of a day that is given without a time."""
    try:
        day = date.fromisoformat(str(given))
    except ValueError:
        return given
    return datetime.combine(day, time.max, UTC).isoformat()


def _in_list(texts: list[str]) -> str:
    """Return the JSON path to these values in a list, which can have numbers beside texts."""
    values = [json.dumps(text) for text in texts] + list(filter(_SCALAR.fullmatch, texts))
    return f"$[*] ? ({' || '.join(f'@ == {value}' for value in values)})"


_AnyOf = Annotated[AnyOf, BeforeValidator(_as_list)]
_AnyInList = Annotated[_AnyOf, AfterValidator(_in_list)]
_DayText = Annotated[Day, AfterValidator(date.isoformat)]
_Start = Annotated[Utc, AfterValidator(_iso)]
_End = Annotated[Utc, BeforeValidator(_end_of_day), AfterValidator(_iso)]
_Truth = Annotated[bool, AfterValidator(lambda value: str(value).lower())]


class Parameter(NamedTuple):
    """A parameter of lists that filters by an own field.

    Attributes:
        type: of its value; validated, it is what the condition compares.
        condition: in SQL, with the placeholder `value`.
        words: what it means, for people.
        chip: the same for a value, which stands for `{}`.
    """

    field: Field
    type: Any
    condition: str
    words: str
    chip: str


class Fields:
    """The declared fields at a moment.

    Attributes:
        all: in the order of the file, the built-in ones too.
        own: the customer's own, which are in `custom`.
        parameters: the filters by own fields, by the name of the parameter.
        filtered: the own fields whose filters the console offers.
    """

    def __init__(self, declared: Iterable[Field] = ()) -> None:
        self.all = tuple(declared) or tuple(BUILT_IN.values())
        self.own = tuple(field for field in self.all if field.column is None)
        self.listed = tuple(field for field in self.own if field.place == "list")
        self.labels = {
            field.name: field.label or field.attribute for field in (*BUILT_IN.values(), *self.all)
        }
        self.parameters = {
            name: parameter
            for field in self.own
            if field.filter
            for name, parameter in _parameters(field).items()
        }
        self._names = {field.name: field for field in self.all}
        self.filtered = tuple(
            field for field in self.own if field.filter and field.place != "hidden"
        )
        self._sortable = {field.name: field for field in self.own if field.sort}
        built_in = [field for field in self.all if field.column is not None]
        self._unsorted = {field.name for field in built_in if not field.sort}
        if "deal_value" in self._unsorted:
            self._unsorted.add("reporting_value")
        self._unfiltered = {
            parameter: field.name
            for field in built_in
            if not field.filter
            for parameter in BUILT_IN_PARAMETERS.get(field.name, ())
        }

    def sort_keys(self, built_in: Iterable[str]) -> list[str]:
        """Return the sort keys of lists: the built-in ones that are declared so, and own fields."""
        return [*(str(key) for key in built_in if key not in self._unsorted), *self._sortable]

    def can_sort(self, name: str) -> bool:
        """Return whether lists can be sorted by a built-in field."""
        return name not in self._unsorted

    def can_filter(self, parameter: str) -> bool:
        """Return whether lists can be filtered by a parameter of a built-in field."""
        return parameter not in self._unfiltered

    def check_filters(self, parameters: Iterable[str]) -> None:
        """Refuse parameters of built-in fields that crm.yml declares with `filter: false`.

        Raises:
            RequestValidationError: 422, one of them is such a parameter.
        """
        refused = [name for name in parameters if not self.can_filter(name)]
        if refused:
            raise RequestValidationError(
                [
                    {
                        "loc": ("query", name),
                        "msg": f"Lists can't be filtered by {self._unfiltered[name]!r}",
                        "type": "filter",
                    }
                    for name in refused
                ]
            )

    def title(self, name: str, usual: str) -> str:
        """Return the label that crm.yml declares for a built-in field, else the usual title."""
        standard = BUILT_IN.get(name)
        label = self.labels.get(name, usual)
        return usual if standard is not None and label == standard.label else label

    def parameters_of(self, field: Field) -> list[str]:
        """Return the names of the parameters that filter by an own field."""
        return parameters(field.name, field.type or "text")

    def offers(self, name: str) -> bool:
        """Return whether the console offers the filter of a built-in field."""
        is_filtered = all(map(self.can_filter, BUILT_IN_PARAMETERS[name]))
        return is_filtered and not self.is_hidden(name)

    def place(self, name: str) -> str | None:
        """Return where the console shows a field; None: it is none."""
        field = self._names.get(name) or BUILT_IN.get(name)
        return None if field is None else field.place

    def is_hidden(self, name: str) -> bool:
        """Return whether the console should not show a field."""
        return self.place(name) == "hidden"

    @property
    def hidden(self) -> list[str]:
        """The names of the fields that the console should not show."""
        return [field.name for field in self.all if field.place == "hidden"]

    @cached_property
    def _filters(self) -> type[BaseModel]:
        # By other names than the customer's, one of which could be a method's of pydantic.
        given: dict[str, Any] = {
            f"own_{number}": (
                parameter.type | None,
                Described(None, alias=name, description=parameter.words),
            )
            for number, (name, parameter) in enumerate(self.parameters.items())
        }
        return create_model("OwnFilters", __config__=ConfigDict(extra="forbid"), **given)

    def parse(self, given: dict[str, Any] | None) -> dict[str, Any]:
        """Return the values of the parameters that no built-in field has.

        Raises:
            RequestValidationError: 422, no field has one of them, or a value is wrong.
        """
        if not given:
            return {}
        try:
            filters = self._filters.model_validate(given)
        except ValidationError as error:
            raise RequestValidationError(
                [{**found, "loc": ("query", *found["loc"])} for found in error.errors()]
            ) from None
        return {
            str(field.alias): getattr(filters, name)
            for name, field in self._filters.model_fields.items()
            if name in filters.model_fields_set
        }

    def accepts(self, given: dict[str, Any], name: str) -> bool:
        """Return whether the value of a parameter of an own field can be compared with it."""
        try:
            self.parse({name: given[name]})
        except RequestValidationError:
            return False
        return True

    def sort_key(self, name: str) -> tuple[SQL, SQL]:
        """Return the expression and the type by which lists are sorted by an own field.

        Raises:
            RequestValidationError: 422, lists are not sorted by it.
        """
        field = self._sortable.get(name)
        if field is None:
            words = f"Lists can't be sorted by {name!r}"
            raise RequestValidationError([{"loc": ("query", "sort"), "msg": words, "type": "sort"}])
        return _key(field), SQL("numeric" if field.type == "number" else "text")

    def as_json(self, fields: Iterable[Field]) -> Composable:
        """Return the expression of `custom` with these fields, in their order; `null` if missing.

        It takes the object apart once, however many fields there are.
        """
        columns = self.columns(fields)
        if columns is None:
            return SQL("json '{}'")
        return SQL("(select row_to_json(own) from jsonb_to_record(custom) as own ({}))").format(
            columns
        )

    @staticmethod
    def columns(fields: Iterable[Field]) -> Composed | None:
        """Return fields as the columns of `jsonb_to_record`; None: there are none."""
        columns = [SQL("{} jsonb").format(Identifier(field.name)) for field in fields]
        return SQL(", ").join(columns) if columns else None

    def describe(self, openapi: dict[str, Any], built_in: Iterable[str]) -> dict[str, Any]:
        """Describe the fields and their parameters in an OpenAPI document, and return it."""
        properties = openapi["components"]["schemas"]["Opportunity"]["properties"]
        for name in BUILT_IN:
            properties[name]["title"] = self.labels[name]
        properties["custom"]["properties"] = {
            field.name: {
                "title": self.labels[field.name],
                "description": f"The CRM's {field.attribute}",
                "anyOf": [_SCHEMAS[field.type or "text"], {"type": "null"}],
            }
            for field in self.own
        }
        described = self._filters.model_json_schema()["properties"]
        keys = "|".join(self.sort_keys(built_in))
        for path in ("/api/opportunities", "/api/opportunities/export"):
            operation = openapi["paths"][path]["get"]
            operation["parameters"] = given = [
                one for one in operation["parameters"] if self.can_filter(one["name"])
            ]
            for parameter in given:
                if parameter["name"] == "sort":
                    parameter["schema"]["anyOf"][0]["pattern"] = f"^-?({keys})$"
            given += [
                {
                    "name": name,
                    "in": "query",
                    "required": False,
                    "description": parameter.words,
                    "schema": described[name],
                }
                for name, parameter in self.parameters.items()
            ]
        return openapi


_SCHEMAS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "number": {"type": "number"},
    "date": {"type": "string", "format": "date"},
    "timestamp": {"type": "string", "format": "date-time"},
    "boolean": {"type": "boolean"},
    "list": {"type": "array", "items": {}},
}


def _key(field: Field) -> SQL:
    return SQL(key_expression(field.name, field.type or "text"))


def _parameters(field: Field) -> dict[str, Parameter]:
    """Return the parameters that filter by an own field, by their names."""
    type_ = field.type or "text"
    key = _key(field).as_string(None)
    label = field.label or field.attribute
    # The key finds the index; letters of another case are others, as in the built-in filters.
    lower = "array(select lower(value) from unnest({value}::text[]) as value)"
    text = f"{key} = any({lower}) and left(custom ->> '{field.name}', 200) = any({{value}})"
    first, last = f"{key} >= {{value}}", f"{key} <= {{value}} and {key} > ''"
    made: dict[str, list[tuple[Any, str, str]]] = {
        "text": [(_AnyOf, text, "any of these")],
        "number": [
            (Money, first, "at least this"),
            (Money, f"{key} <= {{value}} and {key} > '-infinity'", "at most this"),
        ],
        "date": [
            (_DayText, first, "on this day or later"),
            (_DayText, last, "on this day or before"),
        ],
        "timestamp": [
            (_Start, first, "then or later; UTC where no offset is given"),
            (_End, last, "then or before; a day without a time counts as a whole"),
        ],
        "boolean": [(_Truth, f"{key} = {{value}}", "true or false")],
        "list": [
            (_AnyInList, f"custom -> '{field.name}' @? {{value}}::jsonpath", "has any of these")
        ],
    }
    chips = ("{label} from {{}}", "{label} to {{}}") if len(made[type_]) > 1 else ("{label}: {{}}",)
    return {
        name: Parameter(
            field,
            value,
            condition,
            f"{label}: {words}",
            chip.format(label=label.replace("{", "{{").replace("}", "}}")),
        )
        for name, (value, condition, words), chip in zip(
            parameters(field.name, type_), made[type_], chips, strict=True
        )
    }


class Shown(NamedTuple):
    """A value for people.

    Attributes:
        kind: how to write it: none, number, date, timestamp, boolean, list or text.
    """

    kind: str
    value: Any


def shown(field: Field, value: Any) -> Shown:
    """Return a value of an own field for people; one of another type is a text."""
    match field.type, value:
        case _, None | "" | []:
            return Shown("none", None)
        case "number", int() | float() | Decimal() if not isinstance(value, bool):
            return Shown("number", value)
        case "boolean", bool():
            return Shown("boolean", value)
        case "date" | "timestamp", str() if _is_time(value):
            return Shown(field.type or "", value)
        case _, list():
            return Shown("list", [_plain(item) for item in value])
    return Shown("text", _plain(value))


def shown_text(field: Field, text: str | None) -> Shown:
    """Return a value of an own field for people, from the text in a deal's history."""
    if text is None or field.type not in {"number", "boolean", "list"}:
        return shown(field, text)
    try:
        return shown(field, json.loads(text, parse_float=Decimal))
    except ValueError:
        return shown(field, text)


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):  # ISO 8601 has more forms than browsers read
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


class KeptFields:
    """The fields that this process knows of; read again when they have changed.

    Attributes:
        changed: called after they have.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._version: str | None = None
        self.now = Fields()

    async def refresh(self, pool: Pool) -> None:
        """Read the fields, if they are not those that were read before."""
        async with pool.connection() as connection:
            version: str = (await fetch_one(connection, _VERSION))["version"]
            if version == self._version:
                return
            rows = await (await connection.execute(_READ)).fetchall()
        self.now = Fields(Field(**row) for row in rows)
        self._version = version
        self._changed()

    async def get(self, pool: Pool) -> Fields:
        """Return the fields; the first call may have to read them."""
        if self._version is None:
            await self.refresh(pool)
        return self.now


async def _current(request: Request) -> Fields:
    kept: KeptFields = request.app.state.fields
    return await kept.get(request.app.state.pool)


CurrentFields = Annotated[Fields, Depends(_current)]
