"""Where each value of a deal comes from: attribute, value as read, rule and run."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from declared.fields import BUILT_IN, Field, store_fields
from tests.api.conftest import Caller, fill

RAW = """
insert into raw.opportunities (
    "OptyId", "Name", "Revenue", "SalesStage", "StatusCode", "StageStatusCd", "PartyName1",
    custom, _sdc_extracted_at
)
values (
    300000000000001, 'Café renewal 1', 1234.50, '02 - Discovery', 'OPEN', 'WON', 'Somebody',
    '{"geo_C": "EMEA", "Budget_c": 700}', '2026-11-02 06:00Z'
)
"""


@pytest.fixture
def connection(caller: Caller) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(caller.database, autocommit=True) as connection:
        fill(caller.database, 2)
        connection.execute(RAW)
        yield connection
        connection.execute("truncate raw.opportunities")


def lineage(caller: Caller, number: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    answer = caller.get(f"/api/opportunities/{300000000000000 + number}/lineage")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return told, {one["field"]: one for one in told["fields"]}


def test_each_value_has_its_origin(caller: Caller, connection: psycopg.Connection[Any]) -> None:
    own = Field("budget", "Budget_c", "Budget", "number")
    store_fields(connection, (*BUILT_IN.values(), own))
    run, later = str(uuid.uuid4()), str(uuid.uuid4())
    connection.execute("update opportunity_arrivals set run_id = %s", [run])
    with connection.transaction():
        connection.execute("select set_config('app.run_id', %s, true)", [later])
        connection.execute("update opportunities set deal_value = 1234.5 where id = 1")
    moved = caller.patch("/api/opportunities/1", json={"assigned_to": None})
    assert moved.status_code == 200
    connection.execute(
        "insert into status_outcomes (code, outcome, source) values ('OPEN', 'OPEN', 'declared')"
    )

    told, fields = lineage(caller)
    assert told["read_at"] == "2026-11-02T06:00:00Z"
    value = fields["deal_value"]
    assert (value["attribute"], value["as_read"], value["value"]) == ("Revenue", "1234.50", 1234.5)
    assert value["run_id"] == later
    name = fields["name"]
    assert (name["attribute"], name["as_read"], name["run_id"]) == ("Name", "Café renewal 1", run)
    # An attribute of the customer's own, in another case.
    assert (fields["geo"]["attribute"], fields["geo"]["as_read"]) == ("GEO_c", "EMEA")
    outcome = fields["crm_outcome"]
    assert (outcome["attribute"], outcome["as_read"]) == ("StatusCode", "OPEN")
    assert outcome["rule"].startswith("crm.yml declares")
    assert fields["workflow_status"]["attribute"] is None
    assert "Somebody" not in str(told), "nobody has declared this attribute"

    large = "24691357802469134.56"
    for table, column in (("opportunities", "deal_value"), ("raw.opportunities", '"Revenue"')):
        connection.execute(f"update {table} set {column} = {large}")  # noqa: S608
    assert f'"value":{large}' in caller.get("/api/opportunities/300000000000001/lineage").text
    assert large in caller.get("/opportunities/1/lineage").text.split("As read")[1]

    # Without a code of its own, that of the stage counts.
    connection.execute("update raw.opportunities set \"StatusCode\" = ' '")
    connection.execute(
        "insert into status_outcomes (code, outcome, source) values ('WON', 'WON', 'predefined')"
    )
    connection.execute(
        "update opportunities set crm_outcome = 'WON', workflow_status = 'WON',"
        " workflow_status_before_close = 'ASSIGNED' where id = 1"
    )
    _, fields = lineage(caller)
    outcome = fields["crm_outcome"]
    assert (outcome["attribute"], outcome["as_read"]) == ("StageStatusCd", "WON")
    assert outcome["rule"] == "one of the four predefined codes"
    assert "ASSIGNED again" in fields["workflow_status"]["rule"]


def test_a_deal_whose_record_is_here_no_more(
    caller: Caller, connection: psycopg.Connection[Any]
) -> None:
    told, fields = lineage(caller, 2)
    assert told["read_at"] is None
    assert {one["as_read"] for one in fields.values()} == {None}
    assert caller.get("/api/opportunities/nothing/lineage").status_code == 404
