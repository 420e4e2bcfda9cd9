-- Tell whether a text can be cast to a type. PostgreSQL 16 and newer have a function for that, and
-- can put it in place of the call.
do $do$
begin
    if current_setting('server_version_num')::integer >= 160000 then
        create or replace function is_valid(value text, type text) returns boolean
        language sql stable parallel safe as
        'select coalesce(pg_input_is_valid(value, type), true)';
    else
        create or replace function is_valid(value text, type text) returns boolean
        language plpgsql stable as $$
        begin
            execute format('select %L::%s', value, type);
            return true;
        exception
            when data_exception or invalid_text_representation then
                return false;
        end
        $$;
    end if;
end
$do$;
