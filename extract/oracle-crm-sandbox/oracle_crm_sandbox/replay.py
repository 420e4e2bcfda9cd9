"""Makes the sandbox refuse the same requests as a real CRM, from `tap-oracle-crm-probe FILE`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .refusals import split

_COLLECTION = r"/opportunities$"
# Other requests of the probe than for a page of opportunities, and their paths.
_NOT_OURS = {"q=filter", "all attributes"}
_PATHS = {
    "describe": r"/opportunities/describe$",
    "accounts": r"/accounts$",
    "resources": r"/resources$",
    "optyStatusesLOV": r"/optyStatusesLOV$",
    "ChildRevenue": r"/child/ChildRevenue$",
    "OpportunityResource": r"/child/OpportunityResource$",
}


def commands(file: Path) -> list[tuple[str, str, Any]]:
    """Return the commands (method, path, body) that make the sandbox like the CRM in a file."""
    capture = json.loads(file.read_text())
    page = capture["page"]
    tried = [item for item in capture["tried"] if item["part"] not in _NOT_OURS]
    failed = [item for item in tried if item["outcome"] in {"slow", "failed"}]
    refused = [item for item in tried if item["outcome"] == "refused"]
    settings: dict[str, Any] = {
        "refused": {
            item["part"]: item["status"]
            for item in refused
            if item["part"] not in _PATHS and not item["part"].startswith("limit")
        },
        "refusals_are_named": any(item["names"] for item in refused),
        "describe_is_silent": not page["describe_has_attributes"],
    }
    if not page["date"]:
        settings["date_offset_seconds"] = None
    limits = [item for item in tried if item["part"].startswith("limit")]
    if limits and limits[0]["outcome"] == "refused":
        settings["largest_limit"] = min(int(item["part"].partition("=")[2]) for item in limits)
    if page.get("limit"):
        settings["page_cap"] = page["limit"]
    faults = [
        _fault(item["part"], item["status"])
        for item in [*failed, *(item for item in refused if item["part"] in _PATHS)]
    ]
    return [("PATCH", "settings", settings), ("POST", "faults", faults)]


def _fault(part: str, status: int | None) -> dict[str, Any]:
    """Return a rule that makes a part or a resource fail; without a status, no answer comes."""
    where = {"path": _PATHS.get(part, _COLLECTION)}
    if part not in _PATHS:
        # Each of the parts, in any order.
        where["query"] = "".join(f"(?=.*{one})" for one in split(part))
    if status is None:
        return {"kind": "stall", **where}
    return {"kind": "error", "status": status, "body": "text", **where}
