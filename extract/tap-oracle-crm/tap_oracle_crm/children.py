"""Streams of records that belong to opportunities: read for each changed opportunity."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.pool import ThreadPool
from typing import Any, ClassVar
from urllib.parse import quote

from tap_oracle_crm.collection import CollectionStream
from tap_oracle_crm.errors import OracleCrmError, is_fatal
from tap_oracle_crm.progress import Progress
from tap_oracle_crm.query import Query
from tap_oracle_crm.reading import Collection, Reader, timestamp
from tap_oracle_crm.records import key_of
from tap_oracle_crm.stream import CrmStream

FAILURES_AT_ONCE = 10
"""Failed opportunities before another one is tried."""
OTHERS = 25
"""How many opportunities are fetched to find another one."""

Parent = dict[str, Any]


class ChildStream(CrmStream):
    """Records that belong to opportunities: read for each opportunity that the run emits.

    The state holds the change up to which the children of all opportunities were read. While the
    stream cannot be read, that mark stays. Later, opportunities are read again from the mark.

    Attributes:
        path: the child resource's path below its opportunity.
        parent_key: the opportunity's attribute that is part of the path.
        is_left_out: the stream cannot be read in this run.
    """

    parent_key: ClassVar[str] = "OptyNumber"
    state_partitioning_keys = ()
    is_left_out = False

    # State

    def mark(self, scope: str) -> datetime | None:
        """Return the change up to which the children of all opportunities of a scope were read."""
        state = self.stream_state
        read = set(str(state.get("attributes", "")).split(","))
        is_same = read >= set(self.fields) and state.get("scope") == scope
        return timestamp(state.get("parents_read_until")) if is_same else None

    def advance(self, mark: datetime, scope: str) -> None:
        """Save that the children of all opportunities of a scope were read up to a change."""
        if not self.is_left_out:
            self.stream_state.update(
                attributes=",".join(self.fields),
                scope=scope,
                parents_read_until=mark.astimezone(UTC).isoformat(),
            )

    # Reading

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Announce the stream, and count its records while its parent is read."""
        self._deleted = self._unnamed = self._rows = 0
        self._answered: Parent | None = None
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._progress = Progress(self, 0, None)
        self.is_left_out = False
        self._write_schema_message()
        # These threads end with the program; those of concurrent.futures would delay its exit.
        with self.get_record_counter() as counter, ThreadPool(self.tap.client.gate.most) as pool:
            self._counter, self._pool = counter, pool
            yield
        if self._deleted:
            self.log(
                "%d opportunities were deleted before their %s could be read",
                self._deleted,
                self.path,
            )
        if self._unnamed:
            self.log(
                "%d opportunities have no %s, without which their %s cannot be read",
                self._unnamed,
                self.parent_key,
                self.path,
                level=logging.WARNING,
            )

    def is_served(self, opportunities: Reader) -> bool:
        """Tell whether the children of some opportunity can be read; log it if they cannot."""
        error = self._error_of_another(opportunities, [])
        if error:
            self._leave_out(error)
        return not error

    def emit_of(self, parents: list[Parent], opportunities: Reader) -> None:
        """Read and write the children of these opportunities, several at a time.

        If one opportunity fails and another does not, the first becomes a rejected record. If all
        fail, the rest of the run skips the stream.

        Raises:
            OracleCrmError: the CRM does not answer at all, or it refuses the credentials.
        """
        if self.is_left_out:
            return
        named = [parent for parent in parents if parent[self.parent_key]]
        self._unnamed += len(parents) - len(named)
        self._opportunities, self._named = opportunities, named
        failed: list[tuple[Parent, OracleCrmError]] = []
        results = self._pool.imap(self._children_of, named)
        for parent in named:
            rows = None
            while rows is None:
                with contextlib.suppress(multiprocessing.TimeoutError):
                    rows = results.next(1)
                self._progress.tell(self._rows)
            if isinstance(rows, OracleCrmError):
                failed.append((parent, rows))
                # If nothing was answered yet, most likely nothing will be.
                if len(failed) >= (FAILURES_AT_ONCE if self._answered else 1):
                    self._reject_or_leave_out(failed)
                    failed = []
                if self.is_left_out:
                    return
                continue
            self._answered = parent
            self._rows += len(rows)
            self._counter.increment(len(self.emit(rows)))
        self._reject_or_leave_out(failed)

    def _reject_or_leave_out(self, failed: list[tuple[Parent, OracleCrmError]]) -> None:
        """Reject the failed opportunities, or skip the stream if another one fails too."""
        if not failed:
            return
        asked = self.fields
        error = self._error_of_another(self._opportunities, [parent for parent, _ in failed])
        if error:
            self._leave_out(error)
            return
        for parent, refusal in failed:
            # The read no longer asks for the refused attribute, perhaps.
            rows = refusal if self.fields == asked else self._children_of(parent)
            if not isinstance(rows, OracleCrmError):
                self._counter.increment(len(self.emit(rows)))
                continue
            text = f"its {self.path} could not be read: {rows.cause}"
            self.tap.rejects.add(self, parent, text, key=self._opportunities.key)

    def _error_of_another(
        self, opportunities: Reader, parents: list[Parent]
    ) -> OracleCrmError | None:
        """Return why the children of an opportunity outside these cannot be read.

        None if they can be read, or if there is no other opportunity.
        """
        others = self._other_opportunities(
            opportunities, {parent[self.parent_key] for parent in parents}
        )
        for other in others:
            try:
                self._read(other, [*parents, *others])
            except OracleCrmError as error:
                if is_fatal(error):
                    raise
                if opportunities.has(other[opportunities.key]):
                    return error
            else:
                self._answered = other
                return None
        return None

    def _other_opportunities(self, opportunities: Reader, known: set[str]) -> list[Parent]:
        if self._answered:
            return [self._answered]
        key, number = opportunities.key, self.parent_key
        page = opportunities.client.page(
            opportunities.collection.resource,
            fields=[key, number],
            q=opportunities.collection.query.q(),
            finder=opportunities.collection.finder,
            limit=OTHERS,
        )
        rows = [row for row in page.items if key_of(row, key) is not None]
        return [
            {key: key_of(row, key), number: row[number]}
            for row in rows
            if row.get(number) and row[number] not in known
        ]

    def _leave_out(self, error: OracleCrmError) -> None:
        self.is_left_out = True
        self.log(
            "%s of opportunities cannot be read (%s): this run skips them; a later run reads "
            "those of all opportunities that changed meanwhile",
            self.path,
            error.cause,
            level=logging.WARNING,
        )

    def _children_of(self, parent: Parent) -> list[Any] | OracleCrmError:
        # Results come in order: a failure must not be repeated for all opportunities behind it.
        if self._failure:
            raise self._failure
        if self.is_left_out:
            return []
        try:
            return self._read(parent, self._named)
        except OracleCrmError as error:
            try:
                if is_fatal(error):
                    raise
                # This answer also proves that the CRM is up.
                if self._opportunities.has(parent[self._opportunities.key]):
                    return error
            except BaseException as failure:
                self._failure = failure
                raise
            with self._lock:
                self._deleted += 1
            return []
        except BaseException as failure:
            self._failure = failure
            raise

    def _read(self, parent: Parent, others: list[Parent]) -> list[Any]:
        number = parent[self.parent_key]
        other = next((one for one in others if one[self.parent_key] != number), None)
        return self.without_gone(
            lambda: self._reader(parent),
            lambda reader: [row for rows in reader.pages() for row in rows],
            lambda _: self._reader(other) if other else None,
        )

    def _reader(self, parent: Parent) -> Reader:
        number = quote(str(parent[self.parent_key]), safe="")
        return Reader(
            self.tap.client,
            Collection(
                f"opportunities/{number}/child/{self.path}",
                self.fields,
                Query.of(self.config, self.key, CollectionStream.changed),
                None,
                needs_q=False,
            ),
        )

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        """Return nothing: children are read with their parents, see `emit_of`."""
        return ()
