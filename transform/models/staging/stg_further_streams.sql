{{ config(materialized='ephemeral') }}

with accounts as (

    select * from {{ source('oracle_crm', 'accounts') }}

),

resources as (

    select * from {{ source('oracle_crm', 'resources') }}

),

revenue_lines as (

    select * from {{ source('oracle_crm', 'revenue_lines') }}

),

opportunity_team as (

    select * from {{ source('oracle_crm', 'opportunity_team') }}

),

united as (

    select
        'accounts' as stream,
        "PartyId" as remote_key,
        _loaded_in as loaded_in
    from accounts

    union all

    select
        'resources' as stream,
        "PartyId" as remote_key,
        _loaded_in as loaded_in
    from resources

    union all

    select
        'revenue_lines' as stream,
        "RevnId" as remote_key,
        _loaded_in as loaded_in
    from revenue_lines

    union all

    select
        'opportunity_team' as stream,
        "OptyResourceId" as remote_key,
        _loaded_in as loaded_in
    from opportunity_team

)

select * from united
