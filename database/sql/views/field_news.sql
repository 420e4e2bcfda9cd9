create or replace view field_news as
with declared as (
    select
        name,
        type,
        lower(attribute) as key
    from declared_fields
    where removed_at is null
),

-- What the CRM had when it was asked for the first time is no news.
news as (
    select
        'new' as kind,
        name as attribute,
        type,
        null::text as previous_type,
        first_seen_at as since
    from crm_attributes
    where
        gone_since is null
        and first_seen_at > (select min(known.first_seen_at) from crm_attributes as known)
        and lower(name) not in (select declared.key from declared)
    union all
    select
        'gone' as kind,
        name as attribute,
        type,
        null::text as previous_type,
        gone_since as since
    from crm_attributes
    where gone_since is not null
    union all
    select
        'type' as kind,
        name as attribute,
        type,
        previous_type,
        type_changed_at as since
    from crm_attributes
    where gone_since is null and type_changed_at is not null
    union all
    select
        'removed' as kind,
        attribute,
        type,
        null::text as previous_type,
        removed_at as since
    from declared_fields
    where removed_at is not null and lower(attribute) not in (select declared.key from declared)
)

select
    news.kind,
    news.attribute,
    declared.name as field,
    news.type,
    news.previous_type,
    news.since,
    case news.kind
        when 'new'
            then 'new in the CRM: ' || news.attribute || ' (' || coalesce(news.type, 'text')
                || ')'
        when 'gone'
            then 'gone from the CRM: ' || news.attribute
                || case
                    when
                        declared.name is not null
                        then '; ' || declared.name || ' is empty from now on'
                    else ''
                end
        when 'type'
            then 'of another type in the CRM: ' || news.attribute || ' was '
                || coalesce(news.previous_type, 'text') || ', is ' || coalesce(news.type, 'text')
        else 'no longer in crm.yml: ' || news.attribute || '; deals keep its values'
    end as detail,
    case
        when news.kind in ('new', 'removed') then 'add under fields: - ' || news.attribute
        when declared.name is null then null
        when news.kind = 'gone' then 'correct or remove the line of ' || news.attribute
        when declared.type is null
            then 'to choose the type yourself: - {attribute: ' || news.attribute
                || ', name: ' || declared.name || ', type: text}'
        else 'crm.yml declares it as ' || declared.type || ': see that this is still right'
    end as advice
from news
left join declared on lower(news.attribute) = declared.key
where
    news.since > now() - interval '14 days'
    -- What people wait for stays news as long as it is missing.
    or (news.kind = 'gone' and declared.name is not null);

comment on view field_news is
'What has changed in the CRM''s attributes and in the declared fields in the last 14 days.';
