create or replace function share_crm_calls(
    account text, process text, calls integer, served integer,
    out processes integer, out others integer[], out found integer
) language sql as $$
    delete from crm_calls where minute < now() - interval '2 hours';

    insert into crm_calls as mine (account, process, minute, calls, served)
    values ($1, $2, date_trunc('minute', now()), $3, $4)
    on conflict on constraint crm_calls_pkey do update
    set calls = mine.calls + excluded.calls, served = excluded.served, seen_at = clock_timestamp();

    select
        (
            select count(distinct shared.process)::integer
            from crm_calls as shared
            where shared.account = $1 and shared.seen_at > now() - interval '30 seconds'
        ),
        array(
            select coalesce(sum(shared.calls), 0)::integer
            from generate_series(0, 60) as ago
            left join crm_calls as shared
                on shared.minute = date_trunc('minute', now()) - ago * interval '1 minute'
                and shared.account = $1 and shared.process != $2
            group by ago
            order by ago
        ),
        (
            select shared.served
            from crm_calls as shared
            where
                shared.account = $1 and shared.served is not null
                and shared.seen_at > now() - interval '1 hour'
            order by shared.seen_at desc
            limit 1
        );
$$;
comment on function share_crm_calls is
'Notes a process''s calls with an account of the CRM. Returns the number of its processes, the '
'calls of the others in this minute and in each of the 60 before it, and how many requests at once '
'the CRM serves to all of them, if it refused more.';
