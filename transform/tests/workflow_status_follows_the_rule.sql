-- The rule, applied again, changes nothing: a closed deal has the CRM's outcome and stores the
-- bid team's status; an open deal has nothing to restore.
select
    workflow_rule.remote_id,
    workflow_rule.outcome,
    workflow_rule.workflow_status,
    workflow_rule.next_workflow_status
from {{ ref('workflow_rule') }} as workflow_rule
inner join {{ ref('opportunities') }} as opportunities
    on workflow_rule.remote_id = opportunities.remote_id
where
    workflow_rule.next_workflow_status is distinct from opportunities.workflow_status
    or workflow_rule.next_workflow_status_before_close
    is distinct from opportunities.workflow_status_before_close
    or workflow_rule.outcome != coalesce(opportunities.crm_outcome, '')
    or (opportunities.workflow_status_before_close is null)
    != (coalesce(opportunities.crm_outcome, 'OPEN') = 'OPEN')
