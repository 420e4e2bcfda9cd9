with open_deals as not materialized (

    select * from {{ ref('opportunities') }}
    where deleted_at is null and coalesce(crm_outcome, 'OPEN') = 'OPEN'

),

decisions as (

    select content
    from {{ source('application', 'declarations') }}
    where section = 'decisions'
    order by id desc
    limit 1

),

limits as (

    select
        states.key as workflow_status,
        (states.value ->> 'days')::integer as limit_days
    from decisions
    cross join lateral json_each(decisions.content -> 'states') as states

),

aged as (

    select
        workflow_status,
        count(*) as number,
        min(coalesce(workflow_since, first_synced_at)) as oldest
    from open_deals
    group by workflow_status

)

select
    aged.workflow_status,
    aged.number as deals,
    -- The one in the middle, or the mean of the two: the index has them in order.
    (
        select round(avg(extract(epoch from now() - middle.since) / 86400), 1)
        from (
            select coalesce(open_deals.workflow_since, open_deals.first_synced_at) as since
            from open_deals
            where open_deals.workflow_status = aged.workflow_status
            order by coalesce(open_deals.workflow_since, open_deals.first_synced_at)
            limit (2 - aged.number % 2) offset ((aged.number - 1) / 2)
        ) as middle
    ) as median_days,
    round(extract(epoch from now() - aged.oldest) / 86400, 1) as oldest_days,
    limits.limit_days,
    (
        select count(*)
        from open_deals
        where
            open_deals.workflow_status = aged.workflow_status
            and coalesce(open_deals.workflow_since, open_deals.first_synced_at)
            < now() - make_interval(days => limits.limit_days)
    ) as over_limit
from aged
left join limits on aged.workflow_status = limits.workflow_status
