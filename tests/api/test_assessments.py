"""Assessments, from the first draft to the decision."""

import html
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.auth import Role
from declared.assessment import SEVEN, Assessment
from tests.api.conftest import Caller, DefaultSettings, declare, fill

COMPLETE = {
    "scores": {key: {"score": 4, "comment": f"why {key}"} for key in SEVEN},
    "summary": "A good one",
    "recommendation": "BID",
}


@pytest.fixture
def desk(caller: Caller) -> Caller:
    """An assessor with five deals: 3 is NEW, 1 and 4 are ASSIGNED, 2 and 5 UNDER_ASSESSMENT."""
    fill(caller.database, 5)
    return caller.be(Role.ASSESSOR)


def begin(desk: Caller, deal: int = 1) -> tuple[str, dict[str, str]]:
    """Begin an assessment and return its path and the header to change it with."""
    answer = desk.post("/api/assessments", json={"opportunity_id": deal})
    assert answer.status_code == 201, answer.text
    path = f"/api/assessments/{answer.json()['id']}"
    return path, {"If-Match": answer.headers["etag"]}


def submit(desk: Caller, deal: int = 1) -> tuple[str, dict[str, str]]:
    path, match = begin(desk, deal)
    written = desk.put(path, json=COMPLETE, headers=match)
    submitted = desk.post(f"{path}/submit", headers={"If-Match": written.headers["etag"]})
    assert submitted.status_code == 200, submitted.text
    return path, {"If-Match": submitted.headers["etag"]}


def status(desk: Caller, deal: int = 1) -> str:
    return str(desk.get(f"/api/opportunities/{deal}").json()["workflow_status"])


def test_from_draft_to_bid(desk: Caller) -> None:
    path, match = begin(desk)
    assert status(desk) == "UNDER_ASSESSMENT"
    written = desk.put(path, json=COMPLETE, headers=match)
    assert written.json()["weighted_score"] == 80
    assert written.json() == desk.get(path).json()
    assert written.headers["etag"] == desk.get(path).headers["etag"]
    match = {"If-Match": written.headers["etag"]}
    submitted = desk.post(f"{path}/submit", headers=match)
    assert submitted.json()["status"] == "SUBMITTED"
    assert status(desk) == "PENDING_REVIEW"
    match = {"If-Match": submitted.headers["etag"]}
    decision = {"decision": "APPROVED", "comment": "Go"}
    assert desk.post(f"{path}/decision", json=decision, headers=match).status_code == 403
    desk.be(Role.MANAGER)
    decided = desk.post(f"{path}/decision", json=decision, headers=match).json()
    assert (decided["status"], decided["decision_comment"]) == ("APPROVED", "Go")
    assert status(desk) == "APPROVED"


def test_one_that_is_returned_comes_back_as_a_new_draft(desk: Caller) -> None:
    path, match = submit(desk)
    desk.be(Role.MANAGER)
    returned = desk.post(f"{path}/decision", json={"decision": "RETURNED"}, headers=match)
    assert returned.json()["status"] == "RETURNED"
    assert status(desk) == "UNDER_ASSESSMENT"
    draft, old = desk.get("/api/assessments", params={"opportunity_id": 1}).json()
    assert (draft["version"], draft["status"]) == (2, "DRAFT")
    assert (old["version"], old["status"]) == (1, "RETURNED")
    assert draft["scores"] == old["scores"]


def test_a_new_deal_is_taken_by_who_assesses_it(desk: Caller) -> None:
    begin(desk, 3)
    deal = desk.get("/api/opportunities/3").json()
    assert deal["workflow_status"] == "UNDER_ASSESSMENT"
    assert deal["assigned_to"] == desk.get("/api/session").json()["id"]


def test_a_deal_has_one_open_assessment(desk: Caller) -> None:
    path, _ = begin(desk)
    again = desk.post("/api/assessments", json={"opportunity_id": 1})
    assert again.status_code == 409
    assert again.json()["assessment_id"] == desk.get(path).json()["id"]


def test_two_who_begin_at_once_get_one_assessment(desk: Caller) -> None:
    together = threading.Barrier(6)

    def post(_: int) -> int:
        together.wait()
        return int(desk.post("/api/assessments", json={"opportunity_id": 1}).status_code)

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(post, range(6))) == [201] + [409] * 5


def test_two_assessors_dont_overwrite_each_other(desk: Caller) -> None:
    path, match = begin(desk)
    assert desk.put(path, json=COMPLETE, headers=match).status_code == 200
    other = desk.put(path, json={"summary": "Other"}, headers=match)
    assert other.status_code == 412
    assert desk.get(path).json()["summary"] == "A good one"
    assert desk.put(path, json=COMPLETE).status_code == 428


# Nobody's wait may end before the test's: the default is to wait for ten seconds.
@pytest.mark.parametrize("settings", [DefaultSettings()])
def test_a_page_saves_only_what_it_shows(desk: Caller) -> None:
    path, match = begin(desk)
    deal = "/opportunities/1"
    # The page has to wait before it reads the assessment, and again after it has.
    before, after = (psycopg.connect(desk.database) for _ in range(2))
    with before, after, ThreadPoolExecutor(1) as thread:
        before.execute("lock table assessments")
        page = thread.submit(desk.get, deal)
        wait_for_one_behind(before)
        after.execute("lock table rejected_records, assessment_comments, opportunity_changes")
        before.rollback()
        wait_for_one_behind(after)
        other = desk.put(path, json={"summary": "From another"}, headers=match)
        assert other.status_code == 200, other.text
        after.rollback()
        shown = page.result().text
    assert "From another" not in shown
    (etag,) = re.findall('name="etag" value="([^"]+)"', shown)
    form = {"etag": html.unescape(etag), "summary": "From the page"}
    save = deal + path.removeprefix("/api")
    assert desk.post(save, data=form).status_code == 412
    assert desk.get(path).json()["summary"] == "From another"
    # What it shows after that, it may change.
    (etag,) = re.findall('name="etag" value="([^"]+)"', desk.get(deal).text)
    assert desk.post(save, data=form | {"etag": html.unescape(etag)}).status_code == 200
    assert desk.get(path).json()["summary"] == "From the page"


def wait_for_one_behind(connection: psycopg.Connection) -> None:
    """Wait until a session waits for a lock that a connection holds."""
    waits = """
        select exists (
            select from pg_locks where not granted and %s = any(pg_blocking_pids(pid))
        )
    """
    until = time.monotonic() + 8
    while connection.execute(waits, [connection.info.backend_pid]).fetchone() != (True,):
        assert time.monotonic() < until, "nobody waits"
        time.sleep(0.01)


def test_only_what_is_complete_is_submitted(desk: Caller) -> None:
    path, match = begin(desk)
    content = COMPLETE | {"scores": {"risk": {"score": 1}}, "recommendation": None}
    written = desk.put(path, json=content, headers=match)
    answer = desk.post(f"{path}/submit", headers={"If-Match": written.headers["etag"]})
    assert answer.status_code == 409
    assert set(answer.json()["missing"]) == SEVEN.keys() - {"risk"} | {"recommendation"}
    assert status(desk) == "UNDER_ASSESSMENT"


def test_what_is_submitted_stays_as_it_is(desk: Caller) -> None:
    path, match = submit(desk)
    assert desk.put(path, json=COMPLETE, headers=match).status_code == 409
    assert desk.post(f"{path}/submit", headers=match).status_code == 409


def test_what_the_crm_closes_is_assessed_no_more(desk: Caller) -> None:
    path, match = submit(desk)
    with psycopg.connect(desk.database) as connection:
        connection.execute(
            "update opportunities set workflow_status = 'LOST', crm_outcome = 'LOST'"
            " where id in (1, 3)"
        )
    desk.be(Role.MANAGER)
    decided = desk.post(f"{path}/decision", json={"decision": "APPROVED"}, headers=match)
    assert decided.status_code == 409
    assert "closed this deal (LOST)" in decided.json()["detail"]
    assert desk.post("/api/assessments", json={"opportunity_id": 3}).status_code == 409
    assert desk.get(path).json()["status"] == "SUBMITTED"


@pytest.mark.parametrize(
    "content",
    [
        {"scores": {"risk": {"score": 6}}},
        {"scores": {"risk": {"score": "3"}}},
        {"scores": {"luck": {"score": 3}}},
        {"recommendation": "MAYBE"},
        {"summary": "\0"},
    ],
)
def test_content_that_makes_no_sense(desk: Caller, content: dict[str, Any]) -> None:
    path, match = begin(desk)
    assert desk.put(path, json=content, headers=match).status_code == 422


def test_comments(desk: Caller) -> None:
    path, _ = submit(desk)
    made = desk.post(f"{path}/comments", json={"body": "Ask legal"})
    assert made.status_code == 201
    assert made.json()["author"] == "service-assessor"
    assert desk.get(f"{path}/comments").json() == [made.json()]
    assert desk.get("/api/assessments/99/comments").status_code == 404


def test_lists(desk: Caller) -> None:
    for deal in (1, 2, 3):
        begin(desk, deal)
    submit(desk, 4)
    listed = desk.get("/api/assessments").json()
    assert [item["opportunity_id"] for item in listed] == [4, 3, 2, 1]
    drafts = desk.get("/api/assessments", params={"status": "DRAFT", "limit": 2}).json()
    assert [item["opportunity_id"] for item in drafts] == [3, 2]
    wanted = {"status": "DRAFT", "before": drafts[-1]["id"]}
    (older,) = desk.get("/api/assessments", params=wanted).json()
    assert older["opportunity_id"] == 1


TWO = {
    "criteria": {
        "risk": {"title": "Risks", "weight": 1, "scale": 3},
        "fun": {"title": "Fun", "weight": 3, "mandatory": False, "guidance": "0: none"},
    },
    "suggest": {"bid": 60, "no_bid": 40},
}


def test_an_assessment_keeps_the_criteria_that_it_was_begun_with(desk: Caller) -> None:
    path, match = begin(desk)
    declare(desk, assessment=TWO)
    (fun,) = [one for one in desk.get("/api/assessment-criteria").json() if one["key"] == "fun"]
    assert (fun["weight"], fun["max_score"], fun["mandatory"]) == (3, 5, False)
    assert [one["key"] for one in desk.get(path).json()["criteria"]] == list(SEVEN)
    written = desk.put(path, json=COMPLETE, headers=match)
    assert written.json()["suggestion"] is None
    match = {"If-Match": written.headers["etag"]}
    submitted = desk.post(f"{path}/submit", headers=match)
    assert submitted.status_code == 200
    desk.be(Role.MANAGER)
    match = {"If-Match": submitted.headers["etag"]}
    desk.post(f"{path}/decision", json={"decision": "RETURNED"}, headers=match)
    # The next one has today's; the old score of the risk is above their scale.
    draft, old = desk.get("/api/assessments", params={"opportunity_id": 1}).json()
    assert ([one["key"] for one in draft["criteria"]], draft["scores"]) == (["risk", "fun"], {})
    assert ([one["key"] for one in old["criteria"]], old["weighted_score"]) == (list(SEVEN), 80)
    page = desk.get("/opportunities/1").text
    assert "Chance to win" in page
    assert "0: none" in page
    assert "75 %" in page


def test_scores_fit_the_criteria(desk: Caller) -> None:
    declare(desk, assessment=TWO)
    path, match = begin(desk)
    for scores, words in (
        ({"risk": {"score": 4}}, "Risks goes from 0 to 3"),
        ({"win_chance": {"score": 1}}, "there is no such criterion, only risk, fun"),
    ):
        refused = desk.put(path, json={"scores": scores}, headers=match)
        assert refused.status_code == 422
        assert words in refused.json()["detail"]
    content = {"scores": {"fun": {"score": 5}}, "recommendation": "BID"}
    written = desk.put(path, json=content, headers=match)
    match = {"If-Match": written.headers["etag"]}
    refused = desk.post(f"{path}/submit", headers=match).json()
    assert (refused["detail"], refused["missing"]) == ("Not complete: Risks.", ["risk"])
    content["scores"] = {"risk": {"score": 1}}
    written = desk.put(path, json=content, headers=match)
    assert (written.json()["weighted_score"], written.json()["suggestion"]) == (33.3, "NO_BID")
    match = {"If-Match": written.headers["etag"]}
    assert desk.post(f"{path}/submit", headers=match).status_code == 200


def test_an_empty_draft_is_not_submitted_even_if_nothing_is_mandatory(desk: Caller) -> None:
    optional = {"fun": {"title": "Fun", "weight": 1, "mandatory": False}}
    declare(desk, assessment={"criteria": optional})
    path, match = begin(desk)
    written = desk.put(path, json={"recommendation": "BID"}, headers=match)
    match = {"If-Match": written.headers["etag"]}
    assert desk.post(f"{path}/submit", headers=match).json()["missing"] == ["scores"]


@given(st.dictionaries(st.sampled_from(list(SEVEN)), st.integers(0, 5)))
def test_the_weighted_score_is_a_mean(scores: dict[str, int]) -> None:
    result = Assessment().weighted_score(scores)
    if not scores:
        assert result is None
    else:
        assert result is not None
        assert 20 * min(scores.values()) - 0.1 <= result <= 20 * max(scores.values()) + 0.1
