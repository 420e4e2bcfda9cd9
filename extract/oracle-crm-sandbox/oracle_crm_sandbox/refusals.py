"""Optional parts of a request that this CRM, or a proxy in front of it, refuses.

A part is the name of a query parameter or a header: ``totalResults``, ``Accept``. ``orderBy=Last``
is a parameter whose value contains that text. ``totalResults+finder`` means both together. The
header ``Accept: */*`` counts as missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .protocol import Request, RequestError, Settings, query_pairs

_HEADERS = ("Accept", "Accept-Language", "REST-Framework-Version")


def check_parts(request: Request, settings: Settings) -> None:
    """Raise :class:`RequestError` if the request has a refused part."""
    parts = query_pairs(request)
    for name in _HEADERS:
        value = request.headers.get(name.lower(), "*/*")
        if value != "*/*":
            parts[name] = value
    for refused, status in settings.refused.items():
        together = split(refused)
        if all(_contains(parts, part) for part in together):
            raise _refusal(together[0].partition("=")[0], status, settings)
    limit = parts.get("limit", "")
    if settings.largest_limit and limit.isdigit() and int(limit) > settings.largest_limit:
        raise _refusal("limit", 400, settings)


def split(parts: str) -> list[str]:
    """Return the parts of ``totalResults+finder``; a value may have a plus: ``q=+00:00``."""
    return re.split(r"\+(?=[A-Za-z])", parts)


def _contains(parts: Mapping[str, str], part: str) -> bool:
    name, _, text = part.partition("=")
    return name in parts and text in parts[name]


def _refusal(name: str, status: int, settings: Settings) -> RequestError:
    if not settings.refusals_are_named:
        return RequestError(status, "The request could not be processed.", "", "")
    kind = "header" if name in _HEADERS else "URL request parameter"
    detail = f"{kind} {name} cannot be used in this context."
    return RequestError(status, detail, f"/{name}", "27500")
