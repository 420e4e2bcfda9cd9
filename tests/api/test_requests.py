"""What holds for every request: headers, ids, limits, errors, the log, the metrics."""

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from api import requests
from api.logs import JsonFormatter
from api.requests import RequestMiddleware
from database.environment import ROOT
from tests.api.conftest import Caller, DefaultSettings, calling, fill, running, serving
from tests.runs import add_run


@pytest.mark.parametrize(
    "path", ["/health/live", "/api/opportunities", "/nothing", "/", "/docs", "/openapi.json"]
)
def test_every_answer_has_the_headers_that_browsers_need(reader: Caller, path: str) -> None:
    headers = reader.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert "default-src" in headers["content-security-policy"]
    assert "unsafe-eval" not in headers["content-security-policy"]
    assert headers["cache-control"] in ("no-store", "private, no-cache")
    assert "strict-transport-security" not in headers


def test_over_https_browsers_are_told_to_stay_there(reader: Caller) -> None:
    headers = reader.get("/health/live", headers={"X-Forwarded-Proto": "https"}).headers
    assert headers["strict-transport-security"].startswith("max-age=")


def test_a_request_has_an_id(reader: Caller) -> None:
    own = reader.get("/health/live").headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", own)
    again = reader.get("/health/live", headers={"X-Request-ID": own}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", again)
    assert again != own, "a client can't make its lines in the log another's"


@pytest.mark.parametrize("given", ["from-a-proxy", 'x" evil', "x" * 65, ""])
def test_the_id_of_a_proxy_is_in_the_log_beside_ours(
    small: FastAPI, log: list[dict[str, object]], given: str
) -> None:
    with running(small) as address:
        httpx.get(f"{address}/nothing", headers={"X-Request-ID": given})
    (request,) = log
    assert request.get("given_request_id") == (given if given == "from-a-proxy" else None)


def test_errors_are_problems(reader: Caller) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/api/nothing", 404),
        ("DELETE", "/api/sync-status", 405),
        ("GET", "/api/opportunities?limit=0", 422),
        ("POST", "/api/sync-database", 403),
    ):
        answer = reader.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["status"], problem["type"]) == (status, "about:blank")
        assert problem["detail"]
    assert reader.delete("/api/sync-status").headers["allow"] == "GET, HEAD"
    assert reader.options("/api/assessments/1").headers["allow"] == "GET, HEAD, PUT"


def test_a_body_that_is_too_large_is_not_read(caller: Caller) -> None:
    answer = caller.post("/api/sync-database", content=b" " * 1_000_001)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_that_is_no_json_is_refused(caller: Caller) -> None:
    for body in (b"{", b'"\xff"', b"[" * 10_000):
        answer = caller.post(
            "/api/sync-database", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == "application/problem+json"


def test_without_its_database_the_api_says_so_and_no_more() -> None:
    settings = DefaultSettings(api_pool_timeout=0.2)
    none = "postgresql://user:secret@127.0.0.1:1/none"
    with serving(none, settings) as address, httpx.Client(base_url=address) as caller:
        assert caller.get("/health/live").status_code == 200
        for path in ("/health/ready", "/api/opportunities"):
            answer = caller.get(path, headers={"Authorization": "Bearer x"})
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert "secret" not in answer.text
            assert "127.0.0.1" not in answer.text


@pytest.fixture
def small() -> FastAPI:
    """An application that fails in all ways."""
    app = FastAPI()
    app.add_middleware(RequestMiddleware)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the password is swordfish")

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    return app


@pytest.fixture
def log() -> Iterator[list[dict[str, object]]]:
    """The lines of the log, read back."""
    lines: list[dict[str, object]] = []

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    handler = Reader()
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("api.requests")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def test_what_nobody_foresaw_goes_to_the_log_and_not_to_the_client(
    small: FastAPI, log: list[dict[str, object]]
) -> None:
    with running(small) as address:
        answer = httpx.get(f"{address}/broken")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "swordfish" not in answer.text
    failed, request = log
    assert "swordfish" in str(failed["exception"])
    assert failed["request_id"] == request["request_id"] == answer.headers["x-request-id"]
    assert (request["status"], request["path"]) == (500, "/broken")


def test_what_takes_too_long_is_given_up(small: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "TIME_LIMIT_SECONDS", 0.05)
    with running(small) as address:
        answer = httpx.get(f"{address}/slow")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_log_says_who_asked_for_what_and_holds_no_secret(
    reader: Caller, log: list[dict[str, object]]
) -> None:
    reader.get("/api/opportunities", params={"search": "acme"})
    while not log:  # the answer comes first
        time.sleep(0.01)
    (line,) = log
    assert line["user"] == "service-viewer"
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/opportunities", 200)
    assert "ocs_" not in json.dumps(line)


def metrics(caller: Caller) -> dict[str, float]:
    answer = caller.get("/metrics")
    assert answer.status_code == 200
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics(caller: Caller) -> None:
    fill(caller.database, 3)
    caller.get("/api/opportunities/2")
    counts = metrics(caller)
    assert counts["oracle_crm_opportunities[]"] == 3
    assert counts["oracle_crm_sync_running[]"] == 0
    labels = [("method", "GET"), ("route", "/api/opportunities/{id}"), ("status", "200")]
    assert counts[f"api_request_duration_seconds_count{labels}"] >= 1
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into rejected_records (record_key, stream, reason) values ('1', 's', 'r')"
        )
        connection.execute(
            "update opportunities set unknown_status_code = 'ON_HOLD' where id in (1, 2)"
        )
        connection.execute(
            "insert into schedules (name, job, interval, timezone, next_run_at)"
            " values ('nightly', 'sync', '0 0 * * *', 'UTC', now() + interval '1 hour')"
        )
        connection.execute(
            """
            insert into schedules (
                name, job, tasks, interval, timezone, last_run_at, last_succeeded, paused_at
            )
            select name, job, tasks, '0 4 * * 0', 'UTC', now() - interval '1 hour', false, paused_at
            from (
                values
                    ('weekly', 'housekeeping', 'housekeeping:clean', null),
                    ('paused', 'housekeeping', 'housekeeping:clean', now()),
                    ('cancelled', 'reconcile', 'reconcile', null)
            ) as failed (name, job, tasks, paused_at);
            insert into incidents (kind, detail) values ('rejects', 'one'), ('empty', 'none');
            update incidents set closed_at = now() where kind = 'empty';
            -- One is not retried any more, the other is.
            insert into notifications (incident_id, service, attempts, failures, next_attempt_at)
            select id, 1, 1, 1, coalesce(closed_at - interval '1 hour', now() + interval '1 hour')
            from incidents
            """
        )
    assert math.isnan(counts["oracle_crm_sync_last_succeeded[]"])
    add_run(caller.database, kind="reconcile", trigger="schedule", cancelled_by="ada")
    add_run(caller.database, "3 minutes")
    add_run(caller.database, load_succeeded=False, cancelled_by="ada")
    counts = metrics(caller)
    assert counts["oracle_crm_sync_last_succeeded[]"] == 1
    add_run(caller.database, load_succeeded=False)
    counts = metrics(caller)
    assert counts["oracle_crm_sync_last_succeeded[]"] == 0
    assert counts["oracle_crm_scheduled_jobs_failed[]"] == 1
    add_run(caller.database, kind="other", run_number=None, job="housekeeping:clean")
    assert metrics(caller)["oracle_crm_scheduled_jobs_failed[]"] == 0
    assert counts["oracle_crm_notifications_not_accepted[]"] == 1
    incidents = {
        kind: counts[f"oracle_crm_open_incidents[('kind', '{kind}')]"]
        for kind in ("rejects", "empty")
    }
    assert incidents == {"rejects": 1, "empty": 0}
    assert counts["oracle_crm_rejected_records[]"] == 1
    assert counts["oracle_crm_unknown_status_opportunities[]"] == 2
    beat = counts["oracle_crm_scheduler_heartbeat_timestamp_seconds[]"]
    assert counts["oracle_crm_schedule_next_run_timestamp_seconds[]"] == pytest.approx(
        beat + 3600, abs=1
    )


def test_deals_are_counted_when_a_run_has_merged(caller: Caller) -> None:
    fill(caller.database, 3)
    for more in (0, 1):
        add_run(caller.database, transform_completed_at=datetime.now(UTC))
        assert metrics(caller)["oracle_crm_opportunities[]"] == 3 + more
        with psycopg.connect(caller.database) as connection:
            connection.execute("insert into opportunities (remote_id) values (%s)", [f"new {more}"])
        assert metrics(caller)["oracle_crm_opportunities[]"] == 3 + more


def test_the_metrics_of_the_alerts_exist(caller: Caller) -> None:
    caller.get("/api/opportunities/2")
    measured = {name.partition("[")[0] for name in metrics(caller)}
    rules = (ROOT / "orchestrate/deploy/prometheus/alerts.yml").read_text()
    asked_for = {*re.findall(r"\b(?:oracle_crm|api)_\w+", rules)}
    assert asked_for
    assert asked_for <= measured


def test_metrics_have_a_token_of_their_own(database: str) -> None:
    settings = DefaultSettings(metrics_token=SecretStr("scrape me"))
    with calling(database, settings) as caller:
        caller.headers["Authorization"] = "Bearer scrape me"
        assert caller.get("/metrics").status_code == 200
        assert caller.get("/api/opportunities").status_code == 401
        caller.headers["Authorization"] = "Bearer scrape you"
        assert caller.get("/metrics").status_code == 401


def test_the_page_of_the_api_loads_nothing_from_elsewhere(reader: Caller) -> None:
    page = reader.get("/docs").text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(addresses) == 4
    for address in addresses:
        assert address.startswith(("/docs/", "data:"))
        if address.startswith("/"):
            assert reader.get(address).status_code == 200
    assert "http" not in page
