"""Addresses of lists of deals, for pages whose numbers lead to the deals that they count."""

from functools import lru_cache
from typing import Any

from api.fields import Fields
from api.opportunities.page import View


def list_of(fields: Fields, **filters: Any) -> str | None:
    """Return the query of the list of the deals that fulfil some filters.

    None: crm.yml lets no list be filtered so.
    """
    if not all(map(fields.can_filter, [*filters, *filters.get("missing", [])])):
        return None
    return _query(
        tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in filters.items()
        )
    )


@lru_cache(maxsize=1000)  # a page has dozens, and the next look at it has the same
def _query(filters: tuple[tuple[str, Any], ...]) -> str:
    return View.model_validate(dict(filters)).query()


def having(name: str, value: str | None) -> dict[str, list[str]]:
    """Return the filters of the deals with a value, or without any."""
    # Filters compare this much of a text.
    return {"missing": [name]} if value is None else {name: [value[:200]]}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return two sets of filters as one; each may name something that is missing."""
    both = {name: [*one[name], *other[name]] for name in one.keys() & other.keys()}
    return one | other | both
