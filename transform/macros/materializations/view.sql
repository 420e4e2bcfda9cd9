{#-
    Materialization `view`, instead of dbt's: it does not touch unchanged views.

    dbt's own renames, recreates and drops every view in every run. That needs an exclusive lock.
    So a sync would wait for each reader of a view (a long report, a backup), and all other
    readers would wait for the sync. It also drops the views that others built on ours.

    A changed view is replaced in place if PostgreSQL allows it: if its columns stay, and new ones
    come last. Otherwise it is dropped, with the views that others built on it; the log names these.
    Grants stay in both cases.
-#}
{% materialization view, adapter='postgres' -%}
    {%- set target_relation = this.incorporate(type='view') -%}
    {%- set candidate = make_intermediate_relation(target_relation) -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {#- To check its contract, dbt reads from other relations before. -#}
    {%- if config.get('contract').enforced -%}
        {%- call statement('lock_timeout') -%} {{ wait_for_locks_at_most() }} {%- endcall -%}
    {%- endif -%}

    {#- All in one round trip. -#}
    {% call statement('main', fetch_result=True) -%}
        {{ wait_for_locks_at_most() }}
        {{ get_create_view_as_sql(candidate, sql) }};
        {{ how_a_view_changes(candidate, target_relation) }}
    {%- endcall %}

    {%- set change = load_result('main')['table'].rows[0] -%}
    {%- if change['is_unchanged'] -%}
        {%- call statement('drop') -%} drop view {{ candidate }} {%- endcall -%}
    {%- elif change['is_extended'] -%}
        {%- call statement('replace') -%}
            drop view {{ candidate }};
            {{ get_replace_view_sql(target_relation, sql) }}
        {%- endcall -%}
    {%- else -%}
        {%- if change['built_on_it'] -%}
            {%- do log(
                'WARNING: ' ~ target_relation ~ ' has other columns now; dropped with it: '
                ~ change['built_on_it'],
                info=True
            ) -%}
        {%- endif -%}
        {%- call statement('replace') -%}
            drop view if exists {{ target_relation }} cascade;
            alter view {{ candidate }} rename to {{ adapter.quote(target_relation.identifier) }};
            {{ change['grants'] or '' }}
        {%- endcall -%}
    {%- endif -%}

    {%- do grant_and_document(target_relation) -%}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}

{#- Compare a view with the one that is there: one row of what `view` has to know. -#}
{% macro how_a_view_changes(candidate, present) -%}
    with present as (
        select pg_class.oid, pg_class.relacl
        from pg_class
        where pg_class.oid = to_regclass('{{ present }}')
    ),

    columns as (
        select
            attrelid,
            attnum,
            (attname, atttypid, atttypmod, attcollation)::text as definition
        from pg_attribute
        where attrelid in ('{{ candidate }}'::regclass, (select oid from present))
    )

    select
        pg_get_viewdef('{{ candidate }}'::regclass)
        is not distinct from pg_get_viewdef((select oid from present)) as is_unchanged,
        exists (select from present) and not exists (
            select from columns as old
            left join columns as new
                on new.attrelid = '{{ candidate }}'::regclass and old.attnum = new.attnum
            where
                old.attrelid = (select oid from present)
                and old.definition is distinct from new.definition
        ) as is_extended,
        (
            select string_agg(distinct pg_rewrite.ev_class::regclass::text, ', ')
            from pg_depend
            inner join pg_rewrite on pg_depend.objid = pg_rewrite.oid
            where
                pg_depend.classid = 'pg_rewrite'::regclass
                and pg_depend.refobjid = (select oid from present)
                and pg_rewrite.ev_class != pg_depend.refobjid
        ) as built_on_it,
        (
            select string_agg(
                format(
                    'grant %s on {{ present }} to %s%s;',
                    acl.privilege_type,
                    case when acl.grantee = 0 then 'public' else acl.grantee::regrole::text end,
                    case when acl.is_grantable then ' with grant option' else '' end
                ),
                ' '
            )
            from present, aclexplode(present.relacl) as acl
        ) as grants
{%- endmacro %}
