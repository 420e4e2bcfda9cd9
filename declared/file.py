"""Read the customer's declarations in `crm.yml` and store them in the database.

A run, the API and `make setup` store the file when they start. All read the database, so all see
the same on all machines. CRM_FILE is the path of another file.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import yaml

from database.environment import DEFAULT_CRM_FILE, ROOT, setting
from database.locks import LockedError, bounded, lock_seconds
from declared import store
from declared.fields import Field, built_in, fields_differ, read_fields, store_fields
from declared.nodes import WrongLineError, pairs, plain
from declared.outcomes import SECTIONS, Rows, outcomes_differ, read_outcomes, store_outcomes

if TYPE_CHECKING:
    from declared.assessment import Assessment
    from declared.currency import Currency
    from declared.decisions import Decisions
    from declared.model import Declaration

MODELS = ("decisions", "assessment", "currency")
"""The sections that are pydantic models; they are loaded only if they are needed."""


class DeclarationError(Exception):
    """The file has an error: the message says where, and what to do."""


@dataclass(frozen=True)
class Declared:
    """The content of the file.

    Attributes:
        statuses: the meaning of the CRM's status codes: OPEN, WON, LOST or CLOSED.
        stages: the meaning of stages, for deals without a code.
        fields: the attributes that people want to see.
        nodes: the sections that are models, by name.
    """

    statuses: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[Field, ...] = field(default_factory=built_in)
    nodes: Mapping[str, yaml.Node] = field(default_factory=dict)

    @property
    def decisions(self) -> "Decisions":
        """Who decides whether to bid.

        Raises:
            DeclarationError: the section has an error.
        """
        from declared.decisions import Decisions
        from declared.model import find, read_section

        node = self.nodes.get("decisions")
        known = {field.name for field in self.fields}
        with _naming_file():
            decisions = read_section(Decisions, node)
            for name, function in decisions.functions.items():
                if node is not None and function.by is not None and function.by not in known:
                    path = ("functions", name, "by")
                    problem = f"{'.'.join(path)}: there is no field {function.by!r}: declare it"
                    raise WrongLineError(find(node, path), problem)
        return decisions

    @property
    def assessment(self) -> "Assessment":
        """What a deal is scored for.

        Raises:
            DeclarationError: the section has an error.
        """
        from declared.assessment import Assessment
        from declared.model import read_section

        with _naming_file():
            return read_section(Assessment, self.nodes.get("assessment"))

    @property
    def currency(self) -> "Currency":
        """Into which currency values are converted, and by which rates.

        Raises:
            DeclarationError: the section has an error.
        """
        from declared.currency import Currency
        from declared.model import read_section

        with _naming_file():
            return read_section(Currency, self.nodes.get("currency"))

    def model(self, section: str) -> "Declaration":
        """Return a section of MODELS."""
        declared: Declaration = getattr(self, section)
        return declared

    def source(self, section: str) -> Any:
        """Return what stands in a section of MODELS; None: nothing.

        Raises:
            DeclarationError: it has a line that is none.
        """
        with _naming_file():
            return plain(self.nodes[section]) if section in self.nodes else None

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

    The sections of MODELS are read when they are asked for.

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
        with _naming_file():
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


@contextmanager
def _naming_file() -> Iterator[None]:
    try:
        yield
    except WrongLineError as error:
        raise DeclarationError(f"{crm_file().name}, {error}") from None


def differs(connection: psycopg.Connection[Any], declared: Declared) -> bool:
    """Return whether the file differs from the database.

    Raises:
        DeclarationError: a section has an error.
    """
    return decides_anew(connection, declared) or any(
        store.differs(connection, name, declared.model(name)) for name in MODELS
    )


def decides_anew(connection: psycopg.Connection[Any], declared: Declared) -> bool:
    """Return whether the file differs in what decides how each deal is merged."""
    return outcomes_differ(connection, declared.rows()) or fields_differ(
        connection, declared.fields
    )


def declare(connection: psycopg.Connection[Any], declared: Declared) -> None:
    """Store the file's content in the database, if it differs.

    Raises:
        DeclarationError: a section that has changed has an error.
    """
    store_outcomes(connection, declared.rows())
    store_fields(connection, declared.fields)
    for name in MODELS:
        store.store(connection, name, declared.source(name), partial(declared.model, name))


def _sections(text: str) -> dict[str, Any]:
    sections: dict[str, Any] = {"nodes": {}}
    for key, section in pairs(yaml.compose(text, yaml.SafeLoader), "the file"):
        if key.value in MODELS:
            sections["nodes"][key.value] = section
        elif key.value == "fields":
            sections["fields"] = read_fields(section)
        elif key.value in SECTIONS:
            sections[key.value] = read_outcomes(key.value, section)
        else:
            known = ", ".join((*SECTIONS, "fields", *MODELS))
            raise WrongLineError(key, f"there is no section {key.value!r}; there are {known}")
    return sections


def declare_file(url: str) -> None:
    """Store the file's content in the database at a URL.

    Raises:
        SystemExit: the file has an error, or another session holds a lock.
    """
    try:
        declared = read_declared()
        with psycopg.connect(url) as connection, bounded(connection, lock_seconds()):
            declare(connection, declared)
    except (DeclarationError, LockedError) as error:
        sys.exit(str(error))
