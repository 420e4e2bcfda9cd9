-- The runs in the log do not count more new deals than exist.
select
    sum(sync_logs.new_records) as new_records,
    (select count(*) from {{ ref('opportunities') }}) as opportunities
from {{ source('application', 'sync_logs') }} as sync_logs
having sum(sync_logs.new_records) > (select count(*) from {{ ref('opportunities') }})
