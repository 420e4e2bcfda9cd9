"""The texts of the alerts."""

from dataclasses import dataclass
from typing import Literal

Tone = Literal["failure", "success", "info"]
"""The type of a message, with Apprise's names."""


@dataclass(frozen=True)
class Message:
    """A message to a service."""

    title: str
    body: str
    tone: Tone


# The titles of an incident when it begins, when it grows, and when it is over.
_TITLES = {
    "failed": (
        "The sync failed",
        "The sync failed for another reason",
        "The sync works again",
    ),
    "reconcile": (
        "The reconcile failed",
        "The reconcile failed for another reason",
        "The reconcile works again",
    ),
    "schedule": (
        "A scheduled job failed",
        "Another scheduled job failed",
        "No scheduled job fails any more",
    ),
    "late": (
        "The sync is late",
        "The sync is late",
        "The sync is on time again",
    ),
    "empty": (
        "The sync is empty",
        "The sync is empty",
        "The sync reads opportunities again",
    ),
    "rejects": (
        "Records could not be loaded",
        "More records could not be loaded",
        "All records are loaded",
    ),
    "status": (
        "Nothing explains a status code of the CRM",
        "Nothing explains a further status code of the CRM",
        "All status codes are explained",
    ),
    "fields": (
        "The CRM has changed its attributes",
        "The CRM has changed further attributes",
        "The CRM's attributes are no news any more",
    ),
    "sign_ins": (
        "Many sign-ins failed",
        "More sign-ins failed",
        "Sign-ins no longer fail",
    ),
    "database": (
        "The database cannot be used",
        "The database cannot be used for another reason",
        "The database can be used again",
    ),
}
KINDS = frozenset(_TITLES)
NEWS = frozenset({"fields"})
"""What is told once: it is no failure, and nobody must end it."""


def message(
    kind: str, detail: str, *, revision: int, sent: int | None, is_over: bool = False
) -> Message:
    """Return the next message about an incident.

    Args:
        kind: its kind.
        detail: the problem in words.
        revision: 1, and one more each time it grew.
        sent: the revision that was sent last; None if nothing was sent yet.
        is_over: the problem is over.
    """
    opening, more, closing = _TITLES[kind]
    tone: Tone = "info" if kind in NEWS else "failure"
    if is_over:
        return Message(closing, f"It was: {detail}", "success")
    if sent is None:
        return Message(opening, detail, tone)
    if sent < revision:
        return Message(more, detail, tone)
    return Message(f"Reminder: {opening}", detail, tone)
