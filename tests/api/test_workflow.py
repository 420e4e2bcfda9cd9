"""Moves in the workflow and assignment, also against a merge at the same moment."""

import threading

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.auth import Role
from api.workflow import DOORS, FROM_CRM, MOVES
from tests.api.conftest import Caller, declare

PATH = "/api/opportunities/1"


@pytest.fixture
def deal(caller: Caller) -> Caller:
    """A caller where the deal 1 is NEW."""
    put(caller, "NEW")
    return caller


def put(caller: Caller, status: str, outcome: str | None = "OPEN") -> None:
    """Make the deal 1, in a status."""
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into opportunities"
            " (id, remote_id, workflow_status, crm_outcome)"
            " values (1, '1', %s, %s) on conflict (id) do update set"
            " workflow_status = excluded.workflow_status,"
            " crm_outcome = excluded.crm_outcome",
            [status, outcome],
        )


def move(caller: Caller, status: object) -> int:
    return int(caller.patch(PATH, json={"workflow_status": status}).status_code)


def status(caller: Caller) -> str:
    return str(caller.get(PATH).json()["workflow_status"])


def test_the_way_of_a_deal_without_assessments(deal: Caller) -> None:
    declare(deal, decisions={"require_assessment": False})
    for state in (
        "ASSIGNED",
        "UNDER_ASSESSMENT",
        "PENDING_REVIEW",
        "UNDER_ASSESSMENT",
        "PENDING_REVIEW",
        "APPROVED",
    ):
        answer = deal.patch(PATH, json={"workflow_status": state})
        assert answer.status_code == 200
        assert answer.json() == deal.get(PATH).json()
        assert status(deal) == state


@pytest.mark.parametrize("before", MOVES)
@pytest.mark.parametrize("role", [Role.ASSESSOR, Role.MANAGER])
@pytest.mark.parametrize("assessed", [True, False])
def test_every_move_by_every_role(deal: Caller, before: str, role: Role, assessed: bool) -> None:
    declare(deal, decisions={"require_assessment": assessed})
    deal.be(role)
    declared = deal.get("/api/workflow").json()
    allowed = {
        move["after"]
        for move in declared["moves"]
        if move["before"] == before and role.includes(Role(move["role"]))
    }
    for after in [*declared["states"], *declared["from_crm"], "NONSENSE"]:
        put(deal, before)
        answer = deal.patch(PATH, json={"workflow_status": after})
        if after in allowed | {before}:
            assert answer.status_code == 200
            assert status(deal) == after
        else:
            assert answer.status_code in (403, 409)
            if assessed and after in DOORS:
                assert DOORS[after] in answer.json()["detail"]
            assert set(answer.json()["allowed"]) == allowed
            # In people's words, not in those of programs.
            assert "_" not in answer.json()["detail"]
            assert status(deal) == before


def test_only_an_assessment_leads_to_a_decision(deal: Caller) -> None:
    assert not set(DOORS) & {move["after"] for move in deal.get("/api/workflow").json()["moves"]}
    # What an earlier release let through stays, and has a way out.
    for state in DOORS:
        put(deal, state)
        assert move(deal, "UNDER_ASSESSMENT") == 200
    put(deal, "On hold")
    assert move(deal, "APPROVED") == 409


def test_labels_and_limits_of_states(deal: Caller) -> None:
    declare(deal, decisions={"states": {"NEW": {"label": "Inbox", "days": 5}, "LOST": None}})
    answer = deal.get("/api/workflow").json()
    assert (answer["labels"]["NEW"], answer["labels"]["ASSIGNED"]) == ("Inbox", "Assigned")
    assert answer["days"] == {"NEW": 5}
    pages = ("/board", "/opportunities", "/opportunities/1")
    for page in pages:
        assert "Inbox" in deal.get(page).text
        assert "Late" not in deal.get(page).text
    with psycopg.connect(deal.database) as connection:
        connection.execute("update opportunities set first_synced_at = now() - interval '6 days'")
    for page in pages:
        assert "Late" in deal.get(page).text
    assert move(deal, "ASSIGNED") == 200
    assert move(deal, "NEW") == 200
    assert "Late" not in deal.get("/board").text


def test_a_viewer_moves_nothing(deal: Caller) -> None:
    assert move(deal.be(Role.VIEWER), "ASSIGNED") == 403


@pytest.mark.parametrize("outcome", FROM_CRM)
def test_a_deal_that_the_crm_closed_is_left_alone(deal: Caller, outcome: str) -> None:
    put(deal, "ASSIGNED", outcome)
    for change in ({"workflow_status": "ASSIGNED"}, {"assigned_to": 1}):
        answer = deal.patch(PATH, json=change)
        assert answer.status_code == 409
        assert f"closed this deal ({outcome})" in answer.json()["detail"]


@pytest.mark.parametrize("outcome", ["OPEN", None])
def test_a_deal_is_open_as_long_as_nobody_knows_that_it_is_closed(
    deal: Caller, outcome: str | None
) -> None:
    put(deal, "NEW", outcome)
    assert move(deal, "ASSIGNED") == 200
    assert deal.get(PATH).json()["crm_outcome"] == outcome


def test_a_foreign_status_can_be_put_right(deal: Caller) -> None:
    put(deal, "On hold")
    assert move(deal.be(Role.ASSESSOR), "NEW") == 403
    assert move(deal.be(Role.MANAGER), "ASSIGNED") == 200


@pytest.mark.parametrize(
    "body", [{}, {"workflow_status": None}, {"stage": "x"}, {"assigned_to": 0}]
)
def test_changes_that_make_no_sense(deal: Caller, body: dict[str, object]) -> None:
    assert deal.patch(PATH, json=body).status_code == 422
    assert deal.patch("/api/opportunities/2", json={"workflow_status": "NEW"}).status_code == 404


def test_assignment(deal: Caller) -> None:
    users = [
        deal.post("/api/users", json={"name": name, "role": "assessor"}).json()["id"]
        for name in ("ada", "bob")
    ]
    change = {"assigned_to": users[0], "workflow_status": "ASSIGNED"}
    assert deal.patch(PATH, json=change).json()["assigned_to"] == users[0]
    mine = deal.get("/api/opportunities", params={"assigned_to": users[0]}).json()
    assert mine["total"] == 1
    assert deal.patch(PATH, json={"assigned_to": 12345}).status_code == 422
    deal.be(Role.ASSESSOR)
    me = deal.get("/api/session").json()["id"]
    for assignee in (users[1], me, None):
        assert deal.patch(PATH, json={"assigned_to": assignee}).status_code == 403
    assert deal.be(Role.MANAGER).patch(PATH, json={"assigned_to": None}).status_code == 200
    deal.be(Role.ASSESSOR)
    for assignee in (me, None):
        assert deal.patch(PATH, json={"assigned_to": assignee}).status_code == 200


def test_people_work_on_a_deal_in_parts(deal: Caller) -> None:
    declare(deal, decisions={"parts": {"architect": "Architect", "sales": "Sales"}})
    path = f"{PATH}/parts"
    ada = deal.post("/api/users", json={"name": "ada", "role": "assessor"}).json()["id"]
    given = deal.patch(path, json={"part": "architect", "user_id": ada})
    assert given.status_code == 200
    assert given.json() == deal.get(path).json()
    assert [(one["label"], one["user_id"]) for one in given.json()] == [
        ("Architect", ada),
        ("Sales", None),
    ]
    assert deal.get("/api/opportunities", params={"taking_part": ada}).json()["total"] == 1
    (change, *_) = deal.get(f"{PATH}/history").json()
    assert (change["field"], change["old_value"], change["new_value"]) == (
        "part architect",
        None,
        "ada",
    )
    for wrong in ({"part": "cook", "user_id": ada}, {"part": "sales", "user_id": 12345}):
        assert deal.patch(path, json=wrong).status_code == 422
    deal.be(Role.ASSESSOR)
    me = deal.get("/api/session").json()["id"]
    assert deal.patch(path, json={"part": "sales", "user_id": me}).status_code == 200
    assert deal.patch(path, json={"part": "architect", "user_id": me}).status_code == 403
    page = deal.get("/opportunities/1").text
    assert "Architect" in page
    form = {"part": "sales", "assigned_to": ""}
    assert deal.post("/opportunities/1/part", data=form).status_code == 200
    assert deal.get("/api/opportunities", params={"taking_part": me}).json()["total"] == 0
    assert deal.get("/api/opportunities/2/parts").status_code == 404
    put(deal, "NEW", "LOST")
    assert deal.patch(path, json={"part": "sales", "user_id": me}).status_code == 409


def test_the_history_says_who(deal: Caller) -> None:
    user_id = deal.post("/api/users", json={"name": "ada", "role": "assessor"}).json()["id"]
    deal.patch(PATH, json={"workflow_status": "ASSIGNED", "assigned_to": user_id})
    with psycopg.connect(deal.database) as connection:
        connection.execute("update opportunities set stage = '02 - Discovery'")
        connection.execute("update opportunities set crm_outcome = 'LOST'")
    history = deal.get(f"{PATH}/history").json()
    assert [
        (change["field"], change["old_value"], change["new_value"], change["changed_by"])
        for change in history
    ] == [
        ("crm_outcome", "OPEN", "LOST", None),
        ("stage", None, "02 - Discovery", None),
        ("assigned_to", None, "ada", "service-admin"),
        ("workflow_status", "NEW", "ASSIGNED", "service-admin"),
    ]
    older = deal.get(f"{PATH}/history", params={"before": history[0]["id"], "limit": 1}).json()
    assert older == history[1:2]
    assert deal.get("/api/opportunities/2/history").status_code == 404


def test_a_stale_edit_is_refused_where_the_client_asks_for_that(deal: Caller) -> None:
    etag = deal.get(PATH).headers["etag"]
    change = {"workflow_status": "ASSIGNED"}
    first = deal.patch(PATH, json=change, headers={"If-Match": etag})
    assert first.status_code == 200
    assert deal.patch(PATH, json=change, headers={"If-Match": etag}).status_code == 412
    etag = first.headers["etag"]
    assert deal.patch(PATH, json=change, headers={"If-Match": etag}).status_code == 200


def test_a_change_is_never_answered_as_if_nothing_had_changed(deal: Caller) -> None:
    for state in ("ASSIGNED", "NEW", "NEW"):
        known = {"If-None-Match": "*" if state == "ASSIGNED" else deal.get(PATH).headers["etag"]}
        answer = deal.patch(PATH, json={"workflow_status": state}, headers=known)
        assert answer.status_code == 200, answer.text
        assert answer.json()["workflow_status"] == state == status(deal)
        assert answer.headers["etag"] == deal.get(PATH).headers["etag"]
    assert deal.get(PATH, headers={"If-None-Match": "*"}).status_code == 304


def test_an_edit_during_a_merge_waits_for_it_and_sees_what_it_made(deal: Caller) -> None:
    answers: list[int] = []
    with psycopg.connect(deal.database) as merge:
        merge.execute("update opportunities set workflow_status = 'WON', crm_outcome = 'WON'")
        edit = threading.Thread(target=lambda: answers.append(move(deal, "ASSIGNED")))
        edit.start()
        with psycopg.connect(deal.database, autocommit=True) as watch:
            waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            while (watch.execute(waiting).fetchone() or [0])[0] == 0:
                pass
    edit.join()
    assert answers == [409]
    assert status(deal) == "WON"


def test_an_edit_that_waits_too_long_is_told_to_come_back(deal: Caller) -> None:
    with psycopg.connect(deal.database) as merge:
        merge.execute("update opportunities set name = 'x'")
        answer = deal.patch(PATH, json={"workflow_status": "ASSIGNED"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert status(deal) == "NEW"


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(wanted=st.lists(st.sampled_from([*MOVES, *FROM_CRM]), max_size=12))
def test_no_series_of_requests_leads_where_the_workflow_does_not(
    deal: Caller, wanted: list[str]
) -> None:
    declare(deal, decisions={"require_assessment": False})
    put(deal, "NEW")
    state = "NEW"
    for after in wanted:
        if move(deal, after) == 200:
            assert after == state or after in MOVES[state]
            state = after
        assert status(deal) == state
