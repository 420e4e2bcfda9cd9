with source as (

    select * from {{
        optional_source(source('oracle_crm', 'opportunity_keys'), {
            'OptyId': 'bigint',
            '_sdc_extracted_at': 'timestamp',
            '_sdc_table_version': 'bigint',
        })
    }}

),

renamed as (

    select
        "OptyId"::text as remote_id,
        _sdc_extracted_at at time zone 'UTC' as found_at,
        to_timestamp(_sdc_table_version / 1000.0) as pass_began_at
    from source

)

select * from renamed
