"""The control interface under ``/_sandbox/``: the README lists its commands."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from .crm import Crm, NotFoundError
from .faults import AnyRule, Armed, Hook
from .journal import Change, Journal
from .rest import Rest
from .traffic import Traffic

PREFIX = "/_sandbox"
Body = dict[str, Any]
_ENCODER = msgspec.json.Encoder()
# Commands that only change answers or counters, not the CRM's data.
_PASSING = ("requests", "settings", "faults", "hooks", "clock", "tokens")
_NONSENSE = (
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    msgspec.MsgspecError,
    re.error,
    sqlite3.IntegrityError,
)
_NUMBERS = re.compile(r"\d{1,18}")


class Control:
    """The commands of the sandbox; each takes the parts of the path and the JSON body."""

    def __init__(
        self, crm: Crm, rest: Rest, traffic: Traffic, journal: Journal | None = None
    ) -> None:
        self.crm, self.rest, self.traffic = crm, rest, traffic
        self._journal = journal
        self.faults: Armed[AnyRule] = Armed()
        self.hooks: Armed[Hook] = Armed()

    def handle(self, method: str, path: str, query: str, body: bytes) -> tuple[int, bytes]:
        """Return status and JSON body; 404 if the row is missing, 400 if the body is invalid."""
        try:
            given = msgspec.json.decode(body or b"{}")
            result = self.command(method, path, query, given)
        except NotFoundError as error:
            return 404, _ENCODER.encode({"error": str(error)})
        except _NONSENSE as error:
            return 400, _ENCODER.encode({"error": f"{type(error).__name__}: {error}"})
        if isinstance(result, bytes):
            return 200, result
        return 200, _ENCODER.encode(result)

    def command(self, method: str, path: str, query: str, body: Any) -> object:
        """Execute a command; write it to the journal if it changes data. ``path`` has no prefix."""
        steps = [unquote(step) for step in path.strip("/").split("/")]
        at, given = self.crm.now(), msgspec.json.encode(body)
        # One time for the whole command; otherwise a replay could differ by a second.
        with self.crm.frozen(at):
            result = self._command(method, path, steps, query, body)
        if self._journal and steps == ["reset"]:
            self._journal.begin(self.crm)
        elif self._journal and method != "GET" and steps[0] not in _PASSING:
            self._journal.record(at, method, path, msgspec.json.decode(given))
        return result

    def replay(self, changes: Sequence[Change]) -> None:
        """Execute the journal's commands again, each at its time."""
        for change in changes:
            steps = [unquote(step) for step in change.path.strip("/").split("/")]
            with self.crm.frozen(change.at):
                self._command(change.method, change.path, steps, "", change.body)

    def _command(self, method: str, path: str, steps: list[str], query: str, body: Any) -> object:
        match method, steps:
            case "POST", ["faults"]:
                self.faults.add(_read_list(body, AnyRule))
                return self.faults.report()
            case "GET", ["faults"]:
                return self.faults.report()
            case "DELETE", ["faults"]:
                self.faults.clear()
                return []
            case "POST", ["hooks"]:
                self.hooks.add(_read_list(body, Hook))
                return self.hooks.report()
            case "GET", ["hooks"]:
                return self.hooks.report()
            case "DELETE", ["hooks"]:
                self.hooks.clear()
                return []
            case "POST", ["poison"]:
                return self._poison(**body)
            case "DELETE", ["poison", key]:
                return self._heal(int(key), **body)
            case "POST", ["attributes"]:
                for attribute in body if isinstance(body, list) else [body]:
                    self.crm.add_attribute(**_renamed(attribute, {"type": "kind"}))
                return {}
            case "PATCH", ["attributes", name]:
                self.crm.change_attribute(
                    name, **_renamed(body, {"type": "kind", "name": "new_name"})
                )
                return {}
            case "DELETE", ["attributes", name]:
                self.crm.remove_attribute(name, **body)
                return {}
            case "POST", ["reset"]:
                return self._reset(body)
            case "GET", ["requests"]:
                return self.traffic.report()
            case "DELETE", ["requests"]:
                self.traffic.clear()
                return {}
            case "POST", ["tokens", "expire"]:
                return {"expired": self.rest.expire_tokens()}
            case "GET", ["settings"]:
                return self.rest.settings
            case "PATCH", ["settings"]:
                return self._settings(body)
            case "POST", ["clock"]:
                return self._clock(body)
            case "POST", ["mutate"]:
                return self.crm.mutate(**body)
            case "POST", ["mass-update"]:
                return {"updated": self.crm.mass_update(**body)}
            case "POST", ["opportunities"]:
                at = body.pop("at", None)
                return self.crm.get(self.crm.resource("opportunities"), self.crm.create(body, at))
            case "POST", ["opportunities", key, "close"]:
                self.crm.close(int(key), **body)
                return self._row("opportunities", int(key))
            case "POST", ["opportunities", key, "reopen"]:
                self.crm.reopen(int(key), **body)
                return self._row("opportunities", int(key))
            case "GET", [name]:
                return self._dump(name, query)
            case "GET", [name, key] if _NUMBERS.fullmatch(key):
                return self._row(name, int(key))
            case "PATCH", [name, key] if _NUMBERS.fullmatch(key):
                at = body.pop("at", None)
                self.crm.update(name, int(key), body, at)
                return self._row(name, int(key))
            case "DELETE", [name, key] if _NUMBERS.fullmatch(key):
                self.crm.delete(name, int(key))
                return {}
        raise NotFoundError(f"no command {method} {path}")

    def _reset(self, body: Body) -> object:
        now = body.get("now")
        self.crm.set_clock(timedelta())
        self.crm.reset(
            body.get("records", self.crm.records),
            body.get("seed", self.crm.seed),
            datetime.fromisoformat(now) if now else None,
        )
        self.rest.settings = type(self.rest.settings)()
        self.traffic.clear()
        self.faults.clear()
        self.hooks.clear()
        return {"records": self.crm.records, "seed": self.crm.seed}

    def _settings(self, body: Body) -> object:
        settings = self.rest.settings
        changed = msgspec.structs.asdict(settings) | body
        self.rest.settings = msgspec.convert(changed, type(settings))
        return self.rest.settings

    def _clock(self, body: Body) -> object:
        self.crm.set_clock(timedelta(seconds=body["offset_seconds"]))
        return {"now": self.crm.now().isoformat()}

    def _poison(self, OptyId: int, kind: str, touch: bool = True) -> object:  # noqa: N803
        self.crm.poison(OptyId, kind)
        if touch:
            self.crm.touch("opportunities", [OptyId])
        return self._row("opportunities", OptyId)

    def _heal(self, key: int, touch: bool = True) -> object:
        self.crm.heal(key)
        if touch:
            self.crm.touch("opportunities", [key])
        return self._row("opportunities", key)

    def _row(self, name: str, key: int) -> object:
        return self.crm.get(self.crm.resource(name), key)

    def _dump(self, name: str, query: str) -> bytes:
        resource = self.crm.resource(name)
        if name in self.crm.resource("opportunities").children:
            self.crm.make_all_children()
        fields = parse_qs(query).get("fields")
        names = fields[-1].split(",") if fields else list(resource.attributes)
        for wanted in names:
            if wanted not in resource.attributes:
                raise NotFoundError(f"{name} has no attribute {wanted}")
        return _ENCODER.encode_lines(self.crm.dump(resource, names))


def _read_list(body: object, kind: Any) -> list[Any]:
    """Read one rule or a list of them."""
    listed = body if isinstance(body, list) else [body]
    return msgspec.convert(listed, list[kind])


def _renamed(body: Body, names: dict[str, str]) -> Body:
    return {names.get(name, name): value for name, value in body.items()}
