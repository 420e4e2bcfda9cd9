"""The probe finds out what a CRM refuses, and tells nothing of the customer's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from oracle_crm_sandbox import PASSWORD, USER, Sandbox
from tap_oracle_crm import probe
from tap_user import TapUser

Outcome = dict[str, tuple[str, int | None]]


def run(
    crm: Sandbox, file: Path, monkeypatch: pytest.MonkeyPatch, **settings: str
) -> tuple[Outcome, dict[str, Any]]:
    """Probe a CRM; what became of each part, and what was saved."""
    for name, value in (crm.env | settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["tap-oracle-crm-probe", str(file)])
    crm.clear_requests()
    probe.main()
    assert crm.requests()["total"] <= probe.MOST_REQUESTS
    saved: dict[str, Any] = json.loads(file.read_text())
    return {item["part"]: (item["outcome"], item["status"]) for item in saved["tried"]}, saved


PODS: list[dict[str, Any]] = [
    {},
    {"refused": {"totalResults+finder": 400}},
    {"refused": {"totalResults": 400, "onlyData": 400, "fields": 414}, "refusals_are_named": False},
    {"refused": {"Accept=vnd": 406, "orderBy=LastUpdateDate": 400}},
    {"refused": {"Accept": 406, "finder": 400, "orderBy": 400}},
    {"refused": {"REST-Framework-Version": 400}},
    {"refused": {"q=Z'": 400}},
    {"refused": {"q=Z'": 400, "q=.000": 400}},
    {"largest_limit": 200, "describe_is_silent": True, "date_offset_seconds": None},
    {"forbidden": ["accounts", "opportunities/describe"], "page_cap": 100},
]


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: json.dumps(pod)[1:60])
def test_what_was_learned_can_be_replayed(
    tap: TapUser, monkeypatch: pytest.MonkeyPatch, pod: dict[str, Any]
) -> None:
    tap.crm.settings(**pod)
    there, _ = run(tap.crm, tap.folder / "probe.json", monkeypatch)
    refused = {part for part, (outcome, _) in there.items() if outcome == "refused"}
    for part in pod.get("refused", {}):
        assert [name for name in refused if part.partition("=")[0] in name], part
    with Sandbox(records=100, replay=tap.folder / "probe.json") as again:
        here, _ = run(again, tap.folder / "again.json", monkeypatch)
    assert here == there


def test_what_takes_too_long_or_fails_is_told_and_replayed(
    tap: TapUser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tap.crm.fault("stall", seconds=10, query="orderBy=LastUpdateDate.*totalResults")
    tap.crm.fault("stall", seconds=10, query="totalResults.*orderBy=LastUpdateDate")
    tap.crm.fault("error", status=500, path="/describe$")
    quick = {"TAP_ORACLE_CRM_REQUEST_TIMEOUT": "1"}
    there, _ = run(tap.crm, tap.folder / "probe.json", monkeypatch, **quick)
    assert there["orderBy=LastUpdateDate:desc+totalResults"] == ("slow", None)
    assert there["orderBy=LastUpdateDate:desc"] == ("served", 200)
    assert there["describe"] == ("failed", 500)
    assert re.search(r"slow +1,\d{3} ms  orderBy=LastUpdate", capsys.readouterr().out)
    with Sandbox(records=100, replay=tap.folder / "probe.json") as again:
        here, _ = run(again, tap.folder / "again.json", monkeypatch, **quick)
    assert here == there


@pytest.mark.parametrize(
    ("pod", "settings"),
    [
        ({"refused": {"finder": 400}, "default_record_set": "ALLOPTIES"}, {"finder": "none"}),
        ({"refused": {"REST-Framework-Version=4": 400}}, {"framework_version": "1"}),
        ({"refused": {"q=Z'": 400}}, {"timestamp_format": "%Y-%m-%dT%H:%M:%S.000+00:00"}),
        (
            {"refused": {"q=Z'": 400, "q=.000": 400}, "naive_offset_minutes": -480},
            {"timestamp_format": "%Y-%m-%d %H:%M:%S", "lookback_seconds": "43500"},
        ),
        ({"largest_limit": 300}, {"page_size": "200"}),
        ({}, {}),
    ],
)
def test_the_settings_that_it_prints_work(
    tap: TapUser,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pod: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    tap.crm.settings(**pod)
    run(tap.crm, tap.folder / "probe.json", monkeypatch)
    told = re.findall(r"set TAP_ORACLE_CRM_(\w+)=(.*)", capsys.readouterr().out)
    assert {name.lower(): value for name, value in told} == settings
    first = tap.sync(start_date="2001-01-01", **settings)
    assert len(first.by_key()) == 1000
    changed = {row["OptyId"] for row in tap.crm.rows()[:3]}
    for key in changed:
        tap.crm.update(key, Name="Changed since")
    assert changed <= tap.sync(first.state, start_date="2001-01-01", **settings).by_key().keys()


def test_what_is_saved_holds_nothing_of_the_customers(
    tap: TapUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap.crm.add_attribute("Secret_c", values=["a secret word"])
    tap.crm.fault("error", status=400, body="structured", detail="a secret word", path="/accounts$")
    own = {"TAP_ORACLE_CRM_FILTER": "CreatedBy <> 'a secret word'"}
    outcome, saved = run(tap.crm, tap.folder / "probe.json", monkeypatch, **own)
    assert outcome["q=filter"] == ("served", 200)
    assert saved["settings"]["filter"] is True
    assert saved["attributes"]["standard"]["OptyNumber"] == "string"
    assert saved["attributes"]["custom"]["string"] > 3
    assert saved["attributes"]["same_but_for_case"] == 0
    text = (tap.folder / "probe.json").read_text()
    values = {str(value) for row in tap.crm.rows() for value in row.values() if value is not None}
    secrets = {value for value in values if len(value) > 8 or not value.isdigit()}
    secrets -= {"true", "false", "True", "False"}
    words = set(re.findall(r'"([^"]*)"', text))
    assert not words & secrets
    for word in ("secret", '_c"', USER, PASSWORD, tap.crm.url.removeprefix("http://"), "127.0.0.1"):
        assert word not in text


def test_a_crm_that_serves_nothing_is_told_in_one_line(
    tap: TapUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap.crm.fault("error", status=403)
    with pytest.raises(SystemExit, match="Ask the CRM's administrator"):
        run(tap.crm, tap.folder / "probe.json", monkeypatch)
    assert tap.crm.requests()["total"] == 1
