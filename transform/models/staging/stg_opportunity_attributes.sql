with source as (

    select * from {{ source('oracle_crm', 'opportunity_attributes') }}

),

listed as (

    select
        case source.resource when 'accounts' then 'Account.' else '' end || attribute.name as name,
        attribute.label,
        attribute.type
    from source
    cross join lateral jsonb_to_recordset(source.attributes::jsonb) as attribute (name text, label text, type text)
    where source.resource in ('opportunities', 'accounts')

)

select * from listed
