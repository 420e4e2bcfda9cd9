with source as (

    select * from {{ source('oracle_crm', 'opportunity_statuses') }}

),

renamed as (

    select
        "LookupCode" as code,
        "Meaning" as meaning,
        "LookupCategory" as category
    from source

)

select * from renamed
