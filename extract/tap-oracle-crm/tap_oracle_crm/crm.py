"""Questions about a CRM's opportunities, for programs beside the tap.

This module, `errors` and `tap.TapOracleCRM` are the package's public surface. Everything else may
change with any release.

    with Crm({"base_url": "https://crm.example.com", "username": "...", "password": "..."}) as crm:
        print(crm.count(), crm.newest_change())
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from tap_oracle_crm.answers import Page
from tap_oracle_crm.client import CrmClient
from tap_oracle_crm.config import resolve
from tap_oracle_crm.discovery import annotations_of, attributes_of
from tap_oracle_crm.reading import Reader
from tap_oracle_crm.records import key_of
from tap_oracle_crm.settings import ENVIRONMENT
from tap_oracle_crm.streams import Opportunities

__all__ = ["BUILT_IN", "CHANGED", "ENVIRONMENT", "KEY", "Crm", "Overview"]

KEY, CHANGED = Opportunities.key, Opportunities.changed
"""The attributes with an opportunity's key and with the time of its last change."""
BUILT_IN: Mapping[str, str] = Opportunities.attributes
"""Name and type of the attributes of opportunities that the tap knows without asking."""


@dataclass(frozen=True)
class Overview:
    """The number of opportunities that the settings show, and the CRM's time.

    Attributes:
        total: the number of opportunities; None if the CRM does not tell.
        is_empty: there is no opportunity.
        server_time: the CRM's clock, in UTC; None if the CRM does not tell.
    """

    total: int | None
    is_empty: bool
    server_time: datetime | None


class Crm:
    """The opportunities of one CRM, as the tap would read them with these settings.

    All methods raise `OracleCrmError`: `RefusedError` if the CRM refuses, `GaveUpError` if no
    answer came after all retries.

    Args:
        settings: the tap's settings by name. A missing setting gets its default; the address and
            the credentials come from the environment (`ENVIRONMENT`).

    Attributes:
        settings: all settings, checked.
        host: the CRM's host, with its port if the address has one.

    Raises:
        ConfigError: a setting is missing or invalid.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings: Mapping[str, Any] = resolve(settings)
        self._client = CrmClient(self.settings)
        self.host = self._client.host

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def overview(self) -> Overview:
        """Return the number of opportunities and the CRM's time: one request."""
        page = self._row(total=True)
        return Overview(page.total, not page.items, page.server_time)

    def count(self, *, upto: int | None = None) -> int | None:
        """Return the number of opportunities, or of those with a key up to `upto`.

        The CRM's own count may be a little wrong; None if the CRM does not tell.
        """
        return self._row(upto=upto, total=True).total

    def keys(self) -> tuple[int, int] | None:
        """Return the smallest and the largest key; None if there is no opportunity."""
        ends = [
            key_of(row, KEY)
            for order in ("asc", "desc")
            for row in self._row(above=0, order_by=f"{KEY}:{order}").items
        ]
        found = [key for key in ends if key is not None]
        return (min(found), max(found)) if found else None

    def newest_change(self) -> datetime | None:
        """Return the time of the newest change, in UTC; None if none is known.

        It is never later than the CRM's own clock, even if a record has a later time.
        """
        return self._reader([KEY, CHANGED]).start(None).mark

    def attributes(self) -> dict[str, str]:
        """Return name and type of all attributes; empty if the CRM's answer has none.

        Types are `integer`, `number`, `boolean`, `date`, `date-time` and `attachment`; all other
        attributes are `string`.
        """
        return attributes_of(self._client.describe(Opportunities.path), Opportunities.path)

    def annotations(self, resource: str = Opportunities.path) -> dict[str, dict[str, str]]:
        """Return the label (`title`) and the CRM's own type (`description`) of all attributes.

        Empty if the CRM's answer has none.

        Args:
            resource: `opportunities` or `accounts`.
        """
        return annotations_of(self._client.describe(resource), resource)

    def pages(
        self, fields: Sequence[str], *, since: datetime | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Read all opportunities ordered by key: each page is a list of rows as received.

        A row that changes during the read appears once, with its old or its new values.

        Args:
            fields: the attributes of each row; the key is always included.
            since: only rows that changed at or after this time, in UTC.
        """
        names = dict.fromkeys([KEY, *fields])
        return self._reader([*names]).pages(since)

    def _reader(self, fields: Sequence[str]) -> Reader:
        return Reader(self._client, Opportunities.collection(self.settings, fields))

    def _row(
        self,
        *,
        above: int | None = None,
        upto: int | None = None,
        total: bool = False,
        order_by: str | None = None,
    ) -> Page:
        """Read a page of one row with its key only."""
        asked = Opportunities.collection(self.settings, [KEY])
        return self._client.page(
            asked.resource,
            fields=asked.fields,
            q=asked.query.q(above=above, upto=upto),
            finder=asked.finder,
            order_by=order_by,
            limit=1,
            total=total,
        )
