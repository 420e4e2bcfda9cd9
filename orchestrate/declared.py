"""Read the customer's declarations in `crm.yml` and store them in the database.

A run copies the file into `public.declared_outcomes` when it starts. dbt, the API and the doctor
read that table, so all see the same on all machines. CRM_FILE is the path of another file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml
from psycopg.rows import tuple_row

from database.environment import DEFAULT_CRM_FILE, ROOT, setting

SECTIONS = ("statuses", "stages")
OUTCOMES = {
    "OPEN": "OPEN",
    "WON": "WON",
    "LOST": "LOST",
    "CLOSED": "CLOSED",
    # The CRM's name of the category.
    "NO_SALE": "CLOSED",
    "NOSALE": "CLOSED",
}

LONGEST_NAME = 200


class DeclarationError(Exception):
    """The file has an error: the message says where, and what to do."""


@dataclass(frozen=True)
class Declared:
    """The content of the file.

    Attributes:
        statuses: the meaning of the CRM's status codes: OPEN, WON, LOST or CLOSED.
        stages: the meaning of stages, for deals without a code.
    """

    statuses: Mapping[str, str]
    stages: Mapping[str, str]

    def rows(self) -> set[tuple[str, str, str]]:
        """Return the rows that `declared_outcomes` should have."""
        return {
            (section, name, outcome)
            for section in SECTIONS
            for name, outcome in getattr(self, section).items()
        }


def crm_file() -> Path:
    """Return the path of the file."""
    return ROOT / (setting("CRM_FILE") or DEFAULT_CRM_FILE)


def read_declared() -> Declared:
    """Read the file; if it is missing and no setting names it, nothing is declared.

    Raises:
        DeclarationError: the file has an error, or a setting names it and it is missing.
    """
    path = crm_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if setting("CRM_FILE") is None:
            return Declared({}, {})
        raise DeclarationError(f"{path} does not exist: correct CRM_FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{path} can't be read as UTF-8 text: {error}") from None
    try:
        return Declared(**_sections(text))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DeclarationError(f"{path.name}, line {line}: remove the control character") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise DeclarationError(
            f"{path.name}, line {line}: this is not YAML ({error.problem}); "
            "put names with special characters in quotes"
        ) from None
    except _WrongLineError as error:
        raise DeclarationError(f"{path.name}, {error}") from None


def differs(connection: psycopg.Connection[Any], declared: Declared) -> bool:
    """Return whether the file differs from the database."""
    rows = connection.cursor(row_factory=tuple_row).execute(
        "select section, name, outcome from public.declared_outcomes"
    )
    return declared.rows() != set(rows)


def declare(connection: psycopg.Connection[Any], declared: Declared) -> None:
    """Store the file's content in the database, if it differs."""
    if not differs(connection, declared):
        return
    with connection.transaction(), connection.cursor() as cursor:
        # Two runs may start at once; this lock does not block readers.
        cursor.execute("lock table public.declared_outcomes in share row exclusive mode")
        cursor.execute("delete from public.declared_outcomes")
        cursor.executemany(
            "insert into public.declared_outcomes (section, name, outcome) values (%s, %s, %s)",
            sorted(declared.rows()),
        )


class _WrongLineError(Exception):
    def __init__(self, node: yaml.Node, problem: str) -> None:
        super().__init__(f"line {node.start_mark.line + 1}: {problem}")


def _sections(text: str) -> dict[str, dict[str, str]]:
    """Return the sections of a file.

    YAML nodes know their lines, and keep `NO` and `007` as text.
    """
    sections: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for key, section in _pairs(yaml.compose(text, yaml.SafeLoader), "the file"):
        if key.value not in sections:
            known = " or ".join(SECTIONS)
            raise _WrongLineError(key, f"there is no section {key.value!r}; write {known}")
        sections[key.value] = {
            name.value: _outcome(name, value) for name, value in _pairs(section, key.value)
        }
    return sections


def _pairs(node: yaml.Node | None, what: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value in {"", "~", "null"}):
        return
    if not isinstance(node, yaml.MappingNode):
        raise _WrongLineError(node, f"{what} must consist of lines like 'name: value'")
    seen: dict[str, int] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode) or not name.value.strip():
            raise _WrongLineError(name, f"{what} must consist of lines like 'name: value'")
        if "\0" in name.value or len(name.value) > LONGEST_NAME:
            raise _WrongLineError(
                name, f"a name can't have NUL, or more than {LONGEST_NAME} characters"
            )
        if name.value in seen:
            raise _WrongLineError(
                name, f"{name.value!r} stands in line {seen[name.value]} too; remove one of them"
            )
        seen[name.value] = name.start_mark.line + 1
        yield name, value


def _outcome(name: yaml.ScalarNode, value: yaml.Node) -> str:
    outcome = OUTCOMES.get(value.value) if isinstance(value, yaml.ScalarNode) else None
    if outcome is None:
        raise _WrongLineError(name, f"{name.value!r} must be OPEN, WON, LOST or CLOSED")
    return outcome
