"""Sections of `crm.yml` as pydantic models; an error names the line."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from declared.nodes import WrongLineError, plain


class Declaration(BaseModel):
    """A part of the file. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Section = TypeVar("Section", bound=Declaration)
Key = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,49}$")]
"""The name of something in the API and the database; people see its label."""
Label = Annotated[str, Field(min_length=1, max_length=100)]
_WORDS = {"extra_forbidden": "there is no such name", "missing": "is missing"}


def read_section(model: type[Section], node: yaml.Node | None) -> Section:
    """Return a section; what it leaves out has the model's default.

    The model gets scalars as text: YAML would make `NO` false, and `007` the number 7.

    Raises:
        WrongLineError: it does not fit the model.
    """
    try:
        return model.model_validate((None if node is None else plain(node)) or {})
    except ValidationError as error:
        assert node is not None  # noqa: S101 - the defaults fit
        first = error.errors()[0]
        path = [part for part in first["loc"] if part != "[key]"]
        said = _WORDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
        where = ".".join(map(str, path))
        raise WrongLineError(find(node, path), f"{where}: {said}" if where else said) from None


def find(node: yaml.Node, path: Sequence[int | str]) -> yaml.Node:
    """Return the deepest node on a path that the file has."""
    found: yaml.Node | None = None
    if path and isinstance(node, yaml.MappingNode):
        found = next((value for name, value in node.value if name.value == path[0]), None)
    elif path and isinstance(node, yaml.SequenceNode):
        found = node.value[int(path[0])]
    return node if found is None else find(found, path[1:])
