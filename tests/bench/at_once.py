"""How many requests at once the tap finds, beside the best fixed number, in one run.

`python -m tests.bench.at_once` writes docs/benchmark-requests.md. Pods of the sandbox serve a
number of requests at once, and throttle what comes beyond.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle_crm_sandbox import PASSWORD, USER, Sandbox
from tap_oracle_crm.tap import TapOracleCRM

from database.environment import ROOT
from tests.bench.contenders import FIELDS

PAGE = ROOT / "docs" / "benchmark-requests.md"
DEALS = 100_000
MOST: int = TapOracleCRM.config_jsonschema["properties"]["concurrency"]["default"]
TARGET = 1.2
FEW = 0.02
"""The largest share of refused requests."""


@dataclass(frozen=True)
class Read:
    """One read of all deals.

    Attributes:
        seconds: from the first request to the last record.
        requests: the number of requests.
        refused: how many of them the pod refused.
    """

    seconds: float
    requests: int
    refused: int


def read(crm: Sandbox, most: int, *, is_fixed: bool = False) -> Read:
    """Let the tap read all deals of a sandbox, and throw them away.

    Args:
        crm: the sandbox.
        most: the largest number of requests at once.
        is_fixed: always send so many.
    """
    settings = {"base_url": crm.url, "username": USER, "password": PASSWORD}
    tap = TapOracleCRM(config={**settings, "custom_fields": ["Practice_c", "GEO_c"]})
    catalog: dict[str, Any] = json.loads(tap.catalog_json_text)
    for stream in catalog["streams"]:
        is_read = stream["tap_stream_id"] == "opportunities"
        for item in stream["metadata"]:
            name = item["breadcrumb"][-1] if item["breadcrumb"] else None
            item["metadata"]["selected"] = is_read and (name is None or name in FIELDS)
    crm.clear_requests()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        tap = TapOracleCRM(config={**settings, "concurrency": most}, catalog=catalog)
        if is_fixed:
            tap.client.gate.allowed = most
            # It learns nothing from the answers.
            tap.client.gate.answered = lambda *_: None  # type: ignore[method-assign]
        begun = time.monotonic()
        tap.sync_all()
        seconds = time.monotonic() - begun
    requests = crm.requests()
    return Read(seconds, requests["total"], requests["by_status"].get("429", 0))


def rows() -> Iterator[list[str]]:
    """Measure all pods; yield the cells of each."""
    with Sandbox(records=DEALS) as crm:
        for ms in (150, 1_000):
            for serves in (4, 8, 16):
                crm.clear_faults()
                crm.fault("pod", at_once=serves, ms=ms)
                best = min(serves, MOST)
                known = read(crm, best, is_fixed=True)
                found = read(crm, MOST)
                ratio = found.seconds / known.seconds
                met = ratio <= TARGET and found.refused <= FEW * found.requests
                yield [
                    f"{ms:,}",
                    f"{serves}",
                    f"{best}: {known.seconds:.1f} s",
                    f"{found.seconds:.1f} s",
                    f"**{ratio:.2f}**",
                    f"{found.refused} of {found.requests}",
                    "met" if met else "**missed**",
                ]


def main() -> None:
    """Measure, print and write the page."""
    lines = [
        "# Requests at once",
        "",
        "<!-- Written by `make bench`; do not edit. -->",
        "",
        f"A read of {DEALS:,} deals by the tap alone. The CRM serves a number of requests at once",
        "and throttles what comes beyond (`Retry-After: 1`). The tap begins with 4 and may send",
        f"{MOST}, its default: it does not know how many the CRM serves. Beside it, the same tap",
        "with the best fixed number.",
        "",
        f"The target is at most {TARGET} times the best fixed number, with at most {FEW:.0%} of",
        "the requests refused.",
        "",
        "| ms a page | served at once | best fixed number | found | ratio | refused |  |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    print("\n".join(lines))
    for row in rows():
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    PAGE.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
