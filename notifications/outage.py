"""An outage of the database, and which service was notified of it, in a file.

The processes of a machine share the file. If it cannot be written, because the disk is full, each
process keeps the state in memory.
"""

import fcntl
import hashlib
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from database.environment import DATA
from notifications.messages import Message, message

DAY = 24 * 60 * 60
RETRY_SECONDS = 60

Send = Callable[[int, Message], bool]
"""Sends a message to a service of NOTIFY_URLS, counted from 1; true if it was accepted."""

log = logging.getLogger(__name__)


class Outage:
    """The outage of one database."""

    def __init__(self, path: Path) -> None:
        """Keep the state in this file."""
        self._path = path
        self._unwritten: dict[str, Any] = {}

    @classmethod
    def of(cls, url: str) -> "Outage":
        """Return the outage of the database at a URL."""
        try:
            known = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            known = {}
        which = "/".join(str(known.get(name)) for name in ("host", "hostaddr", "port", "dbname"))
        return cls(DATA / "outages" / f"{hashlib.sha256(which.encode()).hexdigest()[:16]}.json")

    def is_known(self) -> bool:
        """Return whether this machine has seen an outage that is not over."""
        return bool(self._unwritten) or (self._path.exists() and self._path.stat().st_size > 0)

    def report(self, why: str, services: int, send: Send, patience: float) -> None:
        """Notify the services of the outage if they do not know yet, then daily.

        Args:
            why: the error in words.
            services: the number of services.
            send: sends a message to one of them.
            patience: seconds that the outage must last before a message is sent.
        """
        with self._state() as state:
            if state is None:
                return
            now = time.time()
            state.setdefault("since", now)
            reasons = state.setdefault("reasons", [])
            if why not in reasons:
                reasons.append(why)
            if 0 <= now - state["since"] < patience:
                return
            state["why"] = f"On {socket.gethostname()}: {why}"
            for service in range(1, services + 1):
                known = state.setdefault("services", {}).setdefault(str(service), {})
                sent, at = known.get("sent"), known.get("at", 0)
                if sent == len(reasons) and 0 <= now - at < DAY:
                    continue
                if 0 <= now - known.get("tried", 0) < RETRY_SECONDS:
                    continue
                text = message("database", state["why"], revision=len(reasons), sent=sent)
                if send(service, text):
                    known |= {"sent": len(reasons), "at": now}
                    known.pop("tried", None)
                else:
                    known["tried"] = now

    def end(self, services: int, send: Send) -> None:
        """Notify the services that know of the outage that it is over."""
        if not self.is_known():
            return
        with self._state() as state:
            if state is None:
                return
            now = time.time()
            known = state.get("services", {})
            for service in range(1, services + 1):
                one = known.get(str(service), {})
                if "sent" not in one or 0 <= now - one.get("tried", 0) < RETRY_SECONDS:
                    continue
                text = message("database", state["why"], revision=1, sent=1, is_over=True)
                if send(service, text):
                    del known[str(service)]
                else:
                    one["tried"] = now
            if not any("sent" in one for one in known.values()):
                state.clear()

    @contextmanager
    def _state(self) -> Iterator[dict[str, Any] | None]:
        """Yield the state, to be changed in place; None while another process holds it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+")
        except OSError as error:
            log.warning("the state of the database outage cannot be written: %s", error)
            yield self._unwritten
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            state = self._unwritten or _read(file.read() if not file.seek(0) else "")
            yield state
            try:
                file.seek(0)
                file.truncate()
                file.write(json.dumps(state) if state else "")
                file.flush()
                self._unwritten = {}
            except OSError as error:
                log.warning("the state of the database outage cannot be written: %s", error)
                self._unwritten = state


def _read(text: str) -> dict[str, Any]:
    try:
        state = json.loads(text or "{}")
    except ValueError:  # a crash while it was written: at worst a message is sent again
        return {}
    return state if isinstance(state, dict) else {}


def describe(error: psycopg.Error) -> str:
    """Return the error in words; without those of a malformed address, which quote it."""
    said = error.diag.message_primary
    if said is None and isinstance(error, psycopg.OperationalError):
        said = str(error)
    return " ".join((said or type(error).__name__).split())[:500]
