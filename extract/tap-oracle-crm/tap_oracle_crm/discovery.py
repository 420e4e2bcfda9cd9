"""Turns the CRM's description of a resource into JSON schemas."""

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
ATTACHMENT = "attachment"
"""The type of attachments. Each needs a request of its own, so only configured ones are listed."""
SCHEMAS[ATTACHMENT] = SCHEMAS["string"]
ABSENT = "absent"
"""The type of a configured attribute that the CRM does not have: always null."""
SCHEMAS[ABSENT] = {"type": ["string", "null"], "enum": [None]}
_TYPES = {
    **dict.fromkeys(("integer", "int", "long", "short", "biginteger", "bigint"), "integer"),
    **dict.fromkeys(("number", "decimal", "double", "float", "bigdecimal", "money"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    "date": "date",
    **dict.fromkeys(("datetime", "date-time", "timestamp", "timestamptz"), "date-time"),
    "attachment": ATTACHMENT,
}


def is_name(value: object) -> bool:
    """Tell whether this is a valid name of an attribute."""
    return isinstance(value, str) and value.replace("$", "_").isidentifier()


def attributes_of(answer: Any, resource: str) -> dict[str, str]:
    """Return name and type of each attribute; empty if the answer has none.

    Lists, objects and unknown types count as text that holds JSON.
    """
    try:
        attributes = answer["Resources"][resource]["attributes"]
    except (KeyError, TypeError):
        return {}
    found: dict[str, str] = {}
    for attribute in attributes if isinstance(attributes, list) else []:
        if isinstance(attribute, dict) and is_name(attribute.get("name")):
            kind = _TYPES.get(str(attribute.get("type", "")).lower(), "string")
            found[attribute["name"]] = kind
    return found


def annotations_of(answer: Any, resource: str) -> dict[str, dict[str, str]]:
    """Return what the CRM says of each attribute, as annotations of JSON schema.

    Returns:
        By name, `title` is the label that people see, else the name; `description` is the CRM's
        own type, which tells a list from a text.
    """
    annotations = {}
    known = attributes_of(answer, resource)
    for attribute in answer["Resources"][resource]["attributes"] if known else []:
        if isinstance(attribute, dict) and (name := str(attribute.get("name"))) in known:
            title, kind = attribute.get("title"), attribute.get("type")
            annotations[name] = {
                "title": (isinstance(title, str) and title.strip()) or name,
                "description": str(kind or "string"),
            }
    return annotations


def schema_of(
    types: Mapping[str, str],
    keys: Iterable[str],
    annotations: Mapping[str, dict[str, str]] | None = None,
) -> dict[str, Any]:
    """Return the JSON schema of records with these attributes; the keys are never null."""
    known = annotations or {}
    properties = {name: SCHEMAS[kind] | known.get(name, {}) for name, kind in types.items()}
    for key in keys:
        properties[key]["type"] = properties[key]["type"][0]
    return {"type": "object", "properties": properties}


def absent(schema: Mapping[str, Any]) -> bool:
    """Tell whether the CRM did not have an attribute when it was discovered."""
    return schema.get("enum") == [None]


def match(wanted: str, names: Iterable[str]) -> tuple[str | None, list[str]]:
    """Find an attribute by its exact name, else by its name in another case.

    Returns:
        The name that the CRM has, or None; and other names: those that differ in case only or, if
        the name was not found, similar ones.
    """
    folded: dict[str, list[str]] = {}
    for name in sorted(names):
        folded.setdefault(name.lower(), []).append(name)
    if same := folded.get(wanted.lower()):
        found = wanted if wanted in same else same[0]
        return found, [name for name in same if name != found]
    custom = [name for name in folded if name.endswith("_c")]
    close = difflib.get_close_matches(wanted.lower(), custom, n=3, cutoff=0.5)
    return None, [name for fold in close for name in folded[fold]]
