"""A journal of the changes of the CRM, so that it is the same after a restart."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from .crm import Crm


class Origin(msgspec.Struct):
    """The journal's first line: the parameters from which the CRM was generated."""

    records: int
    seed: int
    now: datetime


class Change(msgspec.Struct):
    """Any other line: a command of the control interface, and its time."""

    at: datetime
    method: str
    path: str
    body: object


class Journal:
    """Lines of JSON: one :class:`Origin`, then one :class:`Change` each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, records: int, seed: int) -> tuple[Crm, list[Change]]:
        """Return the generated CRM, and the changes to repeat.

        A journal with another number of records or another seed is overwritten.
        """
        if self._path.exists():
            first, *lines = self._path.read_bytes().splitlines()
            origin = msgspec.json.decode(first, type=Origin)
            if (origin.records, origin.seed) == (records, seed):
                crm = Crm(records, seed, origin.now)
                return crm, [msgspec.json.decode(line, type=Change) for line in lines]
        crm = Crm(records, seed)
        self.begin(crm)
        return crm, []

    def begin(self, crm: Crm) -> None:
        """Start a new journal of generated data."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        origin = Origin(crm.records, crm.seed, crm.generated_at)
        self._path.write_bytes(msgspec.json.encode(origin) + b"\n")

    def record(self, at: datetime, method: str, path: str, body: object) -> None:
        """Write a command to the journal."""
        line = msgspec.json.encode(Change(at, method, path, body))
        with self._path.open("ab") as file:
            file.write(line + b"\n")
