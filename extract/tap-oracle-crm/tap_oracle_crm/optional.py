"""Finds out which parts of a request this CRM, or a proxy before it, refuses, and omits them.

Almost all parts of a request are optional, and some pods refuse some of them. An error message
proves nothing; only a served request does. So after a refusal, the resource is first requested
without any parts. Then one part after the other is added, the most important first. If the request
then fails, the added part is refused, alone or together with those before it. The log names it
once, and all later requests of the run omit it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tap_oracle_crm.errors import RefusedError

log = logging.getLogger("tap-oracle-crm")

Parts = Mapping[str, str]
"""Query parameters and headers by name."""
HEADERS = frozenset({"REST-Framework-Version", "Accept", "Accept-Language"})
MOST_SEARCHES = 2
"""Searches without a result for one kind of request, after which no more are made."""


@dataclass(frozen=True)
class Part:
    """A part of a request.

    Attributes:
        loss: the effect for users if the part is left out; None: the part is needed.
        weaker: other values to try before the part is left out.
    """

    loss: str | None
    weaker: tuple[str, ...] = ()


PARTS = {
    # In the order in which they are added.
    "REST-Framework-Version": Part("the server chooses the version"),
    "Accept": Part("errors may come without an explanation", ("application/json",)),
    "Accept-Language": Part("names are in the account's own language"),
    "q": Part(None),
    "finder": Part(None),
    "orderBy": Part(None),
    "offset": Part(None),
    "fields": Part("whole records are read, which takes longer"),
    "onlyData": Part("records come with their links, which takes longer"),
    "limit": Part("pages are smaller, which takes longer", ("200", "100", "50", "25")),
    "totalResults": Part("the number of records is not known before the read"),
}

NEEDED_ALIKE = ("finder", "orderBy")
"""Needed parts that are the same in many requests: one refusal is enough."""


class OptionalParts:
    """The parts that requests leave out; one object for all threads of a run."""

    def __init__(self) -> None:
        self._instead: dict[str, dict[str, str | None]] = {}
        self._needed: dict[tuple[str, str, str], RefusedError] = {}
        self._in_vain: Counter[str] = Counter()
        self._told: set[str] = set()
        self._searching = threading.Lock()

    def served(self, kind: str, parts: Parts) -> dict[str, str]:
        """Return the parts of a request without the refused ones.

        Raises:
            RefusedError: a refused part is needed.
        """
        for name in NEEDED_ALIKE:
            if known := self._needed.get((kind, name, parts.get(name, ""))):
                raise known
        found = dict(parts)
        for name, value in self._instead.get(kind, {}).items():
            if value is None:
                found.pop(name, None)
            elif name == "limit" and name in found:
                found[name] = str(min(int(found[name]), int(value)))
            elif name in found:
                found[name] = value
        return found

    def search(
        self,
        kind: str,
        parts: Parts,
        sent: Parts,
        key: str | None,
        serves: Callable[[Parts], bool],
        refusal: Callable[[str], RefusedError],
    ) -> bool:
        """Find the refused parts of a request; return whether to retry the request.

        Args:
            kind: the kind of requests that the result is valid for.
            parts: the wanted parts of the request.
            sent: the parts that were sent.
            key: an attribute that the resource certainly has, if an attribute may be refused.
            serves: requests the resource with these parts; returns whether it was served.
            refusal: makes the error for a refused part.

        Raises:
            RefusedError: a refused part is needed.
        """
        with self._searching:
            if self.served(kind, parts) != sent:
                return True  # another thread has found the refused parts meanwhile
            if key and sent.get("fields", key) != key and serves({**sent, "fields": key}):
                # Either one attribute is refused, or the list is too long.
                if not all(serves({**sent, "fields": half}) for half in _halves(sent["fields"])):
                    return False
                if not serves(sent):  # a temporary error proves nothing
                    self._leave_out(kind, {"fields": None})
                return True
            if self._in_vain[kind] >= MOST_SEARCHES:
                return False
            base = next((base for base in ({"limit": "1"}, {}) if serves(base)), None)
            found = None if base is None else _Search(base, sent, key, serves).run()
            self._leave_out(kind, found or {})
            needed = next((name for name in found or {} if PARTS[name].loss is None), None)
            if needed in NEEDED_ALIKE:
                self._needed[kind, needed, sent[needed]] = refusal(needed)
            elif needed or not found:
                self._in_vain[kind] += 1
            if needed:
                raise refusal(needed)
            return found is not None

    def _leave_out(self, kind: str, found: Mapping[str, str | None]) -> None:
        left_out = {name: value for name, value in found.items() if PARTS[name].loss}
        self._instead[kind] = self._instead.get(kind, {}) | left_out
        for name, value in left_out.items():
            if name not in self._told:
                self._told.add(name)
                log.warning(
                    "%s: this CRM refuses %s; %s for the rest of this run: %s",
                    kind,
                    name,
                    f"{value} is sent instead" if value else "it is left out",
                    PARTS[name].loss,
                )


def _halves(names: str) -> list[str]:
    listed = names.split(",")
    middle = (len(listed) + 1) // 2
    return [",".join(half) for half in (listed[:middle], listed[middle:]) if half]


class _Search:
    """One search: adds one part after the other to those that were served."""

    def __init__(
        self, base: Parts, sent: Parts, key: str | None, serves: Callable[[Parts], bool]
    ) -> None:
        self._sent, self._key, self._serves = sent, key, serves
        self._base = dict(base)
        self._good: dict[str, str] = {}

    def run(self) -> dict[str, str | None] | None:
        """Return the replacement of each refused part; None if the search proves nothing."""
        refused: dict[str, str | None] = {}
        for name, part in PARTS.items():
            if name not in self._sent:
                continue
            value = self._sent[name]
            if self._is_served_with(name, value):
                continue
            # A temporary error proves nothing.
            if not self._serves(self._base | self._good):
                return None
            if self._is_served_with(name, value):
                continue
            if name == "fields" and self._key and self._is_served_with(name, self._key):
                continue  # an attribute is refused, not the parameter
            weaker = [item for item in part.weaker if name != "limit" or int(item) < int(value)]
            refused[name] = next(
                (item for item in weaker if self._is_served_with(name, item)), None
            )
        return refused

    def _is_served_with(self, name: str, value: str) -> bool:
        if not self._serves(self._base | self._good | {name: value}):
            return False
        if name == "limit":
            return True  # the rest of the search still uses small pages
        self._good[name] = value
        return True
