"""The sandbox's CRM in memory, without a socket, with random changes and failures."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3
from oracle_crm_sandbox import CLIENT_ID, CLIENT_SECRET, PASSWORD, USER, faults
from oracle_crm_sandbox.crm import Crm
from oracle_crm_sandbox.generator import stamp
from oracle_crm_sandbox.protocol import Request, Settings, Status
from oracle_crm_sandbox.rest import Credentials, Rest
from requests.adapters import BaseAdapter

from tests.conftest import MAPPING, as_column
from tests.simulation.executor import BEGIN

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

    from tests.simulation.executor import Executor

ADDRESS = "https://crm.example.com"
REJECTED = {
    # by the tap
    "text_as_number",
    "overflow_1e400",
    "bad_date",
    "bad_timestamp",
    "null_id",
    "missing_id",
    # by dbt
    "high_prob",
    "negative_prob",
}
KEYLESS = {"null_id", "missing_id"}
"""Kinds of bad records that do not tell their deal."""
REPAIRED = ("nul", "numeric_string", "null_name")
LOOKBACK = 300
"""Seconds that the tap looks back: it finds transactions that were not longer."""
REVENUES = (None, 0, 0.1, 1e6, 123456789012.34)
STATUSES = ("WON", "LOST", "NO_SALE", "CLOSED")
CODES = (*STATUSES, "OPEN", "ON_HOLD", "LOST_TO_COMPETITOR")
REFUSED: tuple[dict[str, int], ...] = (
    {},
    {},
    {},
    {"totalResults": 400},
    {"totalResults+finder": 400},
    {"orderBy=Last": 400},
    {"fields": 400},
    {"Accept": 406},
)
FORBIDDEN = ((), (), (), ("optyStatusesLOV",), ("opportunities/describe",))


class SimulatedCrm(Crm):
    """The sandbox's CRM with its own clock, and a record of the states that it showed."""

    def __init__(self, executor: Executor, random: Random, records: int) -> None:
        self.executor, self.random = executor, random
        self.clock_is_ahead_by = timedelta()
        super().__init__(records, random.randrange(1 << 30), BEGIN)
        self.rest = Rest(self, Credentials(USER, PASSWORD, CLIENT_ID, CLIENT_SECRET))
        self.rest.settings = Settings(
            refused=random.choice(REFUSED),
            refusals_are_named=random.random() < 0.7,
            date_offset_seconds=random.choice([0, 0, None, 1800, -1800]),
            forbidden=random.choice(FORBIDDEN),
            describe_is_silent=random.random() < 0.1,
        )
        self.events = 0
        """The number of changes."""
        self.unseen: set[int] = set()
        """The deals with changes that only a complete read finds."""
        self.kinds: dict[int, str] = {}
        """The kind of poison of each poisoned deal."""
        self.buried: list[dict[str, object]] = []
        self.hidden: set[int] = set()
        self.late: list[tuple[float, Callable[[], str]]] = []
        """The open transactions, with the times of their commits."""

    def now(self) -> datetime:
        """Return the CRM's time."""
        return BEGIN + timedelta(seconds=self.executor.now) + self.clock_is_ahead_by

    # Visible data

    def keys(self) -> list[int]:
        """All keys, even of deals that the account may not see."""
        return [row[0] for row in self._db.execute('select "OptyId" from opportunities order by 1')]

    def shown(self) -> dict[int, str]:
        """The deals that the account may see, each with `good` or its kind of poison."""
        return {
            key: self.kinds.get(key, "good") if self.kinds.get(key) in REJECTED else "good"
            for key in self.keys()
            if key not in self.hidden
        }

    def columns(self) -> dict[str, dict[str, Any]]:
        """The expected columns of the good deals, by key."""
        wire: dict[str, dict[str, object]] = {
            "nul": {"Name": "Deal\0with a NUL"},
            "numeric_string": {"Revenue": "12345.67", "WinProb": "55"},
            "null_name": {"Name": None},
        }
        shown = self.shown()
        expected = {}
        for row in self.dump(self.resources["opportunities"]):
            key = int(str(row["OptyId"]))
            if shown.get(key) == "good":
                seen = {**row, **wire.get(self.kinds.get(key, ""), {})}
                expected[str(key)] = {
                    column: as_column(attribute, seen[attribute])
                    for attribute, column in MAPPING.items()
                }
        return expected

    # Events

    def happen(self) -> str:
        """Make a random event happen; return its description."""
        changes: list[tuple[int, Callable[[], str]]] = [
            (8, self.change),
            (3, self.add),
            (2, self.change_many),
            (4, self.change_late),
            (2, self.remove),
            (2, self.restore),
            (2, self.rename_account),
            (2, self.rename_stage),
            (4, self.recode),
            (1, self.explain),
            (1, self.hide),
            (1, self.show),
            (3, self.spoil),
            (3, self.mend),
        ]
        weights = [weight for weight, _ in changes]
        self.events += 1
        return self.random.choices([change for _, change in changes], weights)[0]()

    def commit_late(self, *, all_of_them: bool = False) -> list[str]:
        """Commit the transactions that are due; return descriptions."""
        due = [one for one in self.late if all_of_them or one[0] <= self.executor.now]
        self.late = [one for one in self.late if one not in due]
        self.events += len(due)
        return [commit() for _, commit in due]

    def _some_change(self) -> dict[str, object]:
        return self.random.choice(
            [
                {"Revenue": self.random.choice(REVENUES)},
                {"WinProb": self.random.randrange(101)},
                {"Name": f"Deal {self.random.randrange(1000)}"},
                {"Practice_c": self.random.choice(["Cloud", "ERP", None])},
                {"EffectiveDate": f"2026-0{self.random.randrange(1, 10)}-15"},
            ]
        )

    def change(self) -> str:
        """Change a deal."""
        key, change = self.random.choice(self.keys()), self._some_change()
        self.update("opportunities", key, change)
        return f"{key}: {change}"

    def change_late(self) -> str:
        """Begin to change a deal in a transaction that commits later."""
        key, change = self.random.choice(self.keys()), self._some_change()
        seconds, at = self.random.choice([1, 20, 250, 250, 2000]), stamp(self.now())

        def commit() -> str:
            if key not in self.keys():
                return f"{key}: gone before its transaction of {at} committed"
            self.update("opportunities", key, change, at)
            if seconds > LOOKBACK:
                self.unseen.add(key)
            return f"{key}: {change} committed, stamped {at}"

        self.late.append((self.executor.now + seconds, commit))
        return f"{key}: {change} begun, to commit in {seconds} s"

    def add(self) -> str:
        """Create a deal."""
        return f"{self.create()}: created"

    def change_many(self) -> str:
        """Give many deals the same change time."""
        number = self.random.randrange(1, 1 + len(self.keys()))
        self.mass_update(number)
        return f"{number} deals stamped at once"

    def remove(self) -> str:
        """Delete a deal."""
        keys = self.keys()
        if len(keys) < 5:
            return "nothing"
        key = self.random.choice(keys)
        self.buried.append(dict(self.get(self.resources["opportunities"], key)))
        self.kinds.pop(key, None)
        self.delete("opportunities", key)
        return f"{key}: deleted"

    def restore(self) -> str:
        """Restore a deleted deal, unchanged."""
        if not self.buried:
            return "nothing"
        row = self.buried.pop(self.random.randrange(len(self.buried)))
        if self.random.random() < 0.5:
            row["LastUpdateDate"] = stamp(self.now())
        else:
            self.unseen.add(int(str(row["OptyId"])))
        self.create(row)
        return f"{row['OptyId']}: restored, stamped {row['LastUpdateDate']}"

    def rename_account(self) -> str:
        """Rename an account: its deals change, but their change times do not."""
        return self._rename("TargetPartyId", "TargetPartyName", "Customer")

    def rename_stage(self) -> str:
        """Rename a stage, with the same effect."""
        return self._rename("SalesStage", "SalesStage", "Stage")

    def _rename(self, same: str, attribute: str, new: str) -> str:
        rows = list(self.dump(self.resources["opportunities"], ["OptyId", same]))
        chosen, name = self.random.choice(rows)[same], f"{new} {self.random.randrange(1000)}"
        keys = [int(str(row["OptyId"])) for row in rows if row[same] == chosen]
        for key in keys:
            self._change_silently(key, attribute, name)
        return f"{attribute} of {same} {chosen}: {name}, {len(keys)} deals, no new stamp"

    def _change_silently(self, key: int, attribute: str, value: object) -> None:
        self.unseen.add(key)
        kept = self.get(self.resources["opportunities"], key, ["LastUpdateDate"])
        self.update("opportunities", key, {attribute: value, **kept})

    def recode(self) -> str:
        """Close or reopen a deal, or change its code without its change time, like a script."""
        key = self.random.choice(self.keys())
        code = self.random.choice(CODES)
        if self.random.random() < 0.3:
            self._change_silently(key, "StatusCode", code)
            return f"{key}: {code}, no new stamp"
        if code in STATUSES:
            self.close(key, code)
        else:
            self.update("opportunities", key, {"StatusCode": code})
        return f"{key}: {code}"

    def explain(self) -> str:
        """Explain a code, or change its explanation, like an administrator."""
        category = self.random.choice(["OPEN", "WON", "LOST", "NO_SALE"])
        code = Status("LOST_TO_COMPETITOR", "Lost to a competitor", category)
        others = [one for one in self.rest.settings.statuses if one.LookupCode != code.LookupCode]
        self._change_settings(statuses=(*others, code))
        return f"{code.LookupCode} means {category}"

    def _change_settings(self, **settings: Any) -> None:
        self.rest.settings = msgspec.structs.replace(self.rest.settings, **settings)

    def hide(self) -> str:
        """Hide a few deals from the account."""
        keys = [key for key in self.keys() if key not in self.hidden]
        hidden = self.random.sample(keys, min(len(keys) // 4, 3))
        self._hide_only(self.hidden | set(hidden))
        return f"no longer visible: {hidden}"

    def show(self) -> str:
        """Show all deals to the account again."""
        self._hide_only(set())
        return "all visible again"

    def _hide_only(self, hidden: set[int]) -> None:
        self.unseen |= self.hidden
        self.hidden = hidden
        condition = f"OptyId not in ({','.join(map(str, sorted(hidden)))})" if hidden else ""
        self._change_settings(visible=condition)

    def spoil(self) -> str:
        """Make answers show a deal as odd or bad."""
        key = self.random.choice(self.keys())
        kind = self.random.choice(sorted(REJECTED) + list(REPAIRED))
        if key in self.kinds:
            self.heal(key)
        self.poison(key, kind)
        self.kinds[key] = kind
        return f"{key}: {kind}{self._touch_or_not(key)}"

    def mend(self) -> str:
        """Make answers show a poisoned deal as valid again."""
        if not self.kinds:
            return "nothing"
        key = self.random.choice(sorted(self.kinds))
        self.heal(key)
        del self.kinds[key]
        return f"{key}: mended{self._touch_or_not(key)}"

    def _touch_or_not(self, key: int) -> str:
        if self.random.random() < 0.2:
            self.unseen.add(key)
            return ", no new stamp"
        self.touch("opportunities", [key])
        return ""


class Weather:
    """The state of the network and the CRM: the share of requests that fail, and the faults."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.share = random.choice([0.0, 0.0, 0.05, 0.2])

    def fault(self) -> faults.Rule | None:
        """Return the fault of a request, if any."""
        if self.random.random() >= self.share:
            return None
        return self.random.choice(
            [
                faults.Throttle(status=429, retry_after=self.random.choice([1, 5, None])),
                faults.Throttle(status=503, retry_after=2, as_date=True),
                faults.Error(status=500),
                faults.Error(status=502, body="html"),
                faults.Error(status=504, body="text"),
                faults.Html(),
                faults.EmptyBody(),
                faults.Reset(),
                faults.Stall(),
                faults.Truncate(),
                faults.InvalidJson(),
                faults.ShortPage(by=2),
                faults.HasMore(value=True),
                faults.TotalResults(value="page_cap"),
                faults.TotalResults(value=7),
            ]
        )


class Transport(BaseAdapter):
    """An adapter for `requests` that calls the CRM without a socket."""

    def __init__(self, crm: SimulatedCrm, weather: Callable[[], Weather]) -> None:
        super().__init__()
        self._crm, self._weather = crm, weather

    def close(self) -> None:
        """Do nothing."""

    def send(
        self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any
    ) -> requests.Response:
        """Answer a request after a delay, or fail like a network."""
        executor, crm = self._crm.executor, self._crm
        patience = timeout[1] if isinstance(timeout, tuple) else timeout
        fault = self._weather().fault()
        executor.sleep(crm.random.choice([0.05, 0.2, 1.5]))
        if isinstance(fault, faults.Stall):
            executor.sleep(patience)
            raise requests.exceptions.ReadTimeout
        if isinstance(fault, faults.Reset):
            raise requests.exceptions.ConnectionError("Connection reset by peer")
        parts = urlsplit(str(request.url))
        headers = {name.lower(): str(value) for name, value in request.headers.items()}
        asked = Request(str(request.method), parts.path, parts.query, headers)
        rules = [fault] if fault else []
        answer = faults.answer_instead(rules, crm.now()) or crm.rest.answer(
            asked, faults.shape_of(rules)
        )
        executor.sleep(crm.random.choice([0.0, 0.05]))
        body = answer.body
        if isinstance(fault, faults.Truncate | faults.InvalidJson):
            body = body[: len(body) // 2]
        length = len(body) if isinstance(fault, faults.InvalidJson) else len(answer.body)
        headers = {
            "Content-Type": answer.content_type,
            "Content-Length": str(length),
            **answer.headers,
        }
        if (offset := crm.rest.settings.date_offset_seconds) is not None:
            moment = crm.now() + timedelta(seconds=offset)
            headers["Date"] = format_datetime(moment, usegmt=True)
        response = requests.Response()
        response.status_code, response.request = answer.status, request
        response.url = str(request.url)
        response.headers.update(headers)
        response.raw = urllib3.HTTPResponse(
            io.BytesIO(body), headers=headers, status=answer.status, preload_content=False
        )
        return response
