with source as (

    select * from {{
        optional_source(source('oracle_crm', 'opportunity_statuses'), {
            'LookupCode': 'text',
            'Meaning': 'text',
            'LookupCategory': 'text',
        })
    }}

),

renamed as (

    select
        "LookupCode" as code,
        "Meaning" as meaning,
        "LookupCategory" as category
    from source

)

select * from renamed
