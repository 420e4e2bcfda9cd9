"""The CRM's own list of status codes, with the category of each if the CRM tells it.

Each customer has codes of its own; only the category says which of them mean won or lost. The list
is optional: if it cannot be read, the run goes on without it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

from tap_oracle_crm.client import FEW_RETRIES
from tap_oracle_crm.errors import OracleCrmError, StoppedError, is_fatal
from tap_oracle_crm.settings import DEFAULT_FINDER
from tap_oracle_crm.stream import CrmStream
from tap_oracle_crm.streams import Opportunities

BY_BUSINESS_UNIT = "StatusByBUIdFinder;BindEnabledFlag=Y,BindLookupType=OPTY_STATUS,BindBUId={unit}"
CATEGORIES = {
    "OPEN": "OPEN",
    "WON": "WON",
    "LOST": "LOST",
    "NO_SALE": "NO_SALE",
    "NOSALE": "NO_SALE",
}
"""How the CRM may spell a category, and how it is written here."""
TYPE = "OPTY_STATUS"
DISABLED = ("N", "false", False)
MOST_VALUES = 200
"""The most values of one attribute to read, with one request each."""


class OpportunityStatuses(CrmStream):
    """The status codes of opportunities."""

    name = "opportunity_statuses"
    path = "optyStatusesLOV"
    key = "LookupCode"
    selected_by_default = False
    attributes: ClassVar = {
        "LookupCode": "string",
        "Meaning": "string",
        "LookupCategory": "string",
    }

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        """Return nothing: the list is written whole, see `_sync_records`."""
        return ()

    def _sync_records(
        self, context: Any = None, *, write_messages: bool = True
    ) -> Generator[dict[str, Any], Any, Any]:
        yield from ()
        with self.counted() as counter:
            try:
                rows = self._all_statuses()
            except StoppedError:
                return
            except OracleCrmError as error:
                if is_fatal(error):
                    raise
                rows, reason = [], error.cause
            else:
                reason = "the list is empty"
            if not rows:
                self.log(
                    "The CRM does not list its status codes (%s): those of the last list stay",
                    reason,
                    level=logging.WARNING,
                )
            counter.increment(len(self.emit(rows[: self.ABORT_AT_RECORD_COUNT])))

    def _all_statuses(self) -> list[dict[str, Any]]:
        """Return a row for each code, with its category if it can be found."""
        try:
            rows = self._list()
        except OracleCrmError as error:
            if is_fatal(error):
                raise
            rows = []
        rows = rows or self._list_by_business_unit() or self._list(settle=True)
        without: list[dict[str, Any]] = []
        statuses = []
        for code, same in self._by_code(rows).items():
            categories = {row["LookupCategory"] for row in same if row.get("LookupCategory")}
            status = {**same[0], "LookupCategory": None}
            if len(categories) == 1:
                (status["LookupCategory"],) = categories
            elif categories:
                self.log("%s has not one category in all reference sets", code)
            else:
                without.append(status)
            statuses.append(status)
        if any(status[self.key] not in CATEGORIES for status in without):
            found = self._categories_in_use()
            for status in without:
                status["LookupCategory"] = found.get(status[self.key])
        return statuses

    def _by_code(self, rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Return the rows that tell of each code what it means.

        The key of a row has its type and its reference set, too (Oracle's page of
        `optyStatusesLOV`: `LookupValuesAltKey`). Rows of another type are left out, unless all
        are; a disabled row counts where no other has the code, since old deals may have it.
        """
        codes: dict[str, list[dict[str, Any]]] = {}
        for row in [row for row in rows if row.get("LookupType", TYPE) == TYPE] or rows:
            codes.setdefault(str(row[self.key]), []).append(row)
        return {
            code: [row for row in same if row.get("EnabledFlag") not in DISABLED] or same
            for code, same in codes.items()
        }

    def _list(self, finder: str | None = None, *, settle: bool = False) -> list[dict[str, Any]]:
        """Return the rows of the list that name a code; stop if the server repeats a page.

        Args:
            finder: the `finder` parameter.
            settle: after a refusal, find the refused parts and retry without them.
        """
        rows: dict[str, dict[str, Any]] = {}
        received = 0
        while True:
            page = self.tap.client.page(
                self.path, finder=finder, offset=received, settle=settle, retries=FEW_RETRIES
            )
            received += len(page.items)
            known = len(rows)
            rows |= {
                json.dumps(row, sort_keys=True): row
                for row in page.items
                if isinstance(row, dict) and row.get(self.key)
            }
            if page.complete or len(rows) == known:
                return list(rows.values())

    def _list_by_business_unit(self) -> list[dict[str, Any]]:
        """Return the rows of all business units that have opportunities."""
        rows: list[dict[str, Any]] = []
        try:
            seen = Opportunities.collection(self.config, []).finder
            for unit in self._values_of("PrimaryOrganizationId", seen):
                rows += self._list(BY_BUSINESS_UNIT.format(unit=unit))
        except OracleCrmError as error:
            if is_fatal(error):
                raise
        return rows

    def _categories_in_use(self) -> dict[str, str]:
        """Return code and category of the statuses that opportunities have.

        Empty if the finder does not know categories, or ignores them.
        """
        found: dict[str, str] = {}
        try:
            for spelling, category in CATEGORIES.items():
                finder = f"{DEFAULT_FINDER},LookupCategory={spelling}"
                for code in self._values_of("StatusCode", finder):
                    if found.setdefault(code, category) != category:
                        return {}
        except OracleCrmError as error:
            if is_fatal(error):
                raise
            self.log("The CRM does not sort opportunities by status category (%s)", error.cause)
            return {}
        return found

    def _values_of(self, attribute: str, finder: str | None) -> Iterator[Any]:
        """Return the different values that opportunities have in an attribute, in order."""
        asked = Opportunities.collection(self.config, [attribute])
        version = asked.query.framework_version
        condition = f"{attribute}!=null" if version == 1 else f"{attribute} is not null"
        seen: set[Any] = set()
        while len(seen) < MOST_VALUES:
            page = self.tap.client.page(
                asked.resource,
                fields=asked.fields,
                q=replace(asked.query, condition=condition).q(),
                order_by=f"{attribute}:asc",
                finder=finder,
                limit=1,
                settle=False,
                retries=FEW_RETRIES,
            )
            value = next((row.get(attribute) for row in page.items if isinstance(row, dict)), None)
            if value is None or value in seen:
                return
            seen.add(value)
            yield value
            quoted = "'" + str(value).replace("'", "''") + "'"
            condition = f"{attribute} > {quoted if isinstance(value, str) else value}"
