with source as (

    select * from {{ source('oracle_crm', 'opportunity_attributes') }}

),

listed as (

    select
        attribute.name,
        attribute.label,
        attribute.type
    from source
    cross join lateral jsonb_to_recordset(source.attributes::jsonb) as attribute (name text, label text, type text)
    where source.resource = 'opportunities'

)

select * from listed
