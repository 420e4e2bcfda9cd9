"""The YAML of `crm.yml`.

Nodes know their lines, so an error names one; and they keep `NO` and `007` as text.
"""

from collections.abc import Iterator
from typing import Any

import yaml

LONGEST_NAME = 200


class WrongLineError(Exception):
    """A line has an error."""

    def __init__(self, node: yaml.Node, problem: str) -> None:
        super().__init__(f"line {node.start_mark.line + 1}: {problem}")


def pairs(node: yaml.Node | None, what: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """Yield the names and values of a mapping.

    Raises:
        WrongLineError: it is none, or has a name twice.
    """
    if node is None or _is_nothing(node):
        return
    if not isinstance(node, yaml.MappingNode):
        raise WrongLineError(node, f"{what} must consist of lines like 'name: value'")
    seen: dict[str, int] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode) or not name.value.strip():
            raise WrongLineError(name, f"{what} must consist of lines like 'name: value'")
        if "\0" in name.value or len(name.value) > LONGEST_NAME:
            raise WrongLineError(
                name, f"a name can't have NUL, or more than {LONGEST_NAME} characters"
            )
        if name.value in seen:
            raise WrongLineError(
                name, f"{name.value!r} stands in line {seen[name.value]} too; remove one of them"
            )
        seen[name.value] = name.start_mark.line + 1
        yield name, value


def plain(node: yaml.Node) -> Any:
    """Return a node as dictionaries, lists and texts; an empty one is None."""
    if isinstance(node, yaml.MappingNode):
        return {name.value: plain(value) for name, value in pairs(node, "a section")}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    return None if _is_nothing(node) else node.value


def _is_nothing(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value in {"", "~", "null"}
