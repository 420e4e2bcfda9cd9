-- Who may vote on which submitted assessment: the one place that says so. `function` is null where
-- one manager decides. A deal that the CRM has closed waits for nobody.
create or replace view open_votes as
with
rules as (
    select coalesce((content ->> 'four_eyes')::boolean, true) as four_eyes
    from declarations
    where section = 'decisions'
    order by id desc
    limit 1
),

-- Inlined, so that a question about one assessment reads one.
submitted as not materialized (
    select
        assessments.id,
        assessments.opportunity_id,
        assessments.submitted_by,
        assessments.approvals
    from assessments
    inner join opportunities on assessments.opportunity_id = opportunities.id
    where
        assessments.status = 'SUBMITTED'
        and coalesce(opportunities.crm_outcome, 'OPEN') = 'OPEN'
),

asked as (
    select
        submitted.id,
        submitted.opportunity_id,
        submitted.submitted_by,
        approval.value ->> 'function' as function,
        approval.value ->> 'value' as value
    from submitted
    cross join lateral jsonb_array_elements(submitted.approvals) as approval
),

holders as (
    select
        asked.id,
        asked.opportunity_id,
        asked.submitted_by,
        asked.function,
        user_functions.user_id
    from asked
    inner join user_functions
        on
            asked.function = user_functions.function
            and lower(user_functions.value) in ('', lower(asked.value))
    left join assessment_votes
        on
            asked.id = assessment_votes.assessment_id
            and asked.function = assessment_votes.function
    where assessment_votes.function is null

    union all

    select
        submitted.id,
        submitted.opportunity_id,
        submitted.submitted_by,
        null as function,
        users.id as user_id
    from submitted
    inner join users on users.role in ('manager', 'admin')
    where submitted.approvals = '[]'
)

select distinct
    holders.id as assessment_id,
    holders.opportunity_id,
    holders.function,
    holders.user_id
from holders
inner join users on holders.user_id = users.id
cross join rules
where
    users.active
    and (not rules.four_eyes or holders.submitted_by is distinct from holders.user_id);
