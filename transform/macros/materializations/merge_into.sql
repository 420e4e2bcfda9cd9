{#-
    Materialization `merge_into`: merge a model's rows into a table that dbt does not own.

    The application's migrations own the table; nothing here can create, alter, swap or drop
    it, `--full-refresh` included. One statement updates the rows that differ and inserts the
    new ones, so readers see all of a merge or nothing of it, rows that were read again
    unchanged cost no write, and the counts are true.

    Config:
      into        the table, where it is not called like the model
      unique_key  the column that tells rows apart
      on_update   {column: expression over `target` and `source`}, in place of source's value
      on_insert   {column: expression over `source`}, likewise
      stamp       the column that takes the time of the write
      windowed    the model merges batches that it has not merged yet, see `merge_window.sql`
      rules       what, when it changes, makes all batches be merged again; a SQL expression
      after       a statement that is run after the merge, as a part of its transaction; as `log`
      analyze     relations that have grown with the merge, besides its target; text, as `log`
      log         a statement over `source` and `counted`, run as a part of the merge; as text
                  that is rendered then, since what is rendered sooner is parsed anew whenever
                  the environment has changed, as the run's id does

    A model's columns whose names begin with an underscore are there for `log` and the
    expressions only: they are not written.
-#}
{#- The temporary table with the model's rows, for `after`. -#}
{% macro staged_relation() -%}
    {{ return(api.Relation.create(identifier=model.name ~ '__staged')) }}
{%- endmacro %}

{% materialization merge_into, adapter='postgres' -%}
    {%- set key = config.require('unique_key') -%}
    {%- set on_update = config.get('on_update', {}) -%}
    {%- set on_insert = config.get('on_insert', {}) -%}
    {%- set stamp = config.get('stamp') -%}
    {%- set target_relation = this.incorporate(path={'identifier': config.get('into', this.identifier)}, type='table') -%}
    {%- set source_relation = staged_relation() -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {%- if config.get('windowed') -%}
        {%- call statement('open_window') -%}
            {{ open_merge_window(model.name, render(config.get('rules', "''"))) }}
        {%- endcall -%}
    {%- endif -%}

    {% call statement('stage') -%}
        create temporary table {{ source_relation }} on commit drop as ({{ sql }});
        analyze {{ source_relation }};
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
            where not exists (
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
    {%- if config.get('windowed') -%}
        {%- call statement('close_window') -%} {{ close_merge_window(model.name) }} {%- endcall -%}
    {%- endif -%}

    {#- After many rows the planner must not work from what it knew of a small table. -#}
    {%- if run_query('select count(*) from ' ~ source_relation).columns[0].values()[0] > 10000 -%}
        {%- call statement('analyze') -%}
            analyze {{ [target_relation, render(config.get('analyze', ''))] | select | join(', ') }}
        {%- endcall -%}
    {%- endif -%}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}
