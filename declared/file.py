"""Read the customer's declarations in `crm.yml` and store them in the database.

A run, the API and `make setup` store the file when they start. All read the database, so all see
the same on all machines. CRM_FILE is the path of another file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml

from database.environment import DEFAULT_CRM_FILE, ROOT, setting
from declared.nodes import WrongLineError, pairs
from declared.outcomes import SECTIONS, Rows, outcomes_differ, read_outcomes, store_outcomes


class DeclarationError(Exception):
    """The file has an error: the message says where, and what to do."""


@dataclass(frozen=True)
class Declared:
    """The content of the file.

    Attributes:
        statuses: the meaning of the CRM's status codes: OPEN, WON, LOST or CLOSED.
        stages: the meaning of stages, for deals without a code.
    """

    statuses: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> Rows:
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
            return Declared()
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
    except WrongLineError as error:
        raise DeclarationError(f"{path.name}, {error}") from None


def differs(connection: psycopg.Connection[Any], declared: Declared) -> bool:
    """Return whether the file differs from the database."""
    return outcomes_differ(connection, declared.rows())


def declare(connection: psycopg.Connection[Any], declared: Declared) -> None:
    """Store the file's content in the database, if it differs."""
    store_outcomes(connection, declared.rows())


def _sections(text: str) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    for key, section in pairs(yaml.compose(text, yaml.SafeLoader), "the file"):
        if key.value not in SECTIONS:
            known = " or ".join(SECTIONS)
            raise WrongLineError(key, f"there is no section {key.value!r}; write {known}")
        sections[key.value] = read_outcomes(key.value, section)
    return sections
