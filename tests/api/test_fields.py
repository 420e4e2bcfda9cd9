"""The customer's own fields in lists, deals, exports and the API's description."""

import csv
import html
import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from api.fields import REFRESH_SECONDS
from api.opportunities.page import Column
from api.opportunities.schemas import Filters, Opportunity, SortKey
from database.settings import Settings
from declared.fields import (
    BUILT_IN,
    BUILT_IN_PARAMETERS,
    OTHER_COLUMNS,
    OTHER_PARAMETERS,
    PLACES,
    TYPES,
    Field,
    parameters,
    store_fields,
)
from tests.api.conftest import Caller, calling, fill

OWN = (
    Field("budget", "Budget_c", "Budget", "number", None, True, True, "list"),
    Field("go_live", "GoLive_c", "Go live", "date", None, True, True, "list"),
    Field("signed_at", "SignedAt_c", "Signed", "timestamp", None, True, True, "deal"),
    Field("products", "Products_c", "What we <sell>", "list", None, True, False, "list"),
    Field("strategic", "Strategic_c", "Strategic", "boolean", None, True, True, "hidden"),
    Field("team", "Team_c", "الفريق", "text", None, True, True, "deal"),
    Field("after_id", "AfterId_c", None, "text", None, False, False, "deal"),
)
VALUES: list[dict[str, Any]] = [
    {
        "budget": -100.5,
        "go_live": "2026-01-31",
        "signed_at": "2026-01-31T22:00:00.5+00:00",
        "products": ["Cloud", "=1+1", 7.5, '"'],
        "strategic": True,
        "team": "=Red",
        "after_id": "x",
        "gone": "secret",
    },
    {"budget": 2500, "go_live": "2027-06-01", "products": ["Data"], "strategic": False},
    {"budget": 9, "go_live": None, "signed_at": "2026-01-31T22:00:00+00:00", "team": "Blue"},
    # Of other types than the fields: the deal was rejected, or its fields have just got them.
    {
        "budget": "n/a",
        "go_live": 7,
        "signed_at": ["x"],
        "products": "Data",
        "strategic": "often",
        "team": {"a": 1},
    },
    {},
]
NAMES = [field.name for field in OWN]


def declare(url: str, *own: Field) -> None:
    with psycopg.connect(url) as connection:
        store_fields(connection, (*BUILT_IN.values(), *own))


@pytest.fixture
def caller(database: str, settings: Settings) -> Iterator[Caller]:
    """An admin; five deals have own fields."""
    fill(database, 5)
    with psycopg.connect(database) as connection:
        for id_, values in enumerate(VALUES, 1):
            connection.execute(
                "update opportunities set custom = %s where id = %s", [Jsonb(values), id_]
            )
    declare(database, *OWN)
    with calling(database, settings) as caller:
        yield caller


def ids(caller: Caller, **given: Any) -> list[int]:
    answer = caller.get("/api/opportunities", params=given)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def refusal(caller: Caller, **given: Any) -> str:
    answer = caller.get("/api/opportunities", params=given)
    assert answer.status_code == 422, answer.text
    detail: str = answer.json()["detail"]
    return detail


def test_a_deal_has_all_declared_fields_and_a_list_those_of_the_list(caller: Caller) -> None:
    everything = {name: VALUES[0][name] for name in NAMES}
    assert caller.get("/api/opportunities/1").json()["custom"] == everything
    assert caller.get("/api/oracle-opportunity/300000000000001").json()["custom"] == everything
    assert caller.get("/api/opportunities/5").json()["custom"] == dict.fromkeys(NAMES)
    items = caller.get("/api/opportunities").json()["items"]
    listed = ("budget", "go_live", "products")
    assert [item["custom"] for item in items] == [
        {name: values.get(name) for name in listed} for values in VALUES
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"min_budget": 9}, [2, 3]),
        ({"max_budget": 9}, [1, 3]),
        ({"min_budget": -200, "max_budget": "-100.5"}, [1]),
        ({"go_live_after": "2026-01-31", "go_live_before": "2026-12-31"}, [1]),
        (
            {"signed_at_after": "2026-01-31T23:00:00.25+01:00", "signed_at_before": "2027-01-01"},
            [1],
        ),
        ({"signed_at_before": "2026-01-31T22:00:00Z"}, [3]),
        ({"signed_at_before": "2026-01-31"}, [1, 3]),
        ({"products": ["Cloud", "other"]}, [1]),
        ({"products": "Data", "min_value": 2000}, [2, 4]),
        ({"products": ["7.5", "none"]}, [1]),
        ({"products": '"'}, [1]),
        ({"products": "7"}, []),
        ({"strategic": "true"}, [1]),
        ({"strategic": False}, [2]),
        ({"team": ["=Red", "Blue"]}, [1, 3]),
        ({"team": "blue"}, []),
    ],
)
def test_a_list_can_be_filtered_by_own_fields(
    caller: Caller, given: dict[str, Any], expected: list[int]
) -> None:
    assert ids(caller, **given) == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("budget", [1, 3, 2, 4, 5]),
        ("go_live", [1, 2, 4, 3, 5]),
        ("signed_at", [3, 1, 4, 2, 5]),
        ("team", [1, 3, 4, 2, 5]),
    ],
)
def test_a_list_can_be_sorted_by_own_fields(caller: Caller, sort: str, expected: list[int]) -> None:
    # The last two have no value, and come last in both directions.
    backwards = expected[:-2][::-1] + expected[-2:][::-1]
    for key, order in ((sort, expected), (f"-{sort}", backwards)):
        found: list[int] = []
        cursor = None
        while len(found) < len(order):
            given: dict[str, Any] = {"sort": key, "limit": 2} | (
                {"cursor": cursor} if cursor else {}
            )
            answer = caller.get("/api/opportunities", params=given).json()
            found += [item["id"] for item in answer["items"]]
            cursor = answer["next_cursor"]
        assert found == order
        assert cursor is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"colour": "red"}, "query.colour: Extra inputs are not permitted"),
        ({"after_id": "x"}, "query.after_id: Extra inputs are not permitted"),
        ({"budget": "9"}, "query.budget: Extra inputs are not permitted"),
        ({"min_budget": "much"}, "query.min_budget: Input should be a valid decimal"),
        ({"go_live_after": "soon"}, "query.go_live_after: Input should be a valid date"),
        ({"strategic": "often"}, "query.strategic: Input should be a valid boolean"),
        ({"team": "x" * 201}, "query.team.0: String should have at most 200"),
        ({"sort": "products"}, "query.sort: Lists can't be sorted by 'products'"),
        ({"sort": "colour"}, "query.sort: Lists can't be sorted by 'colour'"),
    ],
)
def test_what_no_field_is_for_is_refused(caller: Caller, given: dict[str, Any], words: str) -> None:
    assert words in refusal(caller, **given)
    exported = caller.get("/api/opportunities/export", params=given)
    assert exported.status_code == 422


def test_an_export_has_a_column_for_each_field(caller: Caller) -> None:
    text = caller.get("/api/opportunities/export", params={"min_budget": -200}).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0])[-len(NAMES) :] == NAMES
    assert {name: rows[0][name] for name in NAMES} == {
        "budget": "-100.5",
        "go_live": "2026-01-31",
        "signed_at": "2026-01-31T22:00:00.5+00:00",
        "products": "Cloud; '=1+1; 7.5; \"",
        "strategic": "true",
        "team": "'=Red",
        "after_id": "x",
    }
    assert rows[2]["signed_at"] == "2026-01-31T22:00:00+00:00"
    answer = caller.get("/api/opportunities/export", params={"format": "ndjson", "sort": "-budget"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["id"] for line in lines] == [2, 3, 1, 5, 4]
    assert lines[2]["custom"] == {name: VALUES[0][name] for name in NAMES}


def test_the_description_has_fields_and_parameters(caller: Caller) -> None:
    described = caller.get("/openapi.json").json()
    properties = described["components"]["schemas"]["Opportunity"]["properties"]
    assert properties["deal_value"]["title"] == "Value"
    own = properties["custom"]["properties"]
    assert {name: field["title"] for name, field in own.items()} == {
        field.name: field.label or field.attribute for field in OWN
    }
    assert own["budget"]["anyOf"][0] == {"type": "number"}
    for path in ("/api/opportunities", "/api/opportunities/export"):
        given = {one["name"]: one for one in described["paths"][path]["get"]["parameters"]}
        assert {"min_budget", "go_live_before", "products", "strategic"} <= given.keys()
        assert "after_id" not in given
        assert "|budget|" in given["sort"]["schema"]["anyOf"][0]["pattern"]


def test_a_filter_offers_the_most_frequent_values(caller: Caller) -> None:
    offered = caller.get("/fields/products/values").text
    values = [html.unescape(value) for value in re.findall('value="(.*?)"', offered)]
    assert values[0] == "Data"
    assert sorted(values[1:]) == sorted(["Cloud", "=1+1", "7.5", '"'])
    for name in ("budget", "strategic", "after_id", "stage", "gone"):
        assert caller.get(f"/fields/{name}/values").status_code == 404


def test_a_changed_declaration_needs_no_restart(caller: Caller) -> None:
    first = caller.get("/api/opportunities", params={"sort": "budget", "limit": 1}).json()
    cursor = {"sort": "budget", "limit": 1, "cursor": first["next_cursor"]}
    assert caller.get("/api/opportunities", params=cursor).status_code == 200
    declare(caller.database, Field("budget", "Budget_c", None, "text", None, True, True, "list"))
    deadline = time.monotonic() + 10 * REFRESH_SECONDS
    while "team" in caller.get("/api/opportunities/1").json()["custom"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "other filters or another sort" in refusal(caller, **cursor)
    assert ids(caller, budget=["9", "n/a"]) == [3, 4]
    assert "query.team" in refusal(caller, team="Blue")
    parameters = caller.get("/openapi.json").json()["paths"]["/api/opportunities"]["get"]
    assert "min_budget" not in {one["name"] for one in parameters["parameters"]}

    declare(caller.database)
    while caller.get("/api/opportunities/1").json()["custom"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "can't be sorted" in refusal(caller, **cursor)


def test_a_field_can_have_any_name_that_the_file_allows(database: str, settings: Settings) -> None:
    fill(database, 2)
    names = ("model_config", "json", "copy", "select", "item", "own", "existing", "word_0", "key")
    own = [
        Field(name, f"{name}_{type_}_c", None, type_, None, True, True, place)
        for name, type_, place in zip(names, TYPES * 2, PLACES * 3, strict=False)
    ]
    declare(database, *own)
    with calling(database, settings) as caller:
        for field in own:
            for parameter in parameters(field.name, field.type or "text"):
                value = {"number": "1", "boolean": "true"}.get(field.type or "", "2026-01-01")
                assert ids(caller, **{parameter: value, "search": "renewal"}) == []
            assert ids(caller, sort=field.name) == [1, 2]
        exported = csv.DictReader(io.StringIO(caller.get("/api/opportunities/export").text))
        assert set(names) <= set(exported.fieldnames or ())


def test_what_is_declared_of_built_in_fields_holds_for_lists(
    database: str, settings: Settings
) -> None:
    fill(database, 3)
    declared = [
        replace(field, filter=False) if field.name in ("region", "deal_value") else field
        for field in BUILT_IN.values()
    ]
    declared = [
        replace(field, sort=False) if field.name in ("region", "close_date") else field
        for field in declared
    ]
    with psycopg.connect(database) as connection:
        store_fields(connection, tuple(declared))
    with calling(database, settings) as caller:
        for given, words in (
            ({"region": "DACH"}, "query.region: Lists can't be filtered by 'region'"),
            ({"max_value": 1}, "query.max_value: Lists can't be filtered by 'deal_value'"),
            ({"min_reporting_value": 1}, "filtered by 'deal_value'"),
            ({"sort": "-region"}, "query.sort: Lists can't be sorted by 'region'"),
            ({"sort": "close_date"}, "query.sort: Lists can't be sorted by 'close_date'"),
        ):
            assert words in refusal(caller, **given)
            assert caller.get("/api/opportunities/export", params=given).status_code == 422
        assert ids(caller, closing_after="2000-01-01", sort="-deal_value", geo="nowhere") == []
        described = caller.get("/openapi.json").json()["paths"]
        for path in ("/api/opportunities", "/api/opportunities/export"):
            known = {one["name"]: one for one in described[path]["get"]["parameters"]}
            assert not {"region", "min_value", "max_value"} & known.keys()
            assert {"geo", "closing_after"} <= known.keys()
            keys = known["sort"]["schema"]["anyOf"][0]["pattern"].strip("^-?()$").split("|")
            assert set(SortKey) - set(keys) == {"region", "close_date"}


def test_lists_know_the_built_in_fields_and_no_others() -> None:
    assert set(Opportunity.model_fields) == {*BUILT_IN, *OTHER_COLUMNS} - {
        "crm_rate",
        "crm_rate_currency",
        "relevance",
        "search_text",
        "unknown_status_code",
        "workflow_status_before_close",
    }
    assert {*SortKey} <= {*BUILT_IN, *OTHER_COLUMNS}
    assert {field.name for field in BUILT_IN.values() if field.sort} <= {*SortKey}
    assert {field.name for field in BUILT_IN.values() if field.filter} == {*BUILT_IN_PARAMETERS}
    assert {*Column} == {*BUILT_IN} - {"name"} | {
        "workflow_status",
        "assigned_to",
        "last_synced_at",
    }
    of_fields = {name for names in BUILT_IN_PARAMETERS.values() for name in names}
    assert of_fields <= {*Filters.model_fields} <= {*OTHER_PARAMETERS, *OTHER_COLUMNS}
    assert of_fields == {*Filters.model_fields} - {
        "id",
        "search",
        "workflow_status",
        "crm_outcome",
        "assigned_to",
        "taking_part",
        "waiting_for",
        "include_deleted",
        "late",
        "missing",
        "outliers",
    }
