-- Each deal that is not deleted is counted once: open deals in the pipeline and the ageing, closed
-- ones in the win rates.
with counted as (

    select
        (select sum(deals) from {{ ref('pipeline_by_stage_and_month') }}) as in_pipeline,
        (select sum(deals) from {{ ref('workflow_ageing') }}) as ageing,
        (
            select sum(won + lost + closed) from {{ ref('win_rate_by_practice') }}
        ) as decided,
        (
            select count(*) from {{ ref('opportunities') }}
            where deleted_at is null
        ) as deals

)

select * from counted
where
    coalesce(in_pipeline, 0) != coalesce(ageing, 0)
    or coalesce(in_pipeline, 0) + coalesce(decided, 0) != deals
