create or replace function check_run(number bigint) returns void language plpgsql as $$
begin
    if number is distinct from (select run_number from load_fence) then
        raise exception 'This run was superseded by a later one: it merges nothing more.'
            using errcode = '55000';
    end if;
end
$$;
comment on function check_run is
'Raises an error where a later run than the one of this number may load.';
