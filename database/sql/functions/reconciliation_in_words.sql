create or replace function reconciliation_in_words(found reconciliations) returns text
language sql stable as $$
    select
        to_char(found.compared, 'FM999,999,999,990') || ' compared: '
        || to_char(found.corrected, 'FM999,999,999,990') || ' corrected'
        || coalesce(
            ' (' || (
                select string_agg(
                    value || ' ' || key, ', ' order by value::bigint desc, key
                )
                from jsonb_each_text(found.corrected_fields)
            ) || ')',
            ''
        )
        || ', ' || to_char(found.new, 'FM999,999,999,990') || ' new, '
        || case when found.proves_absence
            then to_char(found.gone, 'FM999,999,999,990') || ' gone'
            else 'and what is gone is not known, since not all was read as syncs read it'
        end
        || case when found.changed > 0
            then ', ' || to_char(found.changed, 'FM999,999,999,990')
                || ' changed since the last sync'
            else '' end
        || case when found.failed > 0
            then ', ' || to_char(found.failed, 'FM999,999,999,990')
                || ' could not be loaded'
            else '' end
        || case when found.missed > 0
            then '. A sync should have brought '
                || to_char(found.missed, 'FM999,999,999,990') || ' of the corrected deals'
            else '' end
$$;
