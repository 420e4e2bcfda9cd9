{#-
    Materialization `merge_into`: merge a model's rows into a table that dbt does not own.

    The application's migrations own the table. This code never creates, alters, swaps or drops
    it, not even with `--full-refresh`. One statement updates the changed rows and inserts the
    new ones. So readers see all of a merge or nothing, unchanged rows are not written, and the
    counts are correct.

    Config:
      into        the table, if its name is not the model's
      unique_key  the column that identifies a row
      on_update   {column: expression over `target` and `source`}, instead of source's value
      on_insert   {column: expression over `source`}, likewise
      stamp       the column for the time of the write
      windowed    merge only batches that this model has not merged yet, see `merge_window.sql`
      rules       a SQL expression; if its value changes, all batches are merged again
      before      a statement that runs before the merge, in a transaction of its own
      after       a statement that runs after the merge, in its transaction; text, as `log`
      log         a statement over `source` and `counted`, run as a part of the merge. It is
                  text and rendered at that moment: if dbt rendered it before, it would parse
                  the model again for each new environment, and the run's id changes that

    Columns of a model that begin with an underscore are only for `log` and the expressions:
    they are not written.
-#}
{#- The temporary table of the model's rows, for `after`. -#}
{% macro staged_relation() -%}
    {{ return(api.Relation.create(identifier=model.name ~ '__staged')) }}
{%- endmacro %}

{% materialization merge_into, adapter='postgres' -%}
    {%- set key = config.require('unique_key') -%}
    {%- set on_update = config.get('on_update', {}) -%}
    {%- set on_insert = config.get('on_insert', {}) -%}
    {%- set stamp = config.get('stamp') -%}
    {%- set target_relation = this.incorporate(path={'identifier': config.get('into', this.identifier)}, type='table') -%}
    {%- if not is_pipelines_target() -%}
        {{ exceptions.raise_compiler_error(
            model.name ~ ' merges into ' ~ target_relation ~ ', which only the target with the schema staging may: '
            ~ 'leave it out with --exclude config.materialized:merge_into'
        ) }}
    {%- endif -%}
    {%- set source_relation = staged_relation() -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {%- call statement('lock_timeout') -%} {{ wait_for_locks_at_most() }} {%- endcall -%}

    {%- if config.get('before') -%}
        {%- call statement('before') -%}
            {{ render(config.get('before')) }}; commit; begin; {{ wait_for_locks_at_most() }}
        {%- endcall -%}
    {%- endif -%}

    {%- if config.get('windowed') -%}
        {%- call statement('open_window') -%}
            {{ open_merge_window(model.name, render(config.get('rules', "''"))) }}
        {%- endcall -%}
    {%- endif -%}

    {% call statement('stage') -%}
        create temporary table {{ source_relation }} on commit drop as ({{ sql }});
        analyze {{ source_relation }} ({{ key }});
    {%- endcall %}

    {%- set owned = adapter.get_columns_in_relation(target_relation) | map(attribute='name') | list -%}
    {%- set columns = adapter.get_columns_in_relation(source_relation)
        | map(attribute='name') | rejectattr(0, 'eq', '_') | list -%}
    {%- set missing = (columns + on_update.keys() | list + on_insert.keys() | list) | reject('in', owned) | list -%}
    {%- if missing -%}
        {{ exceptions.raise_compiler_error(
            target_relation ~ ' lacks ' ~ missing | join(', ') ~ ': run `make setup` to migrate the database'
        ) }}
    {%- endif -%}

    {%- set updates = dict() -%}
    {%- for column in columns if column != key -%}
        {%- do updates.update({column: 'source.' ~ column}) -%}
    {%- endfor -%}
    {%- do updates.update(on_update) -%}
    {%- set inserts = dict() -%}
    {%- for column in columns -%}
        {%- do inserts.update({column: 'source.' ~ column}) -%}
    {%- endfor -%}
    {%- do inserts.update(on_insert) -%}

    {% call statement('main') -%}
        with source as (
            select * from {{ source_relation }}
        ),

        updated as (
            update {{ target_relation }} as target
            set
                {%- for column, expression in updates.items() %}
                {{ column }} = {{ expression }}{{ ',' if not loop.last or stamp }}
                {%- endfor %}
                {%- if stamp %}
                {{ stamp }} = now()
                {%- endif %}
            from {{ source_relation }} as source
            where
                target.{{ key }} = source.{{ key }}
                and (
                    {%- for column, expression in updates.items() %}
                    {{ 'or ' if not loop.first }}target.{{ column }} is distinct from {{ expression }}
                    {%- endfor %}
                )
            returning target.{{ key }}
        ),

        inserted as (
            insert into {{ target_relation }} as target ({{ inserts.keys() | join(', ') }})
            select {{ inserts.values() | join(', ') }}
            from {{ source_relation }} as source
            where
                -- All is new in an empty table, and PostgreSQL may plan a scan of it for each row:
                -- it does not know that the table grows meanwhile.
                not (select exists (select from {{ target_relation }}))
                or not exists (
                    select 1 from {{ target_relation }} as known where known.{{ key }} = source.{{ key }}
                )
            returning target.{{ key }}
        ),

        counted as (
            select
                (select count(*) from updated) as updated_records,
                (select count(*) from inserted) as new_records
        )

        {{ render(config.get('log', 'select * from counted')) }}
    {%- endcall %}

    {%- if config.get('after') -%}
        {%- call statement('after') -%} {{ render(config.get('after')) }} {%- endcall -%}
    {%- endif -%}
    {%- call statement('end') -%}
        {%- if config.get('windowed') %} {{ close_merge_window(model.name) }}; {%- endif %}
        select public.analyze_relation('{{ target_relation }}')
    {%- endcall -%}

    {%- do grant_and_document(target_relation) -%}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}
