{{ config(schema='staging') }}

-- The result of the workflow rule for each deal, so that unit tests can check the rule by example.
-- The merge applies the same rule to the row at that moment.
with crm as (

    select
        remote_id,
        crm_outcome as outcome
    from {{ ref('opportunity_outcomes') }}
    where reject_reason is null

),

opportunities as (

    select * from {{ ref('opportunities') }}

)

select
    crm.remote_id,
    crm.outcome,
    opportunities.workflow_status,
    {{ workflow_status(
        'crm.outcome', 'opportunities.workflow_status', 'opportunities.workflow_status_before_close'
    ) }} as next_workflow_status,
    {{ workflow_status_before_close(
        'crm.outcome', 'opportunities.workflow_status', 'opportunities.workflow_status_before_close'
    ) }} as next_workflow_status_before_close
from crm
left join opportunities on crm.remote_id = opportunities.remote_id
