"""Reads a collection so that nothing is lost while it changes.

A read begins with one page, newest change first. Where that page is all there is, the read is
over after one request. Otherwise the newest change on it is kept as the mark from which the next
run starts (the mark must be known *before* anything else is read: whatever changes later is
stamped later and is read again), and the table is scanned in ranges of keys, several at once.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tap_oracle_crm.answers import Page, RetryError
from tap_oracle_crm.client import CrmClient
from tap_oracle_crm.errors import OracleCrmError, RefusedError, StoppedError
from tap_oracle_crm.query import Query
from tap_oracle_crm.ranges import KeyRange, RangePlan
from tap_oracle_crm.records import RejectedError, clean_datetime, key_of

log = logging.getLogger("tap-oracle-crm")

READ_AHEAD = 4
"""Pages that wait at most to be written; memory stays flat whatever the target's pace."""
ORDER_RETRIES = 2
STEPS_OVER_KEYLESS = 20
"""Pages in a row without a single usable key before a range is given up."""


@dataclass(frozen=True)
class Collection:
    """What to read, the same for every request of a run.

    Attributes:
        resource: path below the version, such as `opportunities`.
        fields: the attributes to ask for.
        query: writes `q`.
        finder: the `finder` parameter, or None.
        needs_q: all of it is shown to none but who sends a `q`.
    """

    resource: str
    fields: list[str]
    query: Query
    finder: str | None
    needs_q: bool = True


@dataclass(frozen=True)
class Start:
    """The page that a read begins with.

    Attributes:
        page: its rows are all there is where `page.complete` is set.
        mark: newest change known, never ahead of the server's clock; None where none is known.
    """

    page: Page
    mark: datetime | None


@dataclass(frozen=True)
class Batch:
    """Rows to emit; the plan is told with `RangePlan.wrote` once they are.

    Attributes:
        item: the range they belong to.
        rows: the rows as received.
        upto: the range is emitted up to this key with them.
        last: nothing of the range follows.
    """

    item: KeyRange
    rows: list[Any]
    upto: int | None
    last: bool


def timestamp(value: Any) -> datetime | None:
    """Return a change time as received, in UTC; None where it is none."""
    try:
        text = clean_datetime(value)
    except RejectedError:
        return None
    return datetime.fromisoformat(text) if text else None


class Reader:
    """Reads one collection with one client."""

    def __init__(self, client: CrmClient, collection: Collection) -> None:
        self.client = client
        self.collection = collection
        self.key = collection.query.key
        self.changed = collection.query.changed

    def start(self, since: datetime | None, limit: int | None = None) -> Start:
        """Read the page with the newest changes; see the module's text."""
        page = self.client.page(
            self.collection.resource,
            fields=self.collection.fields,
            q=self.collection.query.q(since=since),
            order_by=f"{self.changed}:desc",
            finder=self.collection.finder,
            limit=limit,
            total=True,
        )
        mark = self._newest(page)
        if mark is None and not page.complete and self.changed in self.collection.fields:
            mark = self._probe_newest(since)
        return Start(page, mark)

    def _newest(self, page: Page) -> datetime | None:
        stamps = [
            stamp
            for row in page.items
            if isinstance(row, dict) and (stamp := timestamp(row.get(self.changed)))
        ]
        # A row stamped in the future must not hide what changes until then.
        past = [stamp for stamp in stamps if stamp <= page.server_time]
        return max(past) if past else (page.server_time if stamps else None)

    def _probe_newest(self, since: datetime | None) -> datetime | None:
        """Find the newest change where rows without one, which sort first, fill the page."""
        if self.collection.query.framework_version == 1:
            return None
        return self._newest(
            self.client.page(
                self.collection.resource,
                fields=[self.key, self.changed],
                q=self.collection.query.null(self.changed, since=since, not_null=True),
                order_by=f"{self.changed}:desc",
                finder=self.collection.finder,
                limit=1,
            )
        )

    def plan(self, start: Start) -> RangePlan:
        """Divide the whole table, by the keys on the first page."""
        page = start.page
        size = page.limit or self.client.page_size
        sample = [key for row in page.items if (key := key_of(row, self.key)) is not None]
        parts = self.client.gate.most
        if page.total is not None:
            parts = min(parts, -(-page.total // size))
        bounds = RangePlan.partition(sample, parts)
        return RangePlan(bounds, sample, size)

    def scan(self, plan: RangePlan, since: datetime | None) -> Generator[Batch | None]:
        """Fetch all that a plan still holds; None comes about once a second without a batch.

        Args:
            plan: it is told what has been received; the caller tells it what has been written.
            since: only rows changed at or after this moment.
        """
        batches: queue.Queue[Batch | BaseException | None] = queue.Queue(READ_AHEAD)
        stop = threading.Event()

        def put(item: Batch | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return batches.put(item, timeout=0.2)
                except queue.Full:
                    continue
            raise StoppedError

        def work() -> None:
            try:
                while item := plan.take():
                    for batch in self._read(plan, item, since):
                        put(batch)
                put(None)
            except StoppedError:
                plan.stop()
            except BaseException as error:
                plan.stop()
                with contextlib.suppress(StoppedError):
                    put(error)

        workers = [
            threading.Thread(target=work, name=f"{self.collection.resource}-{number}", daemon=True)
            for number in range(self.client.gate.most)
        ]
        for worker in workers:
            worker.start()
        running = len(workers)
        try:
            while running:
                try:
                    item = batches.get(timeout=1)
                except queue.Empty:
                    if self.client.stopping.is_set():
                        raise StoppedError from None
                    yield None
                    continue
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            stop.set()
            plan.stop()

    def _read(self, plan: RangePlan, item: KeyRange, since: datetime | None) -> Iterator[Batch]:
        """Fetch one range page by page, each from the last key of the one before."""
        keyless = 0
        while not item.exhausted:
            low, high = plan.bounds_of(item)
            page = self.client.page(
                self.collection.resource,
                fields=self.collection.fields,
                q=self.collection.query.q(since=since, above=low, upto=high),
                order_by=f"{self.key}:asc",
                finder=self.collection.finder,
                offset=keyless,
                check=lambda page, low=low: self._check_order(page, low),  # type: ignore[misc]
            )
            keys = [key_of(row, self.key) for row in page.items]
            last = next((key for key in reversed(keys) if key is not None), None)
            low, high = plan.receive(item, keys, complete=page.complete)
            rows = [
                row
                for row, key in zip(page.items, keys, strict=True)
                # Rows without a key are rejected later; rows outside belong to another range.
                if key is None or ((low is None or key > low) and (high is None or key <= high))
            ]
            yield Batch(item, rows, item.fetched, item.exhausted)
            keyless = 0 if last is not None or page.complete else keyless + len(keys)
            if keyless > STEPS_OVER_KEYLESS * (page.limit or self.client.page_size):
                raise self._no_way_past(keyless)

    def _no_way_past(self, keyless: int) -> OracleCrmError:
        return OracleCrmError(
            f"{self.collection.resource}: {keyless} records in a row have no usable {self.key}; "
            "the read cannot go on past them. Check the account's rights."
        )

    def _check_order(self, page: Page, low: int | None) -> None:
        """Make sure that going on from the last key of a page skips no row.

        Raises:
            RetryError: the server ignored `orderBy` or `q`.
        """
        keys = [key for row in page.items if (key := key_of(row, self.key)) is not None]
        if any(one > two for one, two in itertools.pairwise(keys)):
            msg = f"rows that are not in the order of {self.key} that was asked for"
            raise RetryError(msg, limit=ORDER_RETRIES)
        if keys and low is not None and keys[-1] <= low:
            msg = f"rows that were excluded by {self.key} > {low}: the filter was ignored"
            raise RetryError(msg, limit=ORDER_RETRIES)

    def all_rows(self) -> list[Any]:
        """Fetch a small collection whole, each page from the last key of the one before."""
        rows: list[Any] = []
        last: int | None = None
        while True:
            page = self.client.page(
                self.collection.resource,
                fields=self.collection.fields,
                q=None if last is None else self.collection.query.q(above=last),
                order_by=f"{self.key}:asc",
                check=lambda page, low=last: self._check_order(page, low),  # type: ignore[misc]
            )
            rows += page.items
            if page.complete:
                return rows
            keys = [key for row in page.items if (key := key_of(row, self.key)) is not None]
            if not keys:
                raise self._no_way_past(len(page.items))
            last = keys[-1]

    def serves(self, names: list[str]) -> bool:
        """Tell whether the CRM serves the key together with these attributes."""
        try:
            self.client.page(
                self.collection.resource,
                fields=[self.key, *names],
                q=self.collection.query.q() if self.collection.needs_q else None,
                finder=self.collection.finder,
                limit=1,
            )
        except RefusedError as error:
            if error.status != 400:
                raise
            return False
        return True

    def keyless(self, since: datetime | None) -> list[Any]:
        """Fetch rows whose key is null, which no range of keys finds."""
        if self.collection.query.framework_version == 1:
            return []
        rows: list[Any] = []
        try:
            while True:
                page = self.client.page(
                    self.collection.resource,
                    fields=self.collection.fields,
                    q=self.collection.query.null(self.key, since=since),
                    finder=self.collection.finder,
                    offset=len(rows),  # there is no key to go on from
                )
                rows += page.items
                if page.complete or len(rows) > STEPS_OVER_KEYLESS * self.client.page_size:
                    break
        except RefusedError as error:
            if error.status != 400:
                raise
            log.warning("Cannot look for records without %s: %s", self.key, error)
        return [row for row in rows if key_of(row, self.key) is None]

    def has(self, key: int) -> bool:
        """Tell whether there is a row with this key."""
        page = self.client.page(
            self.collection.resource,
            fields=[self.key],
            q=self.collection.query.q(above=key - 1, upto=key),
            finder=self.collection.finder,
            limit=1,
        )
        return bool(page.items)

    def learn_largest(self, plan: RangePlan) -> None:
        """Tell a plan that has no sample where its last range may end."""
        page = self.client.page(
            self.collection.resource,
            fields=[self.key],
            q=self.collection.query.q(above=0),
            order_by=f"{self.key}:desc",
            finder=self.collection.finder,
            limit=1,
        )
        for row in page.items:
            if (key := key_of(row, self.key)) is not None:
                plan.largest_known(key)
