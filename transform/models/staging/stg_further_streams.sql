{{ config(materialized='ephemeral') }}

with accounts as (

    select * from {{
        optional_source(source('oracle_crm', 'accounts'), {
            'PartyId': 'bigint',
            '_sdc_extracted_at': 'timestamp',
        })
    }}

),

resources as (

    select * from {{
        optional_source(source('oracle_crm', 'resources'), {
            'PartyId': 'bigint',
            '_sdc_extracted_at': 'timestamp',
        })
    }}

),

revenue_lines as (

    select * from {{
        optional_source(source('oracle_crm', 'revenue_lines'), {
            'RevnId': 'bigint',
            '_sdc_extracted_at': 'timestamp',
        })
    }}

),

opportunity_team as (

    select * from {{
        optional_source(source('oracle_crm', 'opportunity_team'), {
            'OptyResourceId': 'bigint',
            '_sdc_extracted_at': 'timestamp',
        })
    }}

),

united as (

    select
        'accounts' as stream,
        "PartyId" as remote_key,
        _sdc_extracted_at at time zone 'UTC' as extracted_at
    from accounts

    union all

    select
        'resources' as stream,
        "PartyId" as remote_key,
        _sdc_extracted_at at time zone 'UTC' as extracted_at
    from resources

    union all

    select
        'revenue_lines' as stream,
        "RevnId" as remote_key,
        _sdc_extracted_at at time zone 'UTC' as extracted_at
    from revenue_lines

    union all

    select
        'opportunity_team' as stream,
        "OptyResourceId" as remote_key,
        _sdc_extracted_at at time zone 'UTC' as extracted_at
    from opportunity_team

)

select * from united
