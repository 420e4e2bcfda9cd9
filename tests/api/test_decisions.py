"""Who decides: functions of people, their votes on a submitted assessment, and four eyes."""

import subprocess
import sys
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.auth import ISSUE, Role, new_token
from database.environment import ROOT
from declared.assessment import SEVEN
from declared.file import declare_file
from tests.api.conftest import Caller, declare, fill, seen

COMPLETE = {
    "scores": {key: {"score": 4, "comment": ""} for key in SEVEN},
    "summary": "",
    "recommendation": "BID",
}
FUNCTIONS = {
    "practice_head": {"label": "Practice head", "by": "practice"},
    "sales_head": {"label": "Sales head", "by": "geo"},
    "management": "Management",
}
THREE = {"functions": FUNCTIONS, "approvals": list(FUNCTIONS)}


class Desk:
    """People with functions, who assess and vote on the deal 1: Data, APAC."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.tokens: dict[str, str] = {}
        self.ids: dict[str, int] = {}

    def hire(self, name: str, role: Role = Role.VIEWER, *functions: tuple[str, str | None]) -> None:
        """Make a person; later calls change the functions."""
        if name not in self.ids:
            with psycopg.connect(self.caller.database) as connection:
                (self.ids[name],) = connection.execute(
                    "insert into users (name, role) values (%s, %s) returning id", [name, role]
                ).fetchone() or (0,)
                token, values = new_token(self.ids[name], "session", "test", timedelta(hours=1))
                connection.execute(ISSUE, values)
            self.tokens[name] = token
        held = [{"function": function, "value": value} for function, value in functions]
        path = f"/api/users/{self.ids[name]}/functions"
        answer = self.caller.put(path, json=held)
        assert answer.status_code == 200, answer.text

    def ask(self, name: str, method: str, path: str, **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.tokens[name]}"} | given.pop("headers", {})
        return self.caller.request(method, path, headers=headers, **given)

    def begin(self, name: str = "ada") -> int:
        begun = self.ask(name, "POST", "/api/assessments", json={"opportunity_id": 1})
        assert begun.status_code == 201, begun.text
        return int(begun.json()["id"])

    def submit(self, id_: int, name: str = "ada") -> dict[str, Any]:
        path = f"/api/assessments/{id_}"
        match = {"If-Match": "*"}
        written = self.ask(name, "PUT", path, json=COMPLETE, headers=match)
        assert written.status_code == 200, written.text
        submitted = self.ask(name, "POST", f"{path}/submit", headers=match)
        assert submitted.status_code == 200, submitted.text
        answer: dict[str, Any] = submitted.json()
        return answer

    def decide(
        self, name: str, id_: int, decision: str = "APPROVED", function: str | None = None
    ) -> httpx.Response:
        vote = {"decision": decision, "comment": f"says {name}", "function": function}
        return self.ask(
            name, "POST", f"/api/assessments/{id_}/decision", json=vote, headers={"If-Match": "*"}
        )

    def get(self, id_: int) -> dict[str, Any]:
        answer: dict[str, Any] = self.caller.get(f"/api/assessments/{id_}").json()
        return answer

    def status(self) -> str:
        return str(self.caller.get("/api/opportunities/1").json()["workflow_status"])

    def waiting_for(self, name: str) -> list[int]:
        asked = {"waiting_for": "me"}
        listed = self.ask(name, "GET", "/api/assessments", params=asked).json()
        deals = self.ask(name, "GET", "/api/opportunities", params=asked).json()
        assert deals["total"] == len({one["opportunity_id"] for one in listed})
        return [one["id"] for one in listed]


@pytest.fixture
def desk(caller: Caller) -> Desk:
    """Ada assesses; the heads of the practice Data, of APAC and of the company vote."""
    fill(caller.database, 1)
    declare(caller, decisions=THREE)
    desk = Desk(caller)
    desk.hire("ada", Role.ASSESSOR)
    desk.hire("dora", Role.VIEWER, ("practice_head", "data"))
    desk.hire("carl", Role.VIEWER, ("practice_head", "Cloud"))
    desk.hire("sam", Role.ASSESSOR, ("sales_head", "APAC"))
    desk.hire("mona", Role.VIEWER, ("management", None))
    desk.hire("max", Role.MANAGER)
    return desk


def test_all_approve(desk: Desk) -> None:
    id_ = desk.submit(desk.begin())["id"]
    assert [desk.waiting_for(name) for name in ("dora", "sam", "mona")] == [[id_]] * 3
    assert [desk.waiting_for(name) for name in ("ada", "carl", "max")] == [[]] * 3
    for name in ("mona", "dora"):
        assert desk.decide(name, id_).json()["status"] == "SUBMITTED"
        assert desk.waiting_for(name) == []
    assert desk.status() == "PENDING_REVIEW"
    decided = desk.decide("sam", id_).json()
    assert (decided["status"], desk.status()) == ("APPROVED", "APPROVED")
    assert [
        (one["label"], one["value"], one["decision"], one["comment"], one["user_id"])
        for one in decided["approvals"]
    ] == [
        ("Practice head", "Data", "APPROVED", "says dora", desk.ids["dora"]),
        ("Sales head", "APAC", "APPROVED", "says sam", desk.ids["sam"]),
        ("Management", None, "APPROVED", "says mona", desk.ids["mona"]),
    ]
    audit = desk.caller.get("/api/audit", params={"subject": "assessment"}).json()
    assert [(entry["user_name"], entry["action"]) for entry in audit[:3]] == [
        ("sam", "decide"),
        ("dora", "vote"),
        ("mona", "vote"),
    ]


def test_one_rejects(desk: Desk) -> None:
    id_ = desk.submit(desk.begin())["id"]
    desk.decide("mona", id_)
    assert desk.decide("dora", id_, "REJECTED").json()["status"] == "REJECTED"
    assert desk.status() == "REJECTED"
    assert desk.decide("sam", id_).status_code == 409


def test_nobody_votes_for_others(desk: Desk) -> None:
    id_ = desk.submit(desk.begin())["id"]
    for name in ("ada", "carl", "max"):
        refused = desk.decide(name, id_)
        assert refused.status_code == 403, name
    assert "Practice head (Data), Sales head (APAC), Management" in refused.json()["detail"]
    desk.hire("dan", Role.VIEWER, ("practice_head", None))
    assert desk.decide("dora", id_).status_code == 200
    # Two who have a function have one vote.
    again = desk.decide("dan", id_, function="practice_head")
    assert (again.status_code, again.json()["detail"]) == (
        409,
        "Practice head has voted already: APPROVED.",
    )
    assert desk.decide("sam", id_, function="management").status_code == 403
    assert desk.decide("sam", id_, function="legal").status_code == 422


def test_who_has_two_functions_has_two_votes(desk: Desk) -> None:
    desk.hire("sam", Role.ASSESSOR, ("sales_head", "APAC"), ("management", None))
    id_ = desk.submit(desk.begin())["id"]
    unclear = desk.decide("sam", id_)
    assert unclear.status_code == 422
    assert "sales_head, management" in unclear.json()["detail"]
    assert desk.decide("sam", id_, function="management").status_code == 200
    assert desk.decide("sam", id_).json()["approvals"][1]["decision"] == "APPROVED"
    assert desk.decide("dora", id_).json()["status"] == "APPROVED"


def test_who_submits_does_not_decide(desk: Desk) -> None:
    declare(desk.caller, decisions={})
    desk.hire("mia", Role.MANAGER)
    id_ = desk.submit(desk.begin("max"), "max")["id"]
    refused = desk.decide("max", id_)
    assert (refused.status_code, refused.json()["detail"]) == (
        403,
        "You submitted this assessment: somebody else decides.",
    )
    assert (desk.waiting_for("max"), desk.waiting_for("mia")) == ([], [id_])
    assert desk.decide("mia", id_).json()["status"] == "APPROVED"


def test_four_eyes_can_be_switched_off(desk: Desk) -> None:
    declare(desk.caller, decisions={"four_eyes": False})
    id_ = desk.submit(desk.begin("max"), "max")["id"]
    assert desk.waiting_for("max") == [id_]
    assert desk.decide("max", id_).json()["status"] == "APPROVED"


def test_a_round_keeps_the_approvals_that_it_began_with(desk: Desk) -> None:
    id_ = desk.submit(desk.begin())["id"]
    desk.decide("dora", id_)
    declare(desk.caller, decisions={"functions": FUNCTIONS, "approvals": ["management"]})
    with psycopg.connect(desk.caller.database) as connection:
        connection.execute("update opportunities set geo = 'EMEA'")
    assert desk.decide("mona", id_).json()["status"] == "SUBMITTED"
    assert desk.decide("sam", id_).json()["status"] == "APPROVED"


def test_returned_it_begins_a_new_round(desk: Desk) -> None:
    old = desk.submit(desk.begin())["id"]
    desk.decide("dora", old)
    assert desk.decide("carl", old, "RETURNED").status_code == 403
    assert desk.decide("sam", old, "RETURNED").json()["status"] == "RETURNED"
    assert desk.status() == "UNDER_ASSESSMENT"
    (draft, _) = desk.caller.get("/api/assessments", params={"opportunity_id": 1}).json()
    new = desk.submit(draft["id"])["id"]
    assert [one["decision"] for one in desk.get(old)["approvals"]] == ["APPROVED", None, None]
    assert [one["decision"] for one in desk.get(new)["approvals"]] == [None] * 3
    assert desk.waiting_for("dora") == [new]


def test_a_submitted_deal_goes_back_by_returning_it(desk: Desk) -> None:
    id_ = desk.submit(desk.begin())["id"]
    change = {"workflow_status": "UNDER_ASSESSMENT"}
    refused = desk.ask("max", "PATCH", "/api/opportunities/1", json=change)
    assert (refused.status_code, refused.json()["assessment_id"]) == (409, id_)
    assert desk.decide("max", id_, "RETURNED").status_code == 200


def test_a_decision_can_be_taken_up_again(desk: Desk) -> None:
    declare(desk.caller, decisions={})
    old = desk.submit(desk.begin())["id"]
    assert desk.decide("max", old).json()["status"] == "APPROVED"
    refused = desk.ask("ada", "POST", "/api/assessments", json={"opportunity_id": 1})
    assert refused.status_code == 403
    assert desk.get(desk.begin("max"))["version"] == 2
    assert desk.get(old)["status"] == "APPROVED"


def test_a_function_without_a_holder_is_named(desk: Desk) -> None:
    desk.hire("sam")
    id_ = desk.submit(desk.begin())["id"]
    waits = [len(one["waits_for"]) for one in desk.get(id_)["approvals"]]
    assert waits == [1, 0, 1]
    page = desk.ask("max", "GET", "/opportunities/1").text
    assert "Nobody else is Sales head for APAC" in " ".join(page.split())
    # An admin gives it to somebody, who votes then.
    desk.hire("sam", Role.VIEWER, ("sales_head", None))
    assert desk.waiting_for("sam") == [id_]


def test_an_own_field_routes_too(desk: Desk) -> None:
    functions = {"partner_lead": {"label": "Partner lead", "by": "deal_source"}}
    declare(desk.caller, decisions={"functions": functions, "approvals": ["partner_lead"]})
    with psycopg.connect(desk.caller.database) as connection:
        connection.execute("""update opportunities set custom = '{"deal_source": "Partner"}'""")
    desk.hire("dora", Role.VIEWER, ("partner_lead", "partner"))
    desk.hire("carl", Role.VIEWER, ("partner_lead", "web"))
    id_ = desk.submit(desk.begin())["id"]
    assert (desk.waiting_for("carl"), desk.waiting_for("dora")) == ([], [id_])
    page = desk.caller.get(f"/admin/users/{desk.ids['carl']}/tokens").text
    assert '<option value="Partner">' in page


def test_functions_are_declared(desk: Desk) -> None:
    path = f"/api/users/{desk.ids['dora']}/functions"
    for held in ({"function": "legal"}, {"function": "management", "value": "Cloud"}):
        assert desk.caller.put(path, json=[held]).status_code == 422
    both = [
        {"function": "management", "value": None},
        {"function": "practice_head", "value": "Cloud"},
    ]
    assert desk.caller.put(path, json=both).json() == both
    assert desk.ask("dora", "GET", path).json() == both
    entry = desk.caller.get("/api/audit", params={"subject": "user"}).json()[0]
    assert entry["before"] == {"functions": ["practice_head: data"]}
    assert entry["after"] == {"functions": ["management", "practice_head: Cloud"]}
    # What is no longer declared stays with those who have it.
    declare(desk.caller, decisions={"functions": {"management": "Management"}})
    assert desk.caller.put(path, json=both[1:]).json() == both[1:]


def test_the_example_makes_its_people(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_FILE", "examples/bid-desk/crm.yml")
    declare_file(caller.database)
    _, _, token = caller.headers["Authorization"].partition(" ")
    for count in (9, 0):  # a second call makes nobody twice
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / "bid-desk" / "people.py"],
            env={"API_URL": str(caller.base_url), "TOKEN": token},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == count + 1
    people = {user["name"]: user["id"] for user in caller.get("/api/users").json()}
    assert caller.get(f"/api/users/{people['carla']}/functions").json() == [
        {"function": "practice_head", "value": "Cloud"}
    ]


def test_functions_in_the_console(desk: Desk) -> None:
    path = f"/admin/users/{desk.ids['dora']}"
    both = {"function": ["management", "practice_head", ""], "value": ["", "Cloud", "x"]}
    page = desk.caller.get(f"{path}/tokens").text
    form = both | {"seen": [seen(page, f"{path}/functions")]}
    assert desk.caller.post(f"{path}/functions", data=form).status_code == 200
    page = desk.caller.get(f"{path}/tokens").text
    assert 'value="Cloud"' in page
    held = f"/api/users/{desk.ids['dora']}/functions"
    assert len(desk.caller.get(held).json()) == 2


def test_an_old_page_gives_no_functions_again(desk: Desk) -> None:
    path, held = (f"{root}/users/{desk.ids['dora']}" for root in ("/admin", "/api"))
    page = desk.caller.get(f"{path}/tokens").text
    form = {"function": "practice_head", "value": "data", "seen": seen(page, f"{path}/functions")}
    assert desk.caller.put(f"{held}/functions", json=[]).status_code == 200
    headers = {"HX-Request": "true"}
    answer = desk.caller.post(f"{path}/functions", data=form, headers=headers)
    assert answer.status_code == 409, answer.text
    words = "It has been changed meanwhile: there is no function. Reload the page."
    assert answer.json()["detail"] == words
    assert desk.caller.get(f"{held}/functions").json() == []


ACTS = st.tuples(
    st.sampled_from(["ada", "dora", "sam", "mona", "max"]),
    st.sampled_from(["APPROVED"] * 4 + ["REJECTED", "RETURNED", "SUBMIT", "DECLARE"]),
)
HOLDERS = {"practice_head": "dora", "sales_head": "sam", "management": "mona"}


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    declared=st.lists(
        st.lists(st.sampled_from(list(FUNCTIONS)), unique=True), min_size=2, max_size=2
    ),
    four_eyes=st.booleans(),
    acts=st.lists(ACTS, min_size=4, max_size=12),
)
def test_it_is_approved_when_all_have_approved_and_not_before(
    desk: Desk, declared: list[list[str]], four_eyes: bool, acts: list[tuple[str, str]]
) -> None:
    with psycopg.connect(desk.caller.database) as connection:
        connection.execute("truncate assessments cascade")
        connection.execute("update opportunities set workflow_status = 'NEW'")

    def declare_other() -> None:
        declared.reverse()
        rules = {"functions": FUNCTIONS, "approvals": declared[0], "four_eyes": four_eyes}
        declare(desk.caller, decisions=rules)

    declare_other()
    id_ = desk.begin()
    submitter: str | None = None
    needed: list[str] = []
    votes: dict[str, str] = {}
    final: str | None = None
    for name, act in acts:
        if act == "DECLARE":
            declare_other()
        elif act == "SUBMIT":
            path = f"/api/assessments/{id_}"
            desk.ask(name, "PUT", path, json=COMPLETE, headers={"If-Match": "*"})
            done = desk.ask(name, "POST", f"{path}/submit", headers={"If-Match": "*"})
            if done.status_code == 200:
                submitter, needed, votes = name, list(declared[0]), {}
        elif act == "RETURNED":
            if desk.decide(name, id_, act).status_code == 200:
                assert submitter is not None
                assert final is None
                id_ = desk.caller.get("/api/assessments").json()[0]["id"]
                submitter = None
        else:
            waited = id_ in desk.waiting_for(name)
            assert (desk.decide(name, id_, act).status_code == 200) == waited
            if waited:
                assert submitter is not None
                assert final is None
                assert not four_eyes or name != submitter
                mine = [one for one in needed if HOLDERS[one] == name] if needed else [name]
                assert needed or name == "max"
                assert not votes.keys() & set(mine)
                votes |= dict.fromkeys(mine, act)
                if act == "REJECTED" or len(votes) == max(1, len(needed)):
                    final = act
        status = desk.status()
        assert (status == "APPROVED") == (final == "APPROVED")
        assert (status == "REJECTED") == (final == "REJECTED")
