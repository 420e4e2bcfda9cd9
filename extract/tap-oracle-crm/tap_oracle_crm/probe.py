"""Tries each optional part of a request against a CRM, and says which settings work there.

`tap-oracle-crm-probe [FILE]` takes the tap's settings from the environment and sends at most 30
requests, without retries. FILE gets the results as JSON that can be shared: whether each part was
served, with status, error codes and milliseconds, and the names and types of Oracle's own
attributes. It holds no host, no error message, and no name or value of the customer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tap_oracle_crm.answers import RetryError, json_of, page_of
from tap_oracle_crm.client import ACCEPT, CrmClient
from tap_oracle_crm.config import check_environment, resolve
from tap_oracle_crm.crm import CHANGED, KEY
from tap_oracle_crm.discovery import attributes_of
from tap_oracle_crm.errors import OracleCrmError, RefusedError
from tap_oracle_crm.optional import HEADERS, PARTS, Parts
from tap_oracle_crm.query import Query
from tap_oracle_crm.settings import DEFAULT_FINDER, SCHEMAS
from tap_oracle_crm.streams import Opportunities

FORMAT = 1
MOST_REQUESTS = 30
WITHOUT_OFFSET = "%Y-%m-%d %H:%M:%S"
TIMESTAMP_FORMATS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.000+00:00", WITHOUT_OFFSET)
FURTHEST_BEHIND_SECONDS = 12 * 3600
"""No time zone is further behind UTC."""
LIMITS = (499, 200, 25)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_STANDARD = re.compile(r"[A-Z][A-Za-z0-9]*")
"""The names of Oracle's own attributes; a customer's end in `_c`."""


@dataclass(frozen=True)
class Tried:
    """The result of one request.

    Attributes:
        part: the tried part, as in the CRM sandbox's setting `refused`, or a resource.
        outcome: `served`, `refused`, `slow` or `failed`.
        ms: the duration.
        status: the HTTP status; None without an answer.
        codes: error codes.
        names: the part of a request that the error message names.
    """

    part: str
    outcome: str
    ms: int
    status: int | None = None
    codes: tuple[str, ...] = ()
    names: str | None = None

    def __str__(self) -> str:
        said = [
            *([f"HTTP {self.status}"] if self.status not in {None, 200} else []),
            *self.codes,
            *([f"names {self.names}"] if self.names else []),
        ]
        return (
            f"{self.outcome:8}{self.ms:>7,} ms  {self.part}{'  ' if said else ''}{', '.join(said)}"
        )


@dataclass
class Probe:
    """Sends one request after the other, each with the parts that were served so far."""

    settings: Mapping[str, Any]
    tried: list[Tried] = field(default_factory=list)
    advice: dict[str, str] = field(default_factory=dict)
    page: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._client = CrmClient(self.settings)
        self._parts: dict[str, str] = {"limit": "1"}
        self._answer: Any = None
        self._number = ""

    def run(self) -> Iterator[Tried]:
        """Try everything, and yield each result at once.

        Raises:
            OracleCrmError: the CRM serves no opportunities at all.
        """
        try:
            yield from self._run()
        finally:
            self._client.close()

    def _run(self) -> Iterator[Tried]:
        path = Opportunities.path
        self._client.get(path, self._parts)  # its error needs no explanation
        yield from self._headers(path)
        yield from self._conditions(path)
        for part, value in (
            (f"orderBy={KEY}:desc", f"{KEY}:desc"),
            (f"orderBy={KEY}:asc", f"{KEY}:asc"),
            ("fields", KEY),
            ("onlyData", "true"),
        ):
            yield from self._try_part(path, part, value)
        yield from self._ask(path, "totalResults", self._without("finder", totalResults="true"))
        if "finder" in self._parts:
            yield from self._ask(path, "totalResults+finder", self._with(totalResults="true"))
        yield from self._limits(path)
        newest = {"orderBy": f"{CHANGED}:desc", "limit": self._parts["limit"]}
        counted = f"orderBy={CHANGED}:desc+totalResults"
        if "orderBy" in self._parts:
            yield from self._ask(path, counted, self._with(**newest, totalResults="true"))
            if self.tried[-1].outcome != "served":
                yield from self._ask(path, f"orderBy={CHANGED}:desc", self._with(**newest))
        yield from self._shapes(path)
        yield from self._resources()

    # Questions

    def _headers(self, path: str) -> Iterator[Tried]:
        wanted = str(self.settings["framework_version"])
        yield from self._try_part(path, f"REST-Framework-Version={wanted}", wanted)
        if "REST-Framework-Version" not in self._parts:
            other = "4" if wanted == "1" else "1"
            yield from self._try_part(path, f"REST-Framework-Version={other}", other)
            self.advice["framework_version"] = other
        yield from self._try_part(path, "Accept=vnd", ACCEPT)
        if "Accept" not in self._parts:
            yield from self._try_part(path, "Accept", "application/json")
        if language := self.settings.get("accept_language"):
            yield from self._try_part(path, "Accept-Language", language)

    def _conditions(self, path: str) -> Iterator[Tried]:
        query = self._query()
        yield from self._try_part(path, "q", query.q())
        finder = self.settings["finder"]
        if finder.lower() != "none":
            yield from self._try_part(path, "finder", finder)
            if "finder" not in self._parts:
                self.advice["finder"] = "none"
        if self.settings.get("filter"):
            whole = self._query(condition=self.settings["filter"])
            yield from self._ask(path, "q=filter", self._with(q=whole.q()))
        formats = dict.fromkeys([self.settings["timestamp_format"], *TIMESTAMP_FORMATS])
        for number, text in enumerate(list(formats)[:3]):
            dated = self._query(timestamp_format=text).q(since=LONG_AGO)
            yield from self._ask(path, f"q={LONG_AGO.strftime(text)}", self._with(q=dated))
            if self.tried[-1].outcome == "served":
                if number:
                    self.advice["timestamp_format"] = text
                if number and text == WITHOUT_OFFSET:
                    # If the CRM takes it for the account's time, changes of these hours are missed.
                    seconds = FURTHEST_BEHIND_SECONDS + self.settings["lookback_seconds"]
                    self.advice["lookback_seconds"] = str(seconds)
                break

    def _limits(self, path: str) -> Iterator[Tried]:
        """Try a page as a scan reads it; after a refusal, try a smaller one."""
        wanted = self.settings["page_size"]
        left_out = {"TargetPartyId", *Opportunities.asked_if_described}
        names = [name for name in Opportunities.attributes if name not in left_out]
        fields = {"fields": ",".join(names)} if "fields" in self._parts else {}
        for limit in [wanted, *(item for item in LIMITS if item < wanted)][:3]:
            parts = self._with(**fields, limit=str(limit), q=self._query().q(above=0))
            yield from self._ask(path, f"limit={limit}", parts)
            if self.tried[-1].outcome == "served":
                self._parts["limit"] = str(limit)
                if limit != wanted:
                    self.advice["page_size"] = str(limit)
                return

    def _shapes(self, path: str) -> Iterator[Tried]:
        """Find the attributes, in the answer of describe and in rows."""
        headers = {name: value for name, value in self._parts.items() if name in HEADERS}
        yield from self._ask(f"{path}/describe", "describe", headers)
        self.attributes |= attributes_of(self._answer, path)
        self.page["describe_has_attributes"] = bool(self.attributes)
        yield from self._ask(path, "all attributes", self._without("fields", "orderBy", limit="5"))
        for row in self._answer.get("items", []) if isinstance(self._answer, dict) else []:
            for name, value in row.items() if isinstance(row, dict) else ():
                self.attributes.setdefault(str(name), type(value).__name__)
                self._number = str(row.get("OptyNumber") or "")

    def _resources(self) -> Iterator[Tried]:
        """Try the resources of further streams."""
        headers = {name: value for name, value in self._parts.items() if name in HEADERS}
        paths = ["accounts", "resources", "optyStatusesLOV"]
        if self._number:
            item = f"{Opportunities.path}/{quote(self._number, safe='')}"
            paths += [f"{item}/child/ChildRevenue", f"{item}/child/OpportunityResource"]
        for path in paths:
            yield from self._ask(path, path.rsplit("/", 1)[-1], {**headers, "limit": "1"})

    # Asking

    def _query(self, **changed: Any) -> Query:
        version = int(self._parts.get("REST-Framework-Version", 0)) or int(
            self.advice.get("framework_version", self.settings["framework_version"])
        )
        query = Query.of(self.settings, KEY, CHANGED)
        return replace(query, **{"framework_version": version, **changed})

    def _with(self, **more: str) -> Parts:
        return {**self._parts, **more}

    def _without(self, *names: str, **more: str) -> Parts:
        return {name: value for name, value in self._with(**more).items() if name not in names}

    def _try_part(self, path: str, part: str, value: str) -> Iterator[Tried]:
        """Request with one more part, and keep it if it is served."""
        name = part.partition("=")[0]
        yield from self._ask(path, part, {**self._parts, name: value})
        if self.tried[-1].outcome == "served":
            self._parts[name] = value

    def _ask(self, path: str, part: str, parts: Parts) -> Iterator[Tried]:
        self._answer = None
        if self._client.requests >= MOST_REQUESTS:
            return
        begun = time.monotonic()
        outcome, status, words = "served", 200, ""
        codes: tuple[str, ...] = ()
        try:
            response, body = self._client.get(path, parts)
            self._answer = json_of(body, response)
            self._look_at(response.headers, body, response)
        except RefusedError as error:
            if error.status == 401:
                raise
            outcome, status, codes, words = "refused", error.status, error.codes, error.detail
        except RetryError as error:
            outcome = "slow" if error.slow else "failed"
            found = re.search(r"HTTP (\d+)", str(error))
            status = int(found[1]) if found else 0
        ms = round((time.monotonic() - begun) * 1000)
        named = next((name for name in PARTS if re.search(rf"\b{name}\b", words)), None)
        self.tried.append(Tried(part, outcome, ms, status or None, codes, named))
        yield self.tried[-1]

    def _look_at(self, headers: Mapping[str, str], body: bytes, response: Any) -> None:
        self.page |= {
            "date": "Date" in headers,
            "framework_version": headers.get("REST-Framework-Version"),
            "content_type": headers.get("Content-Type", "").partition(";")[0],
        }
        if isinstance(self._answer, dict) and "items" in self._answer:
            limit = page_of(body, response).limit
            self.page["limit"] = max(self.page.get("limit", 0), limit or 0)

    # Results

    def capture(self) -> dict[str, Any]:
        """Return the results, without any data of the customer."""
        own = {name: kind for name, kind in self.attributes.items() if _STANDARD.fullmatch(name)}
        custom = [name for name in self.attributes if name.endswith("_c")]
        finder = self.settings["finder"]
        return {
            "capture": FORMAT,
            "tap": version("tap-oracle-crm"),
            "settings": {
                "framework_version": self.settings["framework_version"],
                "page_size": self.settings["page_size"],
                "request_timeout": self.settings["request_timeout"],
                "finder": finder if finder in {DEFAULT_FINDER, "none"} else "another",
                "filter": "filter" in self.settings,
            },
            "tried": [asdict(item) for item in self.tried],
            "page": self.page,
            "attributes": {
                "standard": dict(sorted(own.items())),
                "custom": dict(Counter(self.attributes[name] for name in custom)),
                "others": len(self.attributes) - len(own) - len(custom),
                "same_but_for_case": len(custom) - len({name.lower() for name in custom}),
            },
        }


def main() -> None:
    """Probe the CRM that the environment names; exit code 1 if it cannot be read at all."""
    parser = argparse.ArgumentParser(prog="tap-oracle-crm-probe", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="where to save the results")
    file: Path | None = parser.parse_args().file
    try:
        check_environment()
        probe = Probe(
            resolve({name: os.environ.get(f"TAP_ORACLE_CRM_{name.upper()}") for name in SCHEMAS})
        )
        for item in probe.run():
            print(item, flush=True)
    except OracleCrmError as error:
        sys.exit(str(error))
    except RetryError as error:
        sys.exit(f"The CRM gave no usable answer: {error}.")
    print()
    for name, value in probe.advice.items():
        print(f"set TAP_ORACLE_CRM_{name.upper()}={value}")
    if not probe.advice:
        print("The settings work here as they are; a sync omits the refused parts by itself.")
    if file:
        file.write_text(json.dumps(probe.capture(), indent=1) + "\n", encoding="utf-8")
        print(f"Saved in {file}: read it before you share it.")


if __name__ == "__main__":
    main()
