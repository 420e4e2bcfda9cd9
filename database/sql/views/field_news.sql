create or replace view field_news as
with declared as (
    select
        fields.name,
        fields.attribute,
        lower(fields.attribute) as key,
        declared_fields.type as declared_type,
        fields.type,
        declared_fields.previous_attribute,
        declared_fields.previous_type,
        declared_fields.changed_at
    from declared_fields
    inner join fields on declared_fields.name = fields.name
),

removed as (
    select
        name,
        attribute,
        lower(attribute) as key,
        type,
        removed_at
    from declared_fields
    where removed_at is not null
),

news as (
    -- What the CRM had when it was asked for the first time is no news.
    select
        'new' as kind,
        name as attribute,
        null::text as field,
        type,
        null::text as previous_type,
        first_seen_at as since,
        'new in the CRM: ' || name || ' (' || coalesce(type, 'text') || ')' as detail,
        'add under fields: - ' || name as advice
    from crm_attributes
    where
        gone_since is null
        and first_seen_at > (
            select min(known.first_seen_at) from crm_attributes as known
            where known.name like 'Account.%' = (crm_attributes.name like 'Account.%')
        )
        and lower(name) not in (select declared.key from declared)
    union all
    select
        'gone' as kind,
        crm.name as attribute,
        declared.name as field,
        crm.type,
        null::text as previous_type,
        crm.gone_since as since,
        'gone from the CRM: ' || crm.name
        || coalesce('; ' || declared.name || ' is empty from now on', '') as detail,
        case
            when declared.name is not null then 'correct or remove the line of ' || crm.name
        end as advice
    from crm_attributes as crm
    left join declared on lower(crm.name) = declared.key
    where crm.gone_since is not null
    union all
    select
        'type' as kind,
        crm.name as attribute,
        declared.name as field,
        crm.type,
        crm.previous_type,
        crm.type_changed_at as since,
        'of another type in the CRM: ' || crm.name || ' was ' || coalesce(crm.previous_type, 'text')
        || ', is ' || coalesce(crm.type, 'text') as detail,
        case
            when declared.name is null then null
            when declared.declared_type is null
                then 'to choose the type yourself: - {attribute: ' || crm.name || ', name: '
                    || declared.name || ', type: text}'
            else 'crm.yml declares it as ' || declared.declared_type
                || ': see that this is still right'
        end as advice
    from crm_attributes as crm
    left join declared on lower(crm.name) = declared.key
    where crm.gone_since is null and crm.type_changed_at is not null
    union all
    select
        'removed' as kind,
        attribute,
        null::text as field,
        type,
        null::text as previous_type,
        removed_at as since,
        'no longer in crm.yml: ' || attribute || '; deals keep its values' as detail,
        'add under fields: - ' || attribute as advice
    from removed
    where key not in (select declared.key from declared)
    union all
    select
        'renamed' as kind,
        declared.attribute,
        declared.name as field,
        declared.type,
        null::text as previous_type,
        removed.removed_at as since,
        'renamed in crm.yml: ' || removed.name || ' is ' || declared.name
        || '; deals keep the values and the history of ' || removed.name as detail,
        null::text as advice
    from removed
    inner join declared on removed.key = declared.key
    union all
    select
        'moved' as kind,
        attribute,
        name as field,
        type,
        null::text as previous_type,
        changed_at as since,
        'of another attribute in crm.yml: ' || name || ' was ' || previous_attribute || ', is '
        || attribute as detail,
        null::text as advice
    from declared
    where lower(previous_attribute) != key
    union all
    select
        'retyped' as kind,
        attribute,
        name as field,
        type,
        previous_type,
        changed_at as since,
        'of another type in crm.yml: ' || name || ' was ' || previous_type || ', is ' || type
            as detail,
        null::text as advice
    from declared
    where previous_type != type
)

select
    kind,
    attribute,
    field,
    type,
    previous_type,
    since,
    detail,
    advice
from news
where
    since > now() - interval '14 days'
    -- What people wait for stays news as long as it is missing.
    or (kind = 'gone' and field is not null);

comment on view field_news is
'What has changed in the CRM''s attributes and in the declared fields in the last 14 days.';
