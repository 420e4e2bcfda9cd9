with syncs as (

    select * from {{ source('application', 'sync_logs') }}

)

select
    (started_at at time zone 'UTC')::date as day,
    count(*) as runs,
    count(*) filter (where status = 'FAILED') as failed_runs,
    sum(total_fetched)::bigint as total_fetched,
    sum(new_records)::bigint as new_records,
    sum(updated_records)::bigint as updated_records,
    sum(failed_records)::bigint as failed_records,
    round(
        percentile_cont(0.5) within group (order by duration_seconds)::numeric, 3
    ) as median_duration_seconds,
    max(duration_seconds) as max_duration_seconds
from syncs
group by day
