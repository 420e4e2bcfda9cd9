"""A client of the sandbox for tests: starts one, controls it, and reads its counters."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast
from urllib.parse import quote

USER, PASSWORD = "sandbox", "sandbox-password"
CLIENT_ID, CLIENT_SECRET = "sandbox-client", "sandbox-secret"
SCOPE = "urn:opc:resource:consumer::all"
_START_SECONDS = 120

Record = dict[str, Any]


class SandboxError(RuntimeError):
    """The sandbox refused a command or did not start."""


class Sandbox:
    """A CRM sandbox. As a context manager it starts one; with ``url=`` it uses a running one.

    >>> with Sandbox(records=100) as crm:  # doctest: +SKIP
    ...     crm.mutate(create=5, update=20)
    """

    def __init__(
        self,
        records: int = 1000,
        seed: int = 1,
        *,
        url: str | None = None,
        journal: Path | None = None,
        replay: Path | None = None,
    ) -> None:
        self._records, self._seed = records, seed
        self._journal, self._replay = journal, replay
        self._given_url = url
        self._process: subprocess.Popen[str] | None = None
        self.url = url or ""

    def __enter__(self) -> Self:
        if not self._given_url:
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "oracle_crm_sandbox", "--port", "0", "--until-stdin-closes"),
                *("--records", str(self._records), "--seed", str(self._seed)),
                *(("--journal", str(self._journal)) if self._journal else ()),
                *(("--replay", str(self._replay)) if self._replay else ()),
            ],
            env={name: value for name, value in os.environ.items() if "SANDBOX_" not in name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = cast("IO[str]", self._process.stdout).readline()
        found = re.search(r"http://\S+", line)
        if not found:
            raise SandboxError(f"the sandbox did not start: {line or 'see its error output'}")
        self.url = found[0]

    def stop(self) -> None:
        """End the server that this object started, if any."""
        if not self._process:
            return
        self._process.terminate()
        self._process.communicate(timeout=30)
        self._process = None

    # --- addresses ----------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """The ``ORACLE_*`` settings for basic authentication."""
        return {"ORACLE_BASE_URL": self.url, "ORACLE_USER": USER, "ORACLE_PASS": PASSWORD}

    @property
    def oauth_env(self) -> dict[str, str]:
        """The ``ORACLE_*`` settings for bearer tokens."""
        return {
            "ORACLE_BASE_URL": self.url,
            "ORACLE_TOKEN_URL": f"{self.url}/oauth2/v1/token",
            "ORACLE_CLIENT_ID": CLIENT_ID,
            "ORACLE_CLIENT_SECRET": CLIENT_SECRET,
            "ORACLE_SCOPE": SCOPE,
        }

    # --- rows ---------------------------------------------------------------------------

    def rows(
        self, resource: str = "opportunities", fields: Sequence[str] | None = None
    ) -> list[Record]:
        """All rows by key, without poison."""
        query = f"?fields={','.join(fields)}" if fields else ""
        # Not splitlines(): it would also split at U+2028 in the texts.
        lines = self._raw("GET", f"{resource}{query}").removesuffix("\n").split("\n")
        return [json.loads(line) for line in lines if line]

    def row(self, key: int, resource: str = "opportunities") -> Record:
        """One row, without poison."""
        return cast("Record", self.command("GET", f"{resource}/{key}"))

    def create(self, at: str | None = None, **attributes: object) -> Record:
        """Create an opportunity with ``attributes``; invent the others; return the row."""
        return cast("Record", self.command("POST", "opportunities", _at(at) | attributes))

    def update(
        self, key: int, resource: str = "opportunities", at: str | None = None, **attributes: object
    ) -> Record:
        """Change a row, with ``at`` or now as its change time; return the row."""
        return cast("Record", self.command("PATCH", f"{resource}/{key}", _at(at) | attributes))

    def delete(self, key: int, resource: str = "opportunities") -> None:
        """Delete a row without a trace."""
        self.command("DELETE", f"{resource}/{key}")

    def close(self, key: int, status: str = "WON", at: str | None = None) -> Record:
        """Close a deal: WON, LOST, NO_SALE or CLOSED."""
        body = {"status": status} | _at(at)
        return cast("Record", self.command("POST", f"opportunities/{key}/close", body))

    def reopen(self, key: int, at: str | None = None) -> Record:
        """Reopen a deal."""
        return cast("Record", self.command("POST", f"opportunities/{key}/reopen", _at(at)))

    def mutate(self, **numbers: object) -> dict[str, list[int]]:
        """Change random rows: ``create=``, ``update=``, ``delete=``, ``close=``, ``reopen=``.

        ``seed=`` makes the choice repeatable, ``at=`` is the change time. Return the OptyIds by
        kind: ``created``, ``updated``, ``deleted``, ``closed``, ``reopened``.
        """
        return cast("dict[str, list[int]]", self.command("POST", "mutate", numbers))

    def mass_update(self, count: int, at: str | None = None) -> list[int]:
        """Give ``count`` random rows the same LastUpdateDate; return their OptyIds."""
        body = {"count": count} | _at(at)
        return cast("list[int]", self.command("POST", "mass-update", body)["updated"])

    def poison(self, key: int, kind: str, *, touch: bool = True) -> None:
        """Make answers show a deal as ``poison.KINDS[kind]``; ``touch`` sets its change time."""
        self.command("POST", "poison", {"OptyId": key, "kind": kind, "touch": touch})

    def heal(self, key: int, *, touch: bool = True) -> None:
        """Make answers show a poisoned deal as valid again."""
        self.command("DELETE", f"poison/{key}", {"touch": touch})

    # --- the schema ---------------------------------------------------------------------

    def add_attribute(
        self,
        name: str,
        type: str = "string",  # noqa: A002  # Oracle's word
        values: Sequence[object] = (),
        resource: str = "opportunities",
    ) -> None:
        """Add a custom attribute; the rows get ``values`` in turn."""
        body = {"name": name, "type": type, "values": list(values), "resource": resource}
        self.command("POST", "attributes", body)

    def remove_attribute(self, name: str, resource: str = "opportunities") -> None:
        """Delete a custom attribute."""
        self.command("DELETE", f"attributes/{name}", {"resource": resource})

    def retype_attribute(
        self,
        name: str,
        type: str,  # noqa: A002  # Oracle's word
        resource: str = "opportunities",
    ) -> None:
        """Change a custom attribute's type; values that do not fit become null."""
        self.command("PATCH", f"attributes/{name}", {"type": type, "resource": resource})

    def rename_attribute(self, name: str, new_name: str, resource: str = "opportunities") -> None:
        """Rename a custom attribute (``GEO_c`` to ``Geo_c``)."""
        self.command("PATCH", f"attributes/{name}", {"name": new_name, "resource": resource})

    # --- faults -------------------------------------------------------------------------

    def fault(self, kind: str, **parameters: object) -> None:
        """Add a rule, such as ``fault("throttle", next=3, retry_after=1)``: see ``faults``."""
        self.command("POST", "faults", {"kind": kind} | parameters)

    def faults(self) -> list[Record]:
        """Return the active rules, each with its number of matches (``seen``) and of ``fired``."""
        return cast("list[Record]", self.command("GET", "faults"))

    def clear_faults(self) -> None:
        """Delete all rules."""
        self.command("DELETE", "faults")

    def after_request(
        self,
        number: int,
        path: str,
        body: Record | None = None,
        method: str = "POST",
        **when: object,
    ) -> None:
        """Execute a command right after the ``number``-th page of opportunities from now on.

        The page itself still shows the CRM before the command. ``when`` takes a rule's
        ``path``, ``query``, ``every`` and ``next`` (1).
        """
        command = {"method": method, "path": path, "body": body or {}}
        trigger = {"after": number - 1, "next": 1} | when
        self.command("POST", "hooks", trigger | {"commands": [command]})

    def clear_hooks(self) -> None:
        """Delete the commands that were not executed yet."""
        self.command("DELETE", "hooks")

    # --- the server ---------------------------------------------------------------------

    def reset(
        self, records: int | None = None, seed: int | None = None, now: datetime | None = None
    ) -> None:
        """Generate the data again, without faults, with default settings."""
        body = {"records": records, "seed": seed, "now": now and now.isoformat()}
        self.command("POST", "reset", {name: value for name, value in body.items() if value})

    def settings(self, **changes: object) -> Record:
        """Change the CRM's settings; return all of them."""
        return cast("Record", self.command("PATCH", "settings", changes))

    def clock(self, offset_seconds: float) -> None:
        """Set the CRM's clock ahead of the machine's, in seconds."""
        self.command("POST", "clock", {"offset_seconds": offset_seconds})

    def requests(self) -> Record:
        """Return the counters: total, by_kind, by_status, bytes, rows, max_concurrent, last..."""
        return cast("Record", self.command("GET", "requests"))

    def clear_requests(self) -> None:
        """Reset the counters to zero."""
        self.command("DELETE", "requests")

    def expire_tokens(self) -> int:
        """Make all bearer tokens invalid; return their number."""
        return cast("int", self.command("POST", "tokens/expire")["expired"])

    # --- transport ----------------------------------------------------------------------

    def command(self, method: str, path: str, body: object = None) -> Any:
        """Send any command of the control interface; return its JSON answer."""
        return json.loads(self._raw(method, path, body))

    def _raw(self, method: str, path: str, body: object = None) -> str:
        request = urllib.request.Request(  # noqa: S310  # the sandbox's own address
            f"{self.url}/_sandbox/{quote(path, safe='/?=,&')}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _OPENER.open(request, timeout=_START_SECONDS) as answer:
                return cast("http.client.HTTPResponse", answer).read().decode()
        except urllib.error.HTTPError as error:
            raise SandboxError(f"{method} {path}: {error.read().decode()}") from error


# Loopback needs no proxy, even if the environment sets one.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _at(at: str | None) -> dict[str, object]:
    return {"at": at} if at else {}
