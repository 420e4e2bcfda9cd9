"""Reads a collection so that no row is lost while the collection changes.

A read begins with one page, newest change first. If that page holds all rows, the read ends after
one request. Otherwise, the newest change on the page is the mark from which the next run starts.
The mark must be known *before* the other rows are read: later changes have a later time, so the
next run reads them again. Then the table is scanned in ranges of keys, several at once.

That first page is the most expensive request. If it fails, the server's clock gives the mark, and
the scan begins at once. If the server does not sort by key, ranges are halved until each fits a
page.

If a page of the scan fails and its keys alone do not, one of its records may be the reason: its
parts are read until that record is found, see `Unreadable`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from tap_oracle_crm.answers import Page, RetryError
from tap_oracle_crm.client import FEW_RETRIES, CrmClient
from tap_oracle_crm.errors import GaveUpError, OracleCrmError, RefusedError, StoppedError
from tap_oracle_crm.query import Query
from tap_oracle_crm.ranges import KeyRange, RangePlan
from tap_oracle_crm.records import RejectedError, Row, Unreadable, clean_datetime, key_of
from tap_oracle_crm.rows import RowType

log = logging.getLogger("tap-oracle-crm")

READ_AHEAD = 4
"""Largest number of pages that wait to be written: a slow target does not fill the memory."""
ORDER_RETRIES = 2
STEPS_OVER_KEYLESS = 20
"""Pages in a row without a single usable key before a range is given up."""
MOST_UNREADABLE = 20
"""If the CRM cannot show more records than these, the read ends."""
ONCE = {"settle": False, "row_retries": 0}
FAR_BEYOND_THE_OTHERS = timedelta(days=365)


@dataclass(frozen=True)
class Collection:
    """What to read, the same for every request of a run.

    Attributes:
        resource: path below the version, such as `opportunities`.
        fields: the attributes to ask for.
        query: writes `q`.
        finder: the `finder` parameter, or None.
        needs_q: the server shows all rows only to requests with a `q`.
    """

    resource: str
    fields: list[str]
    query: Query
    finder: str | None
    needs_q: bool = True


@dataclass(frozen=True)
class Start:
    """The first page of a read.

    Attributes:
        page: holds all rows if `page.complete` is set.
        mark: newest known change, never later than the server's clock; None if none is known.
        clock: the server's clock; None if a change on the page has a later time.
        keys: the known ones of the smallest and the largest key, if the page does not show the
            newest changes; otherwise None.
    """

    page: Page
    mark: datetime | None
    clock: datetime | None = None
    keys: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Batch:
    """Rows to emit; call `RangePlan.wrote` once they have been emitted.

    Attributes:
        item: the range of the rows.
        rows: the rows, as `Page.items`.
        upto: with these rows, the range is emitted up to this key.
        last: this is the last batch of the range.
    """

    item: KeyRange
    rows: list[Any]
    upto: int | None
    last: bool


def timestamp(value: Any) -> datetime | None:
    """Return a received change time in UTC; None if it is not a time."""
    try:
        text = clean_datetime(value)
    except RejectedError:
        return None
    return datetime.fromisoformat(text) if text else None


class Reader:
    """Reads one collection with one client.

    Args:
        client: sends the requests.
        collection: what to read.
        row_type: reads the rows; None: they stay as received.
    """

    def __init__(
        self, client: CrmClient, collection: Collection, row_type: RowType | None = None
    ) -> None:
        self._row_type = row_type
        self.client = client
        self.collection = collection
        self.key = collection.query.key
        self.changed = collection.query.changed
        self._sorts = True
        self._readable: int | None = None  # the key of a record that was read
        self._sought = 0  # records that were found to be the reason why a page failed

    def start(self, since: datetime | None, limit: int | None = None) -> Start:
        """Read the page with the newest changes; see the module's docstring."""
        try:
            page = self._newest_page(since, limit)
            mark = self._newest(page)
            if mark is None and not page.complete and self.changed in self.collection.fields:
                mark = self._probe_newest(since)
        except (RefusedError, GaveUpError) as error:
            if isinstance(error, GaveUpError):
                may_go_on = error.is_this_request
            else:
                may_go_on = error.part == "orderBy"
            if not may_go_on:
                raise
            log.warning(
                "%s: the newest changes cannot be read first (%s): all rows are read by %s instead",
                self.collection.resource,
                error.cause,
                self.key,
            )
            return self._start_by_key(since)
        beyond = page.server_time and any(
            stamp > page.server_time for stamp in self._change_times(page)
        )
        return Start(page, mark, None if beyond else page.server_time)

    def _newest_page(self, since: datetime | None, limit: int | None) -> Page:
        """Read the newest changes, without a count if that takes too long; with few retries."""
        q, order_by = self.collection.query.q(since=since), f"{self.changed}:desc"
        try:
            return self._page(since, q=q, order_by=order_by, limit=limit, total=True, retries=1)
        except GaveUpError as error:
            if not error.is_this_request:
                raise
        return self._page(since, q=q, order_by=order_by, limit=limit, retries=0)

    def _start_by_key(self, since: datetime | None) -> Start:
        """Find the smallest and the largest key; the mark is a time before these requests."""
        q = self.collection.query.q(since=since)
        fields = [name for name in self.collection.fields if name in {self.key, self.changed}]
        first = self._row_at_end(since, q=q, fields=fields, order_by=f"{self.key}:asc")
        last, keys = None, []
        if first is None:
            first = self._page(since, q=q, fields=fields, limit=1)
        else:
            with contextlib.suppress(GaveUpError):
                last = self._row_at_end(since, q=q, fields=fields, order_by=f"{self.key}:desc")
            rows = [*first.items, *(last.items if last else [])]
            keys = [key for row in rows if (key := key_of(row, self.key)) is not None]
        # These rows lack most attributes: they are read again.
        page = replace(first, complete=not first.items)
        return Start(page, self._newest(first, last), first.server_time, tuple(keys))

    def some(self, limit: int) -> list[Any]:
        """Fetch a few rows."""
        return self._page(None, q=self.collection.query.q(), limit=limit).items[:limit]

    def _row_at_end(self, since: datetime | None, **asked: Any) -> Page | None:
        """Read the first row in an order; None if the server does not sort."""
        try:
            return self._page(since, limit=1, **asked)
        except RefusedError as error:
            if error.part != "orderBy":
                raise
            return None

    def _page(self, since: datetime | None, **asked: Any) -> Page:
        """Read a page of the collection; if its condition is refused, name the setting."""
        collection = self.collection
        given = {
            "fields": collection.fields,
            "finder": collection.finder,
            "key": self.key,
            "row_type": self._row_type,
            **asked,
        }
        try:
            return self.client.page(collection.resource, **given)
        except RefusedError as error:
            if error.part != "q":
                raise
            raise self._blame_setting(error, since) from None

    def _blame_setting(self, error: RefusedError, since: datetime | None) -> RefusedError:
        """Return the error with the setting that the refused part of `q` comes from."""
        query = self.collection.query
        if query.condition and self._is_accepted(replace(query, condition=None).q(since=since)):
            about = f"the setting filter ({query.condition})"
        elif since and self._is_accepted(query.q()):
            about = f"the setting timestamp_format ({query.timestamp_format})"
        else:
            version = 4 if query.framework_version == 1 else 1
            about = (
                f"the setting framework_version, which decides the language of `q`: {version} "
                "instead of "
                f"{query.framework_version} may be understood"
            )
        return RefusedError(
            f"Oracle refused the query of {self.collection.resource} ({error.cause}).",
            advice=f"Correct {about}.",
            status=error.status,
            detail=error.detail,
            codes=error.codes,
            part=error.part,
        )

    def _is_accepted(self, q: str) -> bool:
        try:
            self.client.page(
                self.collection.resource,
                fields=[self.key],
                q=q,
                finder=self.collection.finder,
                limit=1,
                settle=False,
            )
        except RefusedError:
            return False
        return True

    def _change_times(self, page: Page) -> list[datetime]:
        return [stamp for row in page.items if (stamp := self._change_time(row))]

    def _change_time(self, row: Any) -> datetime | None:
        if isinstance(row, Row):
            return timestamp(row.changed)
        return timestamp(row.get(self.changed)) if isinstance(row, dict) else None

    def _newest(self, *pages: Page | None) -> datetime | None:
        """Return the newest change on some pages that is not in the future."""
        found = [page for page in pages if page]
        stamps = sorted(stamp for page in found for stamp in self._change_times(page))
        if not stamps:
            return None
        now = max((page.server_time for page in found if page.server_time), default=None)
        # A row with a future time must not hide changes before that time.
        if now:
            return max((stamp for stamp in stamps if stamp <= now), default=now)
        # Without a clock, a time far after all others may be such a row.
        gaps = (one for one, two in itertools.pairwise(stamps) if two - one > FAR_BEYOND_THE_OTHERS)
        return next(gaps, stamps[-1])

    def newest(self, rows: list[Any], before: datetime | None) -> datetime | None:
        """Return the newest change of some rows, or `before` if that is newer."""
        stamps = map(self._change_time, rows)
        return max((stamp for stamp in (before, *stamps) if stamp), default=None)

    def _probe_newest(self, since: datetime | None) -> datetime | None:
        """Find the newest change if rows without one fill the page, as they sort first."""
        if self.collection.query.framework_version == 1:
            return None
        return self._newest(
            self._page(
                since,
                fields=[self.key, self.changed],
                q=self.collection.query.null(self.changed, since=since, not_null=True),
                order_by=f"{self.changed}:desc",
                limit=1,
            )
        )

    def plan(self, start: Start) -> RangePlan:
        """Divide the whole table by the keys on the first page."""
        page, parts = start.page, self.client.gate.most
        if start.keys is not None:
            low, high = min(start.keys, default=0), max(start.keys, default=0)
            marks = [low + (high - low) * part // parts for part in range(parts)]
            plan = RangePlan(RangePlan.partition(marks, parts), page_size=self.client.page_size)
            plan.largest_known(high)
            return plan
        size = page.limit or self.client.page_size
        sample = [key for row in page.items if (key := key_of(row, self.key)) is not None]
        if page.total is not None:
            parts = min(parts, -(-page.total // size))
        bounds = RangePlan.partition(sample, parts)
        return RangePlan(bounds, sample, size)

    def scan(self, plan: RangePlan, since: datetime | None) -> Generator[Batch | None]:
        """Fetch all remaining ranges of a plan; yields None about once a second without a batch.

        Args:
            plan: this method records received rows in it; the caller must record emitted ones.
            since: only rows that changed at or after this time.
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
                    for batch in self._read(plan, item, since, skips=True):
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

    def _read(
        self, plan: RangePlan, item: KeyRange, since: datetime | None, *, skips: bool = False
    ) -> Iterator[Batch]:
        """Fetch one range page by page; each page starts after the last key of the one before.

        Args:
            plan: the plan of the range.
            item: the range.
            since: only rows that changed at or after this time.
            skips: if the CRM cannot show a record, go on with the next one.
        """
        keyless = 0
        parts: list[int] = []  # the numbers of rows to ask for, of a page that failed
        failure: GaveUpError | None = None
        while not item.exhausted:
            low, high = plan.bounds_of(item)
            asked = {
                "q": self._q(since, low, high),
                "order_by": f"{self.key}:asc",
                "offset": keyless,
                "limit": parts.pop() if parts else None,
                "check": lambda page, low=low: self._check_order(page, low),
            }
            try:
                page = self._page(since, **asked, **(ONCE if asked["limit"] else {}))
                self._remember(page)
            except RefusedError as error:
                if error.part != "orderBy":
                    raise
                yield from self._read_unsorted(plan, item, since, skips=skips)
                return
            except GaveUpError as error:
                if not skips:
                    raise
                failure = failure if failure and asked["limit"] else error
                page = self._keys_of(asked, since, failure, is_first=failure is error)
                if len(page.items) > 1:
                    half = len(page.items) // 2
                    parts += [len(page.items) - half, half]
                    continue
                page = replace(page, items=self._shown_of(page.items[0], failure))
                parts = [sum(parts)] if parts else []
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
                raise self._keyless_error(keyless)

    def _read_unsorted(
        self, plan: RangePlan, item: KeyRange, since: datetime | None, *, skips: bool
    ) -> Iterator[Batch]:
        """Fetch one range in parts that each fit into one page, so that order does not matter."""
        if self._sorts:
            self._sorts = False
            log.warning(
                "%s: this CRM does not sort by %s: ranges are halved until each fits a page, which "
                "takes twice as many requests",
                self.collection.resource,
                self.key,
            )
        cuts: list[int] = []
        failure: GaveUpError | None = None  # of a range that is not read yet
        while not item.exhausted:
            low, high = plan.bounds_of(item)
            cuts = [cut for cut in cuts if (low is None or cut > low) and cut != high]
            upto = min([*cuts, *([high] if high is not None else [])], default=None)
            asked = {
                "q": self._q(since, low, upto),
                "check": lambda page, low=low, upto=upto: self._check_bounds(page, low, upto),
            }
            failure = failure if cuts else None
            try:
                page = self._page(since, **asked, **(ONCE if failure else {}))
                self._remember(page)
            except GaveUpError as error:
                if not skips:
                    raise
                failure = failure or error
                page = self._keys_of(asked, since, failure, is_first=failure is error)
                if page.complete and len(page.items) == 1:
                    page = replace(page, items=self._shown_of(page.items[0], failure))
                else:
                    page = replace(page, complete=False)
            rows = sorted(page.items, key=lambda row: key_of(row, self.key) or 0)
            keys = [key for row in rows if (key := key_of(row, self.key)) is not None]
            if not page.complete:
                middle = keys[(len(keys) - 1) // 2 :][:1]
                if not middle or middle == [upto]:
                    raise self._keyless_error(len(rows))
                cuts += middle
                continue
            is_last = upto == high
            if upto is not None:
                keys = [*keys, upto]  # all rows up to this key were received
            _, high = plan.receive(item, keys, complete=is_last)
            kept = [row for row in rows if high is None or (key_of(row, self.key) or 0) <= high]
            yield Batch(item, kept, item.fetched, item.exhausted)

    def _order(self, direction: str = "asc") -> str | None:
        """Return the order by key; None if the server does not sort."""
        return f"{self.key}:{direction}" if self._sorts else None

    # Records that the CRM cannot show

    def _remember(self, page: Page) -> None:
        """Remember a record that was read."""
        if page.items:
            self._readable = key_of(page.items[-1], self.key)

    def _try(self, since: datetime | None = None, retries: int = 0, **asked: Any) -> Page | None:
        """Read a page; None if the CRM fails, and one of the rows may be the reason."""
        asked = {"row_type": None, **asked, **ONCE, "row_retries": retries}
        try:
            return self._page(since, **asked)
        except GaveUpError as error:
            if not error.about_rows:
                raise
            return None

    def _keys_of(
        self, asked: dict[str, Any], since: datetime | None, error: GaveUpError, *, is_first: bool
    ) -> Page:
        """Read the keys of a page that failed, or of a part of it.

        Raises:
            GaveUpError: they cannot be read, so that no single record is the reason.
        """
        if not error.about_rows:
            raise error
        page = self._try(since, FEW_RETRIES, **asked, fields=[self.key])
        keys = [key_of(row, self.key) for row in page.items] if page else []
        most = asked.get("limit") or len(keys)  # more of them: the server ignores the limit
        if page is None or not 0 < len(keys) <= most or keys == [None]:
            raise error
        if is_first:
            log.warning(
                "%s: a page cannot be read (%s), and the keys of its records can: looking for the "
                "record that is the reason",
                self.collection.resource,
                error.cause,
            )
        return page

    def _shown_of(self, row: Any, error: GaveUpError) -> list[Any]:
        """Read all that the CRM shows of a record, and find an attribute that it does not show.

        Returns:
            the record as `Unreadable`; as it is if it can be read now; nothing if it is gone.

        Raises:
            GaveUpError: the CRM shows no other record with the same attributes.
            OracleCrmError: there are too many such records.
        """
        key = key_of(row, self.key) or 0
        q = self.collection.query.q(above=key - 1, upto=key)
        others = [name for name in self.collection.fields if name != self.key]
        names = sorted(others, key=lambda name: name != self.changed)  # the time of change first

        def show(some: list[str], retries: int = 0) -> list[Any] | None:
            asked = {"q": q, "order_by": self._order(), "limit": 1}
            page = self._try(None, retries, fields=[self.key, *some], **asked)
            return page.items if page else None

        self._sought += 1
        is_one_too_many = self._sought > MOST_UNREADABLE
        whole = show(names, FEW_RETRIES)
        if whole is not None and not is_one_too_many:
            return whole
        if whole is not None or not self._shows_others(key):
            raise error
        shown, few, many = [row], 0, len(names)  # it shows the first few, not the first many
        while many - few > 1:
            middle = (few + many) // 2
            found = show(names[:middle])
            if found is None:
                many = middle
            else:
                shown, few = found, middle
        name = names[few]
        shown = show([other for other in names if other != name]) or shown
        reason = f"{name}: asked for it in this record, the CRM answers {error.about_rows}"
        if is_one_too_many:
            raise OracleCrmError(
                f"The CRM cannot show more than {MOST_UNREADABLE} {self.collection.resource}, the "
                f"last of which is {key} ({reason}).",
                advice=f"Ask its administrator to correct {name}, or do not select this attribute.",
            )
        return [Unreadable(one, reason) for one in shown]

    def _shows_others(self, key: int) -> bool:
        """Tell whether the CRM shows any other record with the same attributes."""
        query, known = replace(self.collection.query, condition=None), self._readable
        others = [
            *([] if known is None else [(query.q(above=known - 1, upto=known), "asc")]),
            (query.q(above=key), "asc"),
            (query.q(upto=key - 1), "desc"),
            (query.q(), "asc"),
            (query.q(), "desc"),
        ]
        for q, order in others:
            page = self._try(q=q, order_by=self._order(order), limit=1)
            if page and page.items:
                self._remember(page)
                return True
        return False

    def _q(self, since: datetime | None, low: int | None, high: int | None) -> str | None:
        if not self.collection.needs_q and since is None and low is None and high is None:
            return None
        return self.collection.query.q(since=since, above=low, upto=high)

    def _keyless_error(self, keyless: int) -> OracleCrmError:
        return OracleCrmError(
            f"{self.collection.resource}: {keyless} records in a row have no usable {self.key}; "
            "the read cannot go on past them.",
            advice="Check the account's rights.",
        )

    def _check_order(self, page: Page, low: int | None) -> None:
        """Check that continuing after the last key of a page skips no row.

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

    def _check_bounds(self, page: Page, low: int | None, high: int | None) -> None:
        """Check that the server did not ignore `q`.

        Raises:
            RetryError: the server ignored it.
        """
        keys = [key for row in page.items if (key := key_of(row, self.key)) is not None]
        if any((low is not None and key <= low) or (high or key) < key for key in keys):
            msg = f"rows that were excluded by the range of {self.key}: the filter was ignored"
            raise RetryError(msg, limit=ORDER_RETRIES)

    def pages(self, since: datetime | None = None) -> Iterator[list[Any]]:
        """Fetch all rows, or those changed since, ordered by key and one page at a time."""
        plan = RangePlan([(None, None)])
        if item := plan.take():
            for batch in self._read(plan, item, since):
                yield batch.rows

    def serves(self, names: list[str]) -> bool:
        """Tell whether the CRM accepts a request for the key and these attributes."""
        try:
            self._page(
                None, fields=[self.key, *names], q=self._q(None, None, None), limit=1, settle=False
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
                page = self._page(
                    since,
                    q=self.collection.query.null(self.key, since=since),
                    offset=len(rows),  # there is no key to go on from
                    settle=False,
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
        q = self.collection.query.q(above=key - 1, upto=key)
        return bool(self._page(None, fields=[self.key], q=q, limit=1).items)

    def learn_largest(self, plan: RangePlan) -> None:
        """Give a plan without a sample the table's largest key."""
        q = self.collection.query.q(above=0)
        page = None
        with contextlib.suppress(GaveUpError):
            page = self._row_at_end(None, fields=[self.key], q=q, order_by=f"{self.key}:desc")
        for row in page.items if page else []:
            if (key := key_of(row, self.key)) is not None:
                plan.largest_known(key)
