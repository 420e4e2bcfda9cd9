create or replace view fields as
select
    declared.name,
    declared.attribute,
    coalesce(declared.label, crm.label, declared.attribute) as label,
    coalesce(
        declared.type,
        case
            when crm.type in (
                    'integer', 'int', 'long', 'short', 'biginteger', 'bigint', 'number', 'decimal',
                    'double', 'float', 'bigdecimal', 'money'
                ) then 'number'
            when crm.type in ('boolean', 'bool') then 'boolean'
            when crm.type = 'date' then 'date'
            when crm.type in ('datetime', 'date-time', 'timestamp', 'timestamptz') then 'timestamp'
            when crm.type = 'array' then 'list'
        end,
        'text'
    ) as type,
    declared."column",
    declared.filter,
    declared.sort,
    declared.place,
    declared.position,
    crm.name is not null and crm.gone_since is null as is_in_crm
from declared_fields as declared
left join lateral (
    select
        known.name,
        known.label,
        lower(known.type) as type,
        known.gone_since
    from crm_attributes as known
    where lower(known.name) = lower(declared.attribute)
    order by known.name = declared.attribute desc, known.name asc
    limit 1
) as crm on true
where declared.removed_at is null;

comment on view fields is
'The declared fields, with the CRM''s type and label where none is declared.';
