{{ config(schema='staging') }}

-- What the workflow rule makes of each deal as it stands: the rule on view, where it can be
-- tested by example. The merge applies the same rule to the row as it is at that moment.
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
