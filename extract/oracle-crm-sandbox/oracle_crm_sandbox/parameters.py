"""The query parameters of a collection or an item, with the CRM's checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from .protocol import Request, RequestError, query_pairs
from .schema import Resource


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request; ``children`` are the requested attributes of each child."""

    fields: tuple[str, ...]
    children: Mapping[str, tuple[str, ...]]
    order: tuple[tuple[str, bool], ...]
    limit: int
    offset: int
    only_data: bool
    total_results: bool
    q: str
    finder: str


def read_parameters(
    request: Request, resource: Resource, children: Mapping[str, Resource], page_cap: int
) -> Parameters:
    """Read the parameters; raises :class:`RequestError` with 400. Unknown ones are ignored."""
    pairs = query_pairs(request)
    if fields := pairs.get("fields"):  # has priority over expand
        own, *others = fields.split(";")
        selected = _selected(resource, own)
        expanded = {}
        for other in others:
            name, _, wanted = other.partition(":")
            expanded[name] = _selected(_child(children, name), wanted)
    else:
        expand = pairs.get("expand", "")
        names = tuple(children) if expand == "all" else tuple(filter(None, expand.split(",")))
        selected = tuple(resource.attributes)
        expanded = {name: tuple(_child(children, name).attributes) for name in names}
    return Parameters(
        fields=selected,
        children=expanded,
        order=_order(resource, pairs.get("orderBy", "")),
        limit=min(_whole_number(pairs, "limit", 25, 1), page_cap),
        offset=_whole_number(pairs, "offset", 0, 0),
        only_data=_boolean(pairs, "onlyData"),
        total_results=_boolean(pairs, "totalResults"),
        q=pairs.get("q", ""),
        finder=pairs.get("finder", ""),
    )


def finder_variables(text: str) -> dict[str, str]:
    """Read the text after the finder's name: ``A='x',B=y`` (``;`` is allowed, too)."""
    variables = {}
    for part in filter(None, (part.strip() for part in re.split("[,;]", text))):
        name, equals, value = part.partition("=")
        if not equals:
            raise RequestError(400, f"Finder variable {name} has no value.")
        variables[name] = value.strip().strip("'\"")
    return variables


def day(text: str) -> str:
    """Check a date; raises :class:`RequestError`."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise RequestError(400, f"{text} is not a date.") from error


def _child(children: Mapping[str, Resource], name: str) -> Resource:
    if name not in children:
        raise RequestError(400, f"Child resource {name} does not exist.", f"/{name}")
    return children[name]


def _selected(resource: Resource, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in resource.attributes:
            raise RequestError(
                400,
                f"URL request parameter fields cannot be used: attribute {name} "
                f"does not exist in {resource.name}.",
                f"/{name}",
                "27024",
            )
    return names


def _order(resource: Resource, text: str) -> tuple[tuple[str, bool], ...]:
    """Read ``A:asc,B:desc`` as pairs: the name, and whether it is ascending."""
    order = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, direction = part.partition(":")
        if name not in resource.attributes:
            detail = f"orderBy: attribute {name} does not exist in {resource.name}."
            raise RequestError(400, detail, f"/{name}", "27024")
        if direction not in ("", "asc", "desc"):
            raise RequestError(400, f"orderBy: {direction} is neither asc nor desc.", f"/{name}")
        order.append((name, direction != "desc"))
    return tuple(order)


def _whole_number(pairs: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = pairs.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise RequestError(400, f"URL request parameter {name} has the invalid value {text}.")
    return int(text)


def _boolean(pairs: Mapping[str, str], name: str) -> bool:
    text = pairs.get(name, "false")
    if text not in ("true", "false"):
        raise RequestError(400, f"URL request parameter {name} has the invalid value {text}.")
    return text == "true"
