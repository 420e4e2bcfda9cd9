"""`.env.example` and `docs/settings.md`, from the settings: `python -m database settings`."""

import inspect
import textwrap
from collections.abc import Iterable
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from database.environment import ROOT
from database.settings import GROUPS, TO_FILL

WIDTH = 100
INTRODUCTION = """\
# Copy to `.env`. What the environment sets comes first; an empty value counts as unset.
# `${NAME}` is replaced, in single quotes too: in a password write `${:-$}{` for `${`.
# A lone $ stays, and single quotes keep # and spaces. A file in SECRETS_DIR (at the end) takes any
# password as it is. This file is written by `make settings`.
"""


def documents() -> dict[Path, str]:
    """Return the text of each file."""
    return {ROOT / ".env.example": _example(), ROOT / "docs" / "settings.md": _table()}


def _example() -> str:
    lines = [INTRODUCTION]
    for group in GROUPS:
        heading, more = _heading(group)
        lines += [f"# --- {heading} ".ljust(WIDTH, "-"), *_comment(more)]
        for name, field in group.model_fields.items():
            lines += _comment(_text(field.description).replace("`", ""))
            off = "" if field.json_schema_extra == TO_FILL else "# "
            lines.append(f"{off}{name.upper()}={_default(field) or _example_of(field)}")
        lines.append("")
    return "\n".join(lines)


def _table() -> str:
    lines = [
        "# Settings",
        "",
        "Each is an environment variable, a line in `.env`, or a file in the folder `SECRETS_DIR`.",
        "The first of these that has it counts. `ORACLE_CRM_SYNC_ENV_FILE` in the environment",
        "names another file than `.env`. This page is written by `make settings`.",
    ]
    for group in GROUPS:
        heading, more = _heading(group)
        lines += ["", f"## {heading}", "", *textwrap.wrap(more, WIDTH), *([""] if more else [])]
        lines += ["| setting | default | meaning |", "| --- | --- | --- |"]
        for name, field in group.model_fields.items():
            default = f"`{_default(field)}`" if _default(field) else ""
            example = f" Example: `{_example_of(field)}`" if _example_of(field) else ""
            lines.append(f"| `{name.upper()}` | {default} | {_text(field.description)}{example} |")
    return "\n".join(lines) + "\n"


def _heading(group: type[BaseSettings]) -> tuple[str, str]:
    """Return the first line of a group's docstring, and the rest."""
    heading, _, more = inspect.cleandoc(group.__doc__ or "").partition("\n\n")
    return heading.removesuffix("."), _text(more)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2)]


def _text(docstring: str | None) -> str:
    return " ".join(inspect.cleandoc(docstring or "").split())


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _example_of(field: FieldInfo) -> str:
    return str(field.examples[0]) if field.examples else ""
