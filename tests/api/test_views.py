"""Saved views: whose they are, who has them, and what becomes of them when crm.yml changes."""

from dataclasses import replace

import psycopg
import pytest

from api.auth import Role
from api.opportunities.views import MOST
from declared.fields import BUILT_IN, Field, store_fields
from tests.api.conftest import Caller, calling, fill

VIEW = {
    "name": "Our region",
    "page": "list",
    "query": "geo=EMEA&sort=-deal_value",
    "is_shared": True,
}
BUDGET = Field("budget", "Budget_c", "Budget", "number", None, True, True, "list")


def test_a_view_is_its_makers_until_it_is_shared(caller: Caller) -> None:
    own = caller.be(Role.VIEWER).post("/api/views", json=VIEW | {"is_shared": False})
    assert own.status_code == 201, own.text
    assert {"name": "Our region", "is_shared": False}.items() <= own.json().items()
    path = f"/api/views/{own.json()['id']}"
    assert caller.be(Role.MANAGER).get("/api/views").json() == []
    assert caller.delete(path).status_code == 404
    again = caller.be(Role.VIEWER).post("/api/views", json=VIEW | {"query": "geo=APAC"})
    assert again.json()["id"] == own.json()["id"]
    caller.be(Role.ASSESSOR)
    (seen,) = caller.get("/api/views").json()
    assert (seen["query"], seen["is_shared"], seen["closed"]) == ("geo=APAC", True, [])
    assert caller.get("/api/views", params={"page": "board"}).json() == []
    assert caller.delete(path).status_code == 403
    assert caller.be(Role.MANAGER).delete(path).status_code == 204
    assert caller.get("/api/views").json() == []
    trail = caller.be(Role.ADMIN).get("/api/audit", params={"subject": "view"}).json()
    assert [entry["action"] for entry in trail] == ["delete", "update", "create"]
    assert trail[1]["before"]["query"] == VIEW["query"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"query": "min_value=much"}, "body.query: min_value"),
        ({"query": "nothing=1"}, "body.query: nothing"),
        ({"query": "sort=nothing"}, "lists have no sort"),
        ({"query": "&".join(f"geo={number}" for number in range(501))}, "too many"),
        ({"name": " "}, "body.name"),
        ({"page": "dashboard"}, "body.page"),
    ],
)
def test_what_no_list_can_show_is_not_saved(
    caller: Caller, wrong: dict[str, str], words: str
) -> None:
    answer = caller.post("/api/views", json=VIEW | wrong)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_nobody_has_more_views_than_can_be_shown(caller: Caller) -> None:
    caller.get("/api/views")  # the caller is a user by now
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into saved_views (page, name, query, created_by)"
            " select 'list', 'View ' || number, '', min(users.id)"
            " from users, generate_series(1, %s) as number where name = 'service-admin'"
            " group by number",
            [MOST],
        )
    answer = caller.post("/api/views", json=VIEW)
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        f"You have {MOST} views: delete one first.",
    )


def test_a_view_whose_filter_is_closed_later_says_so(database: str, settings: object) -> None:
    fill(database, 30)
    query = "practice=Cloud&min_budget=1&geo=EMEA&sort=budget&missing=currency"
    with psycopg.connect(database) as connection:
        store_fields(connection, (*BUILT_IN.values(), BUDGET))
    with calling(database, settings) as caller:  # type: ignore[arg-type]
        assert caller.post("/api/views", json=VIEW | {"query": query}).status_code == 201
        page = caller.get(f"/opportunities?{query}")
        assert "do not have any more" not in page.text
    closed = ("practice", "currency")
    fields = [replace(field, filter=field.name not in closed) for field in BUILT_IN.values()]
    with psycopg.connect(database) as connection:
        store_fields(connection, tuple(fields))
    with calling(database, settings) as caller:  # type: ignore[arg-type]
        (view,) = caller.get("/api/views").json()
        assert sorted(view["closed"]) == ["min_budget", "practice", "sort"]
        for path in ("/opportunities", "/board"):
            page = caller.get(f"{path}?{query}")
            assert page.status_code == 200
            assert "do not have any more" in page.text
            for words in ("Practice", "Currency", "min_budget", "the order"):
                assert words in page.text.split("do not have any more")[1][:200]
            assert "Remove the filter Geo: EMEA" in page.text
            assert "Remove the filter Practice" not in page.text
        assert "no longer: Practice" in caller.get("/opportunities").text
