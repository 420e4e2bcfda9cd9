with source as (

    select * from {{ source('oracle_crm', 'resources') }}

),

renamed as (

    select
        "PartyId"::text as remote_id,
        nullif(btrim("PartyName"), '') as name,
        nullif(btrim("EmailAddress"), '') as email
    from source

)

select * from renamed
