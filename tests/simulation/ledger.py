"""The expected state of a world, and the rules that must be true in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

from tests.simulation.crm import KEYLESS

if TYPE_CHECKING:
    from tests.simulation.pipeline import Read, Run
    from tests.simulation.world import World

OUTCOMES = {"OPEN": "OPEN", "WON": "WON", "LOST": "LOST", "NO_SALE": "CLOSED", "CLOSED": "CLOSED"}
"""The outcome of a status category or a predefined code."""
COUNTED: dict[str, LiteralString] = {
    "opportunities": """
        select coalesce(sum(new_records + updated_records + unchanged_records), 0)::int as so_far
        from sync_runs
    """,
    "rejected_records": "select coalesce(sum(failed_records), 0)::int as so_far from sync_runs",
}
"""The number of records that the merges of a model have counted, in all runs."""


class Violation(AssertionError):  # noqa: N818 - it is not an error of the simulation's
    """A rule was broken."""


class Ledger:
    """Records loads, edits and the visible data of the CRM, and checks the rules."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.workflow: dict[str, str] = {}
        """The last status of each deal from the bid team."""
        self.crm_clock_went_back = False
        self._ids: dict[str, int] = {}
        self._loaded: dict[str, list[Read]] = {model: [] for model in COUNTED}
        """The records that each model has not merged yet, oldest first."""
        self._counted = dict.fromkeys(COUNTED, 0)
        self._last: dict[str, dict[str, int]] = {}
        """The last step at which the CRM showed a deal in a state: good, bad or absent."""
        self._shown: dict[str, str] = {}
        self._deleted: set[str] = set()
        self._open: dict[str, int] = {}
        """The open rejects, with the step at which their first run began."""
        self._merged_since = 0
        """All records that were loaded before this step are merged."""
        self._events: dict[str, int] = {}
        self.look_at_crm()

    def must(self, holds: object, otherwise: str) -> None:
        """Check a rule.

        Raises:
            Violation: the rule is broken.
        """
        if not holds:
            raise Violation(otherwise)

    def _query(self, statement: LiteralString, *parameters: object) -> list[dict[str, Any]]:
        return self._world.connection.execute(statement, parameters).fetchall()

    # The CRM

    def look_at_crm(self) -> None:
        """Record the CRM's visible data until now, and from now on."""
        self._record_shown()
        self._shown = {
            str(key): "good" if state == "good" else "bad"
            for key, state in self._world.crm.shown().items()
        }
        self._record_shown()

    def _record_shown(self) -> None:
        for key in {*self._shown, *self._last}:
            last = self._last.setdefault(key, {})
            last[self._shown.get(key, "absent")] = self._world.executor.step

    def _was_shown(self, key: str, states: set[str], since: int) -> bool:
        """Return whether the CRM showed a deal in one of these states at or after a step."""
        last = self._last.get(key, {"absent": self._world.executor.step})
        return any(last.get(state, -1) >= since for state in states)

    # Counts

    def has_loaded(self, records: list[Read]) -> None:
        """Record the records of a batch."""
        for reads in self._loaded.values():
            reads += records

    def window(self, model: str) -> int:
        """Return the number of records for a merge that begins now."""
        return len(self._loaded.get(model, ()))

    def has_merged(self, model: str, window: int) -> None:
        """Check that a model counts each merged record once."""
        if model not in COUNTED:
            return
        newest = {read.key: read.is_good for read in self._loaded[model][:window]}
        is_counted = sum(good == (model == "opportunities") for good in newest.values())
        del self._loaded[model][:window]
        (row,) = self._query(COUNTED[model])
        counted = row["so_far"] - self._counted[model]
        self._counted[model] = row["so_far"]
        self.must(
            counted == is_counted,
            f"{model} counts {counted} records, and must count {is_counted} loaded ones",
        )

    # Runs

    def begins(self, run: Run) -> None:
        """Record that a run begins."""
        self._events[run.run_id] = self._world.crm.events

    def status(self, run: Run) -> str | None:
        """Return the status of a run."""
        row = self._row(run)
        return row["status"] if row else None

    def _row(self, run: Run) -> dict[str, Any] | None:
        rows = self._query("select * from run_logs where run_id = %s", run.run_id)
        return rows[0] if rows else None

    def check(self, run: Run) -> None:
        """Check the rules that must always be true, after a run has ended or is frozen."""
        self.look_at_crm()
        row = self._row(run) or {}
        deals = self._query("select * from opportunities")
        self._check_deals(deals)
        self._check_rejects(run)
        (totals,) = self._query("select wrong_totals() as wrong")
        self.must(totals["wrong"] == 0, f"{totals['wrong']} totals are not those of the deals")
        if row.get("status") == "SUCCESS":
            parts = ("new_records", "updated_records", "unchanged_records", "failed_records")
            self.must(
                row["total_fetched"] == sum(row[part] for part in parts)
                and all(row[part] >= 0 for part in parts),
                f"{run} does not add up: {[row[part] for part in parts]}",
            )
            self._merged_since = run.began
            was_quiet = self._events[run.run_id] == self._world.crm.events
            if was_quiet and row["coverage"] in {"complete", "changes"}:
                self._check_current(deals, row)

    def _check_deals(self, deals: list[dict[str, Any]]) -> None:
        for deal in deals:
            key = deal["remote_id"]
            known = self._ids.setdefault(key, deal["id"])
            self.must(known == deal["id"], f"{key} had the id {known} and has {deal['id']}")
            status = deal["workflow_status_before_close"] or deal["workflow_status"]
            expected = self.workflow.get(key, "NEW")
            self.must(status == expected, f"{key} was {expected} and is {status}")
        self.must(len(deals) == len(self._ids), f"of {len(self._ids)} deals {len(deals)} are left")
        deleted = {deal["remote_id"] for deal in deals if deal["deleted_at"]}
        for key in deleted - self._deleted:
            self.must(
                self._was_shown(key, {"absent"}, self._merged_since),
                f"{key} is marked as deleted, but was always in the CRM",
            )
        self._deleted = deleted

    def _check_rejects(self, run: Run) -> None:
        rejects = self._query(
            "select * from rejected_records"
            " where stream = 'opportunities' and remote_id is not null"
        )
        for reject in rejects:
            key = reject["remote_id"]
            if reject["resolved_at"] is None:
                self._open.setdefault(key, run.began)
            elif key in self._open:
                self.must(
                    self._was_shown(key, {"good", "absent"}, self._open.pop(key)),
                    f"the reject of {key} is resolved, but the deal was always bad",
                )

    def _check_current(self, deals: list[dict[str, Any]], run: dict[str, Any]) -> None:
        """Check that a run without changes meanwhile has brought all changes that it could find."""
        crm = self._world.crm
        if run["coverage"] == "complete":
            crm.unseen.clear()
        elif self.crm_clock_went_back:
            return
        ours = {deal["remote_id"]: deal for deal in deals}
        for key, columns in crm.columns().items():
            if int(key) not in crm.unseen:
                self._check_equal(key, ours.get(key), columns)

    def _check_equal(self, key: str, deal: dict[str, Any] | None, columns: dict[str, Any]) -> None:
        if deal is None:
            raise Violation(f"{key} is missing")
        for column, value in columns.items():
            self.must(
                deal[column] == value,
                f"{key}: {column} is {deal[column]!r}, in the CRM {value!r}",
            )
        self.must(deal["deleted_at"] is None, f"{key} is marked as deleted, and the CRM shows it")

    # The end

    def check_end(self) -> None:
        """Check that both sides are equal."""
        deals = self._query("select * from opportunities")
        ours = {deal["remote_id"]: deal for deal in deals}
        expected = self._world.crm.columns()
        for key, columns in expected.items():
            self._check_equal(key, ours.get(key), columns)
            self._check_outcome(ours[key])
        shown = self._world.crm.shown()
        for key, deal in ours.items():
            is_deleted, is_there = deal["deleted_at"] is not None, int(key) in shown
            self.must(
                is_deleted != is_there,
                f"{key} is {'' if is_deleted else 'not '}marked as deleted, and the CRM "
                f"{'shows' if is_there else 'does not show'} it",
            )
        bad = sorted(
            "keyless" if state in KEYLESS else str(key)
            for key, state in shown.items()
            if state != "good"
        )
        rejects = self._query("select * from rejected_records where resolved_at is null")
        still_open = sorted(reject["remote_id"] or "keyless" for reject in rejects)
        self.must(still_open == bad, f"open rejects are {still_open}, bad are {bad}")

    def _check_outcome(self, deal: dict[str, Any]) -> None:
        settings = self._world.crm.rest.settings
        known = dict(OUTCOMES)
        if "optyStatusesLOV" not in settings.forbidden:
            known |= {
                status.LookupCode: OUTCOMES[status.LookupCategory or "OPEN"]
                for status in settings.statuses
            }
        outcome = known.get(deal["status_code"])
        if outcome is None:
            return  # with an unknown code, the outcome does not change
        key, workflow = deal["remote_id"], self.workflow.get(deal["remote_id"], "NEW")
        self.must(
            deal["crm_outcome"] == outcome,
            f"{key}: {deal['status_code']} means {outcome}, not {deal['crm_outcome']}",
        )
        status = workflow if outcome == "OPEN" else outcome
        self.must(
            deal["workflow_status"] == status,
            f"{key} is {deal['workflow_status']}, and it must be {status}",
        )
