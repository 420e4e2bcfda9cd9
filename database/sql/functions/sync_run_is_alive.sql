create or replace function sync_run_is_alive(run sync_runs) returns boolean
language sql stable as $$
    -- The run's process writes a heartbeat every two seconds; both are the server's clock.
    -- One from the future is none: that clock was set back since.
    select run.ended_at is null
        and abs(extract(epoch from clock_timestamp() - run.heartbeat_at)) < 20
$$;
