with source as (

    select * from {{
        optional_source(source('oracle_crm', 'rejected_records'), {
            'stream': 'text',
            'remote_id': 'text',
            'id': 'text',
            'reason': 'text',
            'payload': 'text',
            'rejected_at': 'timestamp',
            '_sdc_batched_at': 'timestamp',
        })
    }}

),

renamed as (

    select
        stream || ':' || coalesce(remote_id, id) as record_key,
        stream,
        remote_id,
        reason,
        payload::jsonb as payload,
        rejected_at at time zone 'UTC' as rejected_at,
        _sdc_batched_at at time zone 'UTC' as loaded_at
    from source

)

select * from renamed
