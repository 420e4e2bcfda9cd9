"""Turns what `describe` says of a resource into JSON schemas."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

SCHEMAS: dict[str, dict[str, Any]] = {
    "integer": {"type": ["integer", "null"]},
    "number": {"type": ["number", "null"]},
    "boolean": {"type": ["boolean", "null"]},
    "date": {"type": ["string", "null"], "format": "date"},
    "date-time": {"type": ["string", "null"], "format": "date-time"},
    "string": {"type": ["string", "null"]},
}
_TYPES = {
    **dict.fromkeys(("integer", "int", "long", "short", "biginteger", "bigint"), "integer"),
    **dict.fromkeys(("number", "decimal", "double", "float", "bigdecimal", "money"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    "date": "date",
    **dict.fromkeys(("datetime", "date-time", "timestamp", "timestamptz"), "date-time"),
    **dict.fromkeys(("object", "array", "attachment"), None),
}


def attributes_of(answer: Any, resource: str) -> dict[str, str]:
    """Return name and type of each single-valued attribute; empty where the answer has none."""
    try:
        attributes = answer["Resources"][resource]["attributes"]
    except (KeyError, TypeError):
        return {}
    found: dict[str, str] = {}
    for attribute in attributes if isinstance(attributes, list) else []:
        if isinstance(attribute, dict) and isinstance(attribute.get("name"), str):
            kind = _TYPES.get(str(attribute.get("type", "")).lower(), "string")
            if kind:
                found[attribute["name"]] = kind
    return found


ABSENT = "absent"
"""The type of an attribute that is configured and that the CRM does not have: always null."""
SCHEMAS[ABSENT] = {"type": ["string", "null"], "enum": [None]}


def schema_of(types: Mapping[str, str], keys: Iterable[str]) -> dict[str, Any]:
    """Return the JSON schema of records with these attributes; the keys are never null."""
    properties = {name: dict(SCHEMAS[kind]) for name, kind in types.items()}
    for key in keys:
        properties[key]["type"] = properties[key]["type"][0]
    return {"type": "object", "properties": properties}


def absent(schema: Mapping[str, Any]) -> bool:
    """Tell whether the CRM did not have an attribute when it was discovered."""
    return schema.get("enum") == [None]


def match(wanted: str, names: Iterable[str]) -> tuple[str | None, list[str]]:
    """Find an attribute whatever its case; return its name, or None and names alike."""
    folded = {name.lower(): name for name in names}
    if found := folded.get(wanted.lower()):
        return found, []
    custom = [name for name in folded if name.endswith("_c")]
    close = difflib.get_close_matches(wanted.lower(), custom, n=3, cutoff=0.5)
    return None, [folded[name] for name in close]
