"""Refuses conditions on attributes that can change.

A row may change so that it no longer matches. Then no run sees it again: it keeps its old values
for ever, and a complete read takes it for deleted.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from tap_oracle_crm.errors import ConfigError

FIXED = ("OptyId", "OptyNumber", "CreationDate", "CreatedBy", "PrimaryOrganizationId")
"""Attributes of opportunities that do not change."""
FIXED_VARIABLES = (*FIXED, "RecordSet")

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<operator><>|!=|<=|>=|[=<>])
      | (?P<mark>[(),;])
      | (?P<name>[^\W\d][\w.$]*)
      | (?P<value>[^\s'"()=<>!,;]+)
    )""",
    re.VERBOSE,
)
_WORDS = {
    "and",
    "or",
    "not",
    "in",
    "like",
    "escape",
    "between",
    "is",
    "null",
    "true",
    "false",
}
_OPERATORS = {"in", "like", "between", "is", "not"}


def check_filter(condition: str, framework_version: int, fixed_attributes: Iterable[str]) -> None:
    """Check that no row can leave the result of a filter.

    Raises:
        ConfigError: the filter uses attributes that can change, or it cannot be parsed.
    """
    _check("filter", _attributes(condition, framework_version), (*FIXED, *fixed_attributes))


def check_finder(finder: str, fixed_attributes: Iterable[str]) -> None:
    """Check that no row can leave the result of a finder.

    Raises:
        ConfigError: the finder has variables that can change, or it cannot be parsed.
    """
    _, _, variables = finder.partition(";")
    tokens = _tokens("finder", variables)
    names = [text for (kind, text), (_, after) in _pairs(tokens) if kind == "name" and after == "="]
    _check("finder", names, (*FIXED_VARIABLES, *fixed_attributes))


def _check(setting: str, names: Iterable[str], fixed: Iterable[str]) -> None:
    allowed = {name.lower() for name in fixed}
    changing = [name for name in dict.fromkeys(names) if name.lower() not in allowed]
    if not changing:
        return
    listed = " and ".join(changing)
    msg = (
        f"{setting}: {listed} can change, and an opportunity that no longer matches would stay "
        "here as it was and look deleted. Use what never changes, such as CreationDate >= "
        "'2024-01-01T00:00:00Z' or PrimaryOrganizationId = 300000001234567 in the setting filter; "
        f"if {listed} never changes in this CRM, add it to fixed_attributes."
    )
    raise ConfigError(msg)


def _tokens(setting: str, text: str) -> list[tuple[str, str]]:
    """Return the kind and text of each token."""
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found or not found.lastgroup:
            msg = f"{setting} cannot be read from {text[position:].strip()[:30]!r} on."
            raise ConfigError(msg)
        tokens.append((found.lastgroup, found[found.lastgroup]))
        position = found.end()
    return tokens


def _pairs(tokens: list[tuple[str, str]]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Return each token with the one after it."""
    return list(itertools.pairwise([*tokens, ("end", "")]))


def _attributes(condition: str, framework_version: int) -> list[str]:
    """Return the attributes that a condition uses.

    Framework version 1 allows values without quotes: there, an attribute is at the start of a
    condition or before an operator. Later versions quote texts: all other names are attributes.
    """
    names = []
    begins = True
    for (kind, text), (next_kind, after) in _pairs(_tokens("filter", condition)):
        is_word = kind != "name" or text.lower() in _WORDS or after == "("
        is_compared = next_kind == "operator" or after.lower() in _OPERATORS
        if not is_word and (framework_version > 1 or begins or is_compared):
            names.append(text)
        begins = text in {";", "("} or (begins and is_word)
    return names
