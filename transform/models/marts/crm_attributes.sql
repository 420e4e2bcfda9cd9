{{
    config(
        materialized='merge_into',
        unique_key='name',
    )
}}

-- Each attribute that the CRM ever described, and what has changed: the view `field_news` reports it.
with listed as (

    select * from {{ ref('stg_opportunity_attributes') }}

),

known as (

    select * from {{ this }}

)

select
    coalesce(listed.name, known.name) as name,
    coalesce(listed.label, known.label) as label,
    coalesce(listed.type, known.type) as type,
    case when listed.name is null then coalesce(known.gone_since, now()) end as gone_since,
    case when listed.type != known.type then known.type else known.previous_type end as previous_type,
    case when listed.type != known.type then now() else known.type_changed_at end as type_changed_at
from listed
full outer join known on listed.name = known.name
-- Without a list, of deals or of accounts, nothing of them is known to be gone.
where
    (coalesce(listed.name, known.name) like 'Account.%')
    in (select described.name like 'Account.%' from listed as described)
