{{
    config(
        materialized='merge_into',
        unique_key='remote_id',
        stamp='last_synced_at',
    )
}}

select
    remote_id,
    name,
    email
from {{ ref('stg_resources') }}
