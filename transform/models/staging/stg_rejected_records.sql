with source as (

    select * from {{ source('oracle_crm', 'rejected_records') }}

),

renamed as (

    select
        stream || ':' || coalesce(remote_id, id) as record_key,
        stream,
        remote_id,
        reason,
        payload::jsonb as payload,
        rejected_at,
        _loaded_in as loaded_in
    from source

)

select * from renamed
