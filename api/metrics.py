"""What Prometheus reads: the requests of this process, and the state of the syncs."""

import secrets
from typing import Annotated, LiteralString

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Gauge, Histogram, generate_latest

from api.auth import bearer, cookie, get_token, identify_first
from api.database import Connection, fetch_one
from api.problems import answers
from notifications.messages import KINDS

router = APIRouter(tags=["health"])

REQUESTS = Histogram(
    "api_request_duration_seconds",
    "Time to answer requests",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
GAUGES = {
    name: Gauge(f"oracle_crm_{name}", text)
    for name, text in {
        "opportunities": "Opportunities that the CRM shows",
        "rejected_records": "Records that could not be loaded and are not resolved",
        "unknown_status_opportunities": "Opportunities whose status code nothing explains",
        "sync_running": "1 while a sync is under way",
        "sync_runs": "Runs in the log",
        "sync_failed_runs": "Failed runs in the log",
        "sync_last_duration_seconds": "How long the last completed run took",
        "sync_last_succeeded": "1 if the last run that was not cancelled succeeded, else 0",
        "sync_last_success_timestamp_seconds": "When the last successful run was completed",
        "sync_last_fetched_records": "Records that the last completed run read",
        "sync_last_new_records": "Records that were new in the last completed run",
        "sync_last_updated_records": "Records that the last completed run changed",
        "sync_last_unchanged_records": "Records that the last completed run read as they were",
        "sync_last_failed_records": "Records that the last completed run could not load",
        "scheduler_heartbeat_timestamp_seconds": "When the scheduler last was seen alive",
        "schedule_next_run_timestamp_seconds": "When the next scheduled run is due",
        "scheduled_jobs_failed": "Schedules whose job failed, until it succeeds or they are paused",
        "notifications_not_accepted": "Messages that a service did not accept and that are retried",
        "sync_freshness_seconds": "How old the table is: since the last successful run began",
        "reconcile_last_timestamp_seconds": "When the CRM was last compared as a whole",
        "reconcile_last_compared_records": "Deals that the last reconcile compared",
        "reconcile_last_corrected_records": "Deals that it corrected, without a later change",
        "reconcile_last_missed_records": "Those of them that a sync should have brought",
        "reconcile_last_new_records": "Deals that were new to it",
        "reconcile_last_gone_records": "Deals that it found gone",
    }.items()
}
OPEN_INCIDENTS = Gauge(
    "oracle_crm_open_incidents",
    "1 while an incident of this kind is open; needs NOTIFY_URLS",
    ["kind"],
)
MEASURE: LiteralString = """
with
completed as (
    select * from sync_logs where status != 'RUNNING' order by id desc limit 1
),
successful as (
    select * from sync_logs where status = 'SUCCESS' order by id desc limit 1
),
reconciled as (
    select reconciliations.*
    from reconciliations
    join run_logs using (run_id)
    where run_logs.status = 'SUCCESS'
    order by run_logs.id desc
    limit 1
)
select
    (select count(*) from rejected_records where resolved_at is null) as rejected_records,
    (select coalesce(sum(deals), 0) from unknown_statuses where section = 'statuses')
        as unknown_status_opportunities,
    (select count(*) from sync_logs where status = 'RUNNING') as sync_running,
    (select count(*) from sync_logs) as sync_runs,
    (select count(*) from sync_logs where status = 'FAILED') as sync_failed_runs,
    (select duration_seconds from completed) as sync_last_duration_seconds,
    (
        select case status when 'SUCCESS' then 1 else 0 end
        from sync_logs
        where status != 'RUNNING' and end_reason != 'cancelled'
        order by id desc
        limit 1
    ) as sync_last_succeeded,
    (select extract(epoch from completed_at) from successful)
        as sync_last_success_timestamp_seconds,
    (select total_fetched from completed) as sync_last_fetched_records,
    (select new_records from completed) as sync_last_new_records,
    (select updated_records from completed) as sync_last_updated_records,
    (select unchanged_records from completed) as sync_last_unchanged_records,
    (select failed_records from completed) as sync_last_failed_records,
    (select extract(epoch from max(heartbeat_at)) from schedules)
        as scheduler_heartbeat_timestamp_seconds,
    (select extract(epoch from min(next_run_at)) from schedules)
        as schedule_next_run_timestamp_seconds,
    (
        select count(*)
        from schedules
        join schedule_outcomes using (name)
        where outcome = 'FAILED' and paused_at is null
    ) as scheduled_jobs_failed,
    -- Without those of closed incidents, which are not retried.
    (
        select count(*)
        from notifications
        where failures > 0 and next_attempt_at > now() - interval '5 minutes'
    ) as notifications_not_accepted,
    (select extract(epoch from now() - started_at) from successful) as sync_freshness_seconds,
    (select extract(epoch from completed_at) from reconciled) as reconcile_last_timestamp_seconds,
    (select compared from reconciled) as reconcile_last_compared_records,
    (select corrected from reconciled) as reconcile_last_corrected_records,
    (select missed from reconciled) as reconcile_last_missed_records,
    (select new from reconciled) as reconcile_last_new_records,
    (select gone from reconciled) as reconcile_last_gone_records
"""


# Only a merge changes the number of deals, so they are counted after each merge.
MERGED: LiteralString = "select max(transform_completed_at) as at from sync_runs"
COUNT: LiteralString = "select count(*) as deals from opportunities where deleted_at is null"
OPEN: LiteralString = "select kind from incidents where closed_at is null"


async def _may_read(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    session: Annotated[str | None, Depends(cookie)],
) -> None:
    own = request.app.state.settings.metrics_token
    if (
        own
        and credentials
        and secrets.compare_digest(
            own.get_secret_value().encode(), credentials.credentials.encode()
        )
    ):
        return
    token = await get_token(request, credentials, session)
    await identify_first(request, token)


async def _count_deals(request: Request, connection: Connection) -> int:
    merged = (await fetch_one(connection, MERGED))["at"]
    counted_at, deals = getattr(request.app.state, "counted", (None, 0))
    if merged is None or merged != counted_at:
        deals = (await fetch_one(connection, COUNT))["deals"]
        request.app.state.counted = merged, deals
    return int(deals)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses=answers(401),
    dependencies=[Depends(_may_read)],
)
async def metrics(request: Request, connection: Connection) -> Response:
    """Get the metrics, in Prometheus's text format. METRICS_TOKEN opens this and nothing else."""
    measured = await (await connection.execute(MEASURE)).fetchone()
    for name, value in (measured or {}).items():
        GAUGES[name].set(float("nan") if value is None else float(value))
    GAUGES["opportunities"].set(await _count_deals(request, connection))
    rows = await (await connection.execute(OPEN)).fetchall()
    for kind in KINDS:
        OPEN_INCIDENTS.labels(kind).set({"kind": kind} in rows)
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
