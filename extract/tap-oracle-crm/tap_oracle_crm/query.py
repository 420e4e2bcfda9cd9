"""Writes the `q` parameter: the one place that knows Oracle's two filter languages.

Framework version 1 is query by example: `;` stands between attributes, and several conditions
on one attribute read `OptyId>1 and <=9`. Later versions take row-match expressions, much like
SQL's; there a `;` is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self


@dataclass(frozen=True)
class Query:
    """The common parts of all requests of a read.

    Attributes:
        framework_version: the REST framework version that is sent, 1 to 9.
        timestamp_format: strftime format of a timestamp literal, in UTC.
        condition: a further condition of the user, in the language of that version.
        key: the attribute that identifies a row.
        changed: the attribute with the time of a row's last change.
    """

    framework_version: int
    timestamp_format: str
    condition: str | None
    key: str
    changed: str

    @classmethod
    def of(
        cls, settings: Mapping[str, Any], key: str, changed: str, condition: str | None = None
    ) -> Self:
        """Build the query of these settings."""
        return cls(
            settings["framework_version"], settings["timestamp_format"], condition, key, changed
        )

    def q(
        self,
        *,
        since: datetime | None = None,
        above: int | None = None,
        upto: int | None = None,
    ) -> str:
        """Select rows changed at or after `since` with `above` < key <= `upto`.

        Rows without a change time are always included, since they may have changed. The result is
        never empty: without `q`, some CRMs show only a small part of the rows (observed).
        """
        if found := self._all_of(since, above, upto):
            return found
        everything = f"({self.key} > 0 or {self.key} is null)"
        return f"{self.key}>0" if self.framework_version == 1 else everything

    def _all_of(self, since: datetime | None, above: int | None, upto: int | None) -> str:
        stamp = since and f"'{since.strftime(self.timestamp_format)}'"
        if self.framework_version == 1:
            bounds = [
                *([f">{above}"] if above is not None else []),
                *([f"<={upto}"] if upto is not None else []),
            ]
            parts = [
                *([self.condition] if self.condition else []),
                *([f"{self.key}{' and '.join(bounds)}"] if bounds else []),
                *([f"{self.changed}>={stamp}"] if stamp else []),
            ]
            return ";".join(parts)
        parts = [
            *([f"({self.condition})"] if self.condition else []),
            *([f"{self.key} > {above}"] if above is not None else []),
            *([f"{self.key} <= {upto}"] if upto is not None else []),
            *([f"({self.changed} >= {stamp} or {self.changed} is null)"] if stamp else []),
        ]
        return " and ".join(parts)

    def null(self, attribute: str, *, since: datetime | None = None, not_null: bool = False) -> str:
        """Select rows without (or with) a value in an attribute; from framework version 2."""
        found = f"{attribute} is {'not ' if not_null else ''}null"
        rest = self._all_of(since, None, None)
        return f"{rest} and {found}" if rest else found
