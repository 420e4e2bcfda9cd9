with source as (

    select * from {{
        optional_source(source('oracle_crm', 'resources'), {
            'PartyId': 'bigint',
            'PartyName': 'text',
            'EmailAddress': 'text',
        })
    }}

),

renamed as (

    select
        "PartyId"::text as remote_id,
        nullif(btrim("PartyName"), '') as name,
        nullif(btrim("EmailAddress"), '') as email
    from source

)

select * from renamed
