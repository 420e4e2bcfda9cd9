create or replace view unknown_statuses as
select
    'statuses' as section,
    unknown_status_code as name,
    count(*) as deals
from opportunities
where unknown_status_code is not null and deleted_at is null
group by unknown_status_code
union all
-- Without any code the stage is all there is to go by.
select
    'stages' as section,
    stage as name,
    count(*) as deals
from opportunities
where
    crm_outcome is null and unknown_status_code is null
    and stage ~ '\S' and deleted_at is null
group by stage;
comment on view unknown_statuses is
'What crm.yml could explain: status codes, and stages of deals that have no code.';
