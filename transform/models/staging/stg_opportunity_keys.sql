with source as (

    select * from {{
        optional_source(source('oracle_crm', 'opportunity_keys'), {
            'OptyId': 'bigint',
            '_sdc_extracted_at': 'timestamp',
        })
    }}

),

renamed as (

    select
        "OptyId"::text as remote_id,
        _sdc_extracted_at at time zone 'UTC' as found_at
    from source

)

select * from renamed
