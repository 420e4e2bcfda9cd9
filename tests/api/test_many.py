"""One change of many opportunities: each by the rules of a single one."""

import json
import re
from typing import Any

import psycopg
import pytest

from api.auth import Role
from tests.api.conftest import Caller, fill

CHANGE = {"workflow_status": "ASSIGNED", "assigned_to": None}


def test_each_deal_is_changed_by_the_rules_of_one(caller: Caller) -> None:
    fill(caller.database, 8)  # 3, 6: NEW; 1, 4: ASSIGNED; 2, 5: UNDER_ASSESSMENT; 7: won
    caller.be(Role.ASSESSOR)
    own = caller.get("/api/session").json()["id"]
    given = {"workflow_status": "UNDER_ASSESSMENT", "assigned_to": own}
    answer = caller.patch("/api/opportunities", json={"ids": [4, 3, 7, 999, 4, 2], **given})
    assert answer.status_code == 200, answer.text
    results = {one["id"]: one for one in answer.json()["results"]}
    assert [one["id"] for one in answer.json()["results"]] == [4, 3, 7, 999, 2]
    assert answer.json()["changed"] == 2
    for id_, one in results.items():
        alone = caller.patch(f"/api/opportunities/{id_}", json=given)
        # The changed ones have the status and the user by now, which is no error either.
        assert alone.status_code == one["status"], one
        if one["status"] != 200:
            assert alone.json()["detail"] == one["detail"]
            assert alone.json().get("allowed") == one["allowed"]
    changed = caller.get("/api/opportunities/4").json()
    assert (changed["workflow_status"], changed["assigned_to"]) == ("UNDER_ASSESSMENT", own)
    assert caller.get("/api/opportunities/3").json()["workflow_status"] == "NEW"
    # Each result has what takes it back, as long as the deal is as it left it.
    back = results[4]
    assert back["before"] == {"workflow_status": "ASSIGNED", "assigned_to": None}
    assert back["etag"] == caller.get("/api/opportunities/4").headers["etag"]
    answer = caller.patch(
        "/api/opportunities/4", json=back["before"], headers={"If-Match": back["etag"]}
    )
    assert answer.status_code == 200, answer.text
    answer = caller.patch("/api/opportunities/4", json=given, headers={"If-Match": back["etag"]})
    assert answer.status_code == 412
    assert (results[2]["before"], results[3]["before"]) == ({"assigned_to": None}, None)
    history = caller.get("/api/opportunities/4/history").json()[2:]
    assert [one["field"] for one in history] == ["assigned_to", "workflow_status"]
    trail = caller.be(Role.ADMIN).get("/api/audit", params={"subject": "opportunity"}).json()
    assert {entry["subject_id"] for entry in trail} == {"2", "4"}


@pytest.mark.parametrize(
    "foreign",
    ["In Review", "", "x" * 300, "two\r\nlines", "'so' \"called\""],
    ids=["words", "none", "long", "lines", "quotes"],
)
def test_a_status_of_another_system_keeps_no_other_deal_back(caller: Caller, foreign: str) -> None:
    fill(caller.database, 6)  # 3, 6: NEW
    with psycopg.connect(caller.database) as connection:
        change = "update opportunities set workflow_status = %s where id = 6"
        connection.execute(change, [foreign])
    form = {"deal": [f"6 {foreign}", "3 NEW"], "workflow_status": "ASSIGNED"}
    headers = {"HX-Request": "true"}
    caller.be(Role.ASSESSOR)
    answer = caller.post("/opportunities/bulk", data=form, headers=headers)
    assert answer.status_code == 200, answer.text
    assert "1 deal changed, 1 refused." in answer.headers["hx-trigger-after-swap"]
    assert "takes the role manager" in answer.text
    assert caller.get("/api/opportunities/3").json()["workflow_status"] == "ASSIGNED"
    # A manager puts it right. Nobody moves it back, so that is not offered.
    caller.be(Role.MANAGER)
    (values,) = re.findall("hx-vals='([^']*)'", caller.get("/opportunities/6").text)
    assert json.loads(values) == {"seen": foreign}
    answer = caller.post(
        "/opportunities/bulk", data=form | {"deal": form["deal"][:1]}, headers=headers
    )
    assert "1 deal changed." in answer.headers["hx-trigger-after-swap"], answer.text
    assert "Undo" not in answer.text
    assert caller.get("/api/opportunities/6").json()["workflow_status"] == "ASSIGNED"


def test_a_merge_lets_nobody_wait_once_for_each_deal(caller: Caller) -> None:
    fill(caller.database, 3)
    with psycopg.connect(caller.database) as connection:
        connection.execute("select from opportunities where id = 3 for update")
        answer = caller.patch("/api/opportunities", json={"ids": [1, 3, 2], **CHANGE})
    statuses = {one["id"]: one["status"] for one in answer.json()["results"]}
    assert statuses == {1: 200, 3: 503, 2: 503}


def test_some_deals_are_listed_and_exported_by_their_ids(caller: Caller) -> None:
    fill(caller.database, 9)
    given: dict[str, Any] = {"id": [7, 2], "sort": "-id"}
    found = caller.get("/api/opportunities", params=given).json()
    assert [one["id"] for one in found["items"]] == [7, 2]
    lines = caller.get("/api/opportunities/export", params=given).text.splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", "7", "2"]
