"""The actors of the soak, each in its own thread until it is stopped."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import httpx
import psutil
import psycopg

from api.workflow import MOVES, MOVES_BESIDE_ASSESSMENTS
from declared.assessment import SEVEN
from tests.soak.world import SERVICES, World

# The possible faults; each affects the next few requests that match.
FAULTS: list[dict[str, Any]] = [
    {"kind": "throttle", "retry_after": 1},
    {"kind": "error", "status": 500},
    {"kind": "error", "status": 502, "body": "html"},
    {"kind": "error", "status": 503},
    {"kind": "html"},
    {"kind": "empty_body"},
    {"kind": "reset"},
    {"kind": "reset", "at": "middle"},
    {"kind": "truncate"},
    {"kind": "invalid_json"},
    {"kind": "latency", "ms": 1500},
    {"kind": "short_page"},
    {"kind": "error", "status": 401},  # ends the run at once
]
POISON = ("overflow_1e400", "bad_date", "wrong_type", "numeric_string", "nul")
SCHEDULES = ("nightly", "nightly", "nightly-reconcile", "weekly-housekeeping")


class Sample(NamedTuple):
    """The memory of a process at a moment.

    Attributes:
        pid: the process.
        at: seconds of the monotonic clock.
        bytes: its resident set.
        answers: the number of the API's answers until then.
    """

    pid: int
    at: float
    bytes: int
    answers: int


@dataclass
class Ledger:
    """The actions, and the results that are therefore expected at the end.

    Attributes:
        tried: the number of each action.
        defects: events that must never happen, as text.
        statuses: by opportunity, the possible values of `workflow_status` while the deal is open:
            one, or several if an answer was lost.
        summaries: by assessment, the possible summaries.
        poisoned: the deals that the CRM shows broken.
        memory: samples by the name of the process.
        services_are_spared: set when API and scheduler must no longer be killed.
        midnight: when it becomes midnight for the scheduler.
    """

    tried: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    statuses: dict[int, set[str]] = field(default_factory=dict)
    summaries: dict[int, set[str]] = field(default_factory=dict)
    poisoned: set[int] = field(default_factory=set)
    memory: dict[str, list[Sample]] = field(default_factory=dict)
    services_are_spared: threading.Event = field(default_factory=threading.Event)
    midnight: datetime | None = None


class Actor(threading.Thread):
    """Repeats an action.

    Args:
        act: does the action once, with random choices.
        pause: seconds between two actions, on average.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        stop: threading.Event,
        pause: float,
        act: Callable[[random.Random], None],
        dice: random.Random,
    ) -> None:
        super().__init__(name=name)
        self._ledger, self._stop_event, self._pause = ledger, stop, pause
        self._act, self._dice = act, dice

    def run(self) -> None:
        """Act until stopped; an unexpected error is a defect."""
        while not self._stop_event.wait(self._dice.uniform(0.5, 1.5) * self._pause):
            try:
                self._act(self._dice)
            except (httpx.TransportError, psycopg.OperationalError):
                self._ledger.tried["answers lost to a kill"] += 1
            except Exception as error:
                self._ledger.defects.append(f"{self.name}: {type(error).__name__}: {error}")


class Cast:
    """The actions of the actors."""

    def __init__(self, world: World, ledger: Ledger, seed: int) -> None:
        self._world, self._ledger = world, ledger
        self._seed = seed
        self._http = httpx.Client(
            base_url=world.api,
            headers={"Authorization": f"Bearer {world.token}"},
            timeout=60,
            trust_env=False,
        )

    def start(self, stop: threading.Event) -> list[Actor]:
        """Start all actors; each has its own random numbers."""
        plan: list[tuple[str, float, Callable[[random.Random], None]]] = [
            ("supervisor", 0.5, self._keep_running),
            ("scheduler's clock", 12, self._miss_midnight),
            ("sync by the API", 4, self._sync),
            ("sync in a shell", 15, self._run_in_shell),
            ("CRM users", 0.7, self._change_crm),
            ("CRM faults", 2.5, self._break_crm),
            ("killer", 15, self._kill),
            ("database crash", 50, self._crash_database),
            ("editor 0", 0.15, lambda dice: self._edit(dice, 0)),
            ("editor 1", 0.15, lambda dice: self._edit(dice, 1)),
            ("assessor", 0.5, self._assess),
            ("reader 0", 0.02, self._read),
            ("reader 1", 0.02, self._read),
            ("memory", 1, self._measure),
        ]
        actors = []
        for number, (name, pause, act) in enumerate(plan):
            dice = random.Random(self._seed * 1000 + number)
            actor = Actor(name, self._ledger, stop, pause, act, dice)
            actor.start()
            actors.append(actor)
        return actors

    # Operations

    def _keep_running(self, _dice: random.Random) -> None:
        for name in self._world.keep_running():
            if self._ledger.services_are_spared.is_set():
                self._ledger.defects.append(f"the {name} ended, but was not killed")

    def _miss_midnight(self, dice: random.Random) -> None:
        if self._ledger.services_are_spared.is_set():
            return
        if self._world.miss_midnight(dice.choice(SCHEDULES)):
            self._ledger.tried["schedules missed, to catch up on"] += 1

    def _sync(self, dice: random.Random) -> None:
        answer = self._call("POST", "/api/sync-database", json={"full": dice.random() < 0.15})
        self._ledger.tried[f"syncs asked of the API: {answer.status_code}"] += 1

    def _run_in_shell(self, _dice: random.Random) -> None:
        self._ledger.tried["syncs run in a shell"] += 1
        self._world.pipeline.start().wait(timeout=300)

    def _kill(self, dice: random.Random) -> None:
        found = self._world.processes()
        if self._ledger.services_are_spared.is_set():
            found = {name: some for name, some in found.items() if name not in SERVICES}
        if not found:
            return
        name = dice.choice(list(found))
        number = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        try:
            dice.choice(found[name]).send_signal(number)
            self._ledger.tried[f"{name} killed ({number.name})"] += 1
        except psutil.NoSuchProcess:
            return  # it had already ended

    def _crash_database(self, _dice: random.Random) -> None:
        self._world.crash_database()
        self._ledger.tried["PostgreSQL crashed"] += 1

    def _measure(self, _dice: random.Random) -> None:
        for name, processes in self._world.processes().items():
            for process in processes:
                try:
                    sample = Sample(
                        process.pid,
                        time.monotonic(),
                        process.memory_info().rss,
                        self._ledger.tried["answers read"],
                    )
                except psutil.NoSuchProcess:
                    continue
                self._ledger.memory.setdefault(name, []).append(sample)

    # The CRM

    def _change_crm(self, dice: random.Random) -> None:
        crm, tried = self._world.crm, self._ledger.tried
        changed = crm.mutate(
            create=2,
            update=10,
            close=2,
            reopen=1,
            delete=int(dice.random() < 0.2),
            seed=dice.randrange(10**9),
        )
        tried["deals changed in the CRM"] += sum(map(len, changed.values()))
        if dice.random() < 0.08:
            tried["deals changed in the CRM"] += len(crm.mass_update(200))
        if dice.random() < 0.1 and changed["updated"]:
            key = changed["updated"][0]
            crm.poison(key, dice.choice(POISON))
            self._ledger.poisoned.add(key)
            tried["deals broken in the CRM"] += 1

    def _break_crm(self, dice: random.Random) -> None:
        rule = dice.choice(FAULTS)
        self._world.crm.fault(**rule, next=dice.randint(1, 3))
        self._ledger.tried["faults of the CRM"] += 1

    # People

    def _edit(self, dice: random.Random, share: int) -> None:
        deal = self._deal(dice, share)
        if deal is None or deal["workflow_status"] not in MOVES:
            return
        before: str = deal["workflow_status"]
        after = dice.choice(list(MOVES_BESIDE_ASSESSMENTS[before]))
        known = self._ledger.statuses.get(deal["id"], {"NEW"})
        if before not in known:
            self._ledger.defects.append(
                f"opportunity {deal['id']} has {before}, which was never set: {known}"
            )
        self._ledger.statuses[deal["id"]] = {before, after}
        answer = self._call(
            "PATCH", f"/api/opportunities/{deal['id']}", json={"workflow_status": after}
        )
        if answer.status_code == 200:
            self._ledger.statuses[deal["id"]] = {after}
            self._ledger.tried["status edits"] += 1
        elif answer.status_code == 409:  # closed meanwhile
            self._ledger.statuses[deal["id"]] = {before}

    def _assess(self, dice: random.Random) -> None:
        deal = self._deal(dice, 2)
        if deal is None or deal["workflow_status"] != "NEW":
            return
        self._ledger.statuses[deal["id"]] = {"NEW", "UNDER_ASSESSMENT"}
        begun = self._call("POST", "/api/assessments", json={"opportunity_id": deal["id"]})
        if begun.status_code == 409:
            self._ledger.statuses[deal["id"]] = {"NEW"}
        if begun.status_code != 201:
            return
        self._ledger.statuses[deal["id"]] = {"UNDER_ASSESSMENT"}
        number, summary = begun.json()["id"], f"written in the soak, {dice.random()}"
        self._ledger.summaries[number] = {begun.json()["summary"], summary}
        written = self._call(
            "PUT",
            f"/api/assessments/{number}",
            headers={"If-Match": begun.headers["ETag"]},
            json={
                "scores": {key: {"score": dice.randint(0, 5), "comment": ""} for key in SEVEN},
                "summary": summary,
                "recommendation": dice.choice(["BID", "NO_BID"]),
            },
        )
        if written.status_code == 200:
            self._ledger.summaries[number] = {summary}
            self._ledger.tried["assessments written"] += 1
        elif written.status_code in {409, 412}:
            self._ledger.summaries[number] = {begun.json()["summary"]}

    def _read(self, dice: random.Random) -> None:
        path = dice.choice(
            [
                "/api/opportunities?limit=200&sort=-deal_value",
                "/api/opportunities?search=cloud",
                "/api/opportunities?workflow_status=NEW&workflow_status=WON",
                "/api/opportunities/export?format=ndjson",
                "/api/sync-status",
                "/api/sync-history",
                "/api/rejected-records",
                "/metrics",
            ]
        )
        answer = self._call("GET", path)
        if answer.status_code == 200:
            self._ledger.tried["answers read"] += 1

    def _deal(self, dice: random.Random, share: int) -> dict[str, Any] | None:
        """Return a deal from the actor's own third, so that no two actors edit the same deal."""
        answer = self._call("GET", f"/api/opportunities/{dice.randrange(1, 700) * 3 + share}")
        deal: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return None if deal is None or deal["deleted_at"] else deal

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self._http.request(method, path, **options)
        if answer.status_code >= 500 and answer.status_code != 503:
            self._ledger.defects.append(
                f"{method} {path}: {answer.status_code} {answer.text[:200]}"
            )
        if answer.status_code == 503:
            self._ledger.tried["answers 503: the database is down or a row is locked"] += 1
        return answer
