-- The search of lists. The extension may be missing: the role may not create it, or the server does
-- not carry it. One or two letters are similar to nearly everything, and no index finds them: for
-- them similarity would cost seconds and say nothing.

-- Texts as they are searched: small letters without accents; letters that Unicode does not take
-- apart, by hand. A merge asks for each deal; plain ASCII, as most are, takes a fifth of the time.
create or replace function search_text(variadic parts text[]) returns text
language plpgsql immutable parallel safe as $$
declare
    words constant text := left(array_to_string(parts, ' '), 1000);
    small constant text := lower(words);
begin
    if octet_length(small) = char_length(words) then
        return small;
    end if;
    return regexp_replace(
        translate(lower(normalize(words, NFKD)), 'øłđðħıŧ', 'olddhit'),
        '[\u0300-\u036f]', '', 'g'
    );
end
$$;

create or replace function search_pattern(word text) returns text
language sql immutable parallel safe as $$
    select '%' || regexp_replace(search_text(word), '([\\%_])', '\\\1', 'g') || '%'
$$;
comment on function search_pattern is 'The pattern for `like` that finds a word anywhere.';

create or replace function search_words(words text) returns text[]
language sql immutable parallel safe as $$
    select coalesce(
        array_agg('\m' || regexp_replace(word, '([^[:alnum:]])', '\\\1', 'g') || '\M'), '{}'
    )
    from regexp_split_to_table(search_text(words), '\s+') as word
    where word != ''
$$;
comment on function search_words is 'The patterns for `~` that find words only as whole words.';

-- The expressions are those of the indexes. Few digits begin many numbers. For a word without any
-- the planner sees that there is nothing to look for.
create or replace function has_number(opty_number text, remote_id text, word text) returns boolean
language sql immutable parallel safe as $$
    select case
        when word ~ '\d' then lower(left(opty_number, 200)) = lower(word) or remote_id = word
        else false
    end
$$;
comment on function has_number is 'Whether a word is the OptyNumber or the OptyId of a deal.';

create or replace function has_number_like(opty_number text, remote_id text, word text)
returns boolean
language sql immutable parallel safe as $$
    select case
        when word ~ '\d{4}' then
            lower(left(opty_number, 200))
            like regexp_replace(lower(word), '([\\%_])', '\\\1', 'g') || '%'
            or remote_id like regexp_replace(word, '([\\%_])', '\\\1', 'g') || '%'
        else has_number(opty_number, remote_id, word)
    end
$$;
comment on function has_number_like is
'Whether a word, if it has four digits in a row, begins the OptyNumber or the OptyId of a deal.';

do $do$
begin
    if exists (select from pg_extension where extname = 'pg_trgm') then
        -- A search reads what is pending row by row: of the usual 4 MB in half a second.
        create index if not exists opportunities_search on opportunities
        using gin (search_text gin_trgm_ops) with (gin_pending_list_limit = 128);
        create index if not exists opportunities_by_start_of_search_text on opportunities
        (left(search_text, 2) text_pattern_ops, id);
        create or replace function search_matches(haystack text, word text) returns boolean
        language sql stable parallel safe as $$
            select haystack like search_pattern(word)
                or char_length(word) > 2 and search_text(word) <% haystack
        $$;
        create or replace function search_rank(haystack text, words text) returns real
        language sql immutable parallel safe as $$
            select case
                when char_length(words) > 2 then word_similarity(search_text(words), haystack)
                else starts_with(haystack, search_text(words))::int::real
            end
        $$;
        create or replace function search_fits(haystack text, words text) returns boolean
        language sql immutable parallel safe as $$
            select case
                when char_length(words) > 2 then haystack ~ all(search_words(words))
                -- Two letters are one range of the index, in the order of the ids.
                when char_length(search_text(words)) > 1 then
                    left(haystack, 2) = left(search_text(words), 2)
                    and starts_with(haystack, search_text(words))
                else left(haystack, 2) ^@ search_text(words)
            end
        $$;
    else
        create or replace function search_matches(haystack text, word text) returns boolean
        language sql immutable parallel safe as $$
            select haystack like search_pattern(word)
        $$;
        create or replace function search_rank(haystack text, words text) returns real
        language sql immutable parallel safe as $$
            select case when haystack like search_pattern(words) then 1 else 0 end::real
        $$;
        create or replace function search_fits(haystack text, words text) returns boolean
        language sql immutable parallel safe as $$
            select haystack ~ all(search_words(words))
        $$;
    end if;
end
$do$;
comment on function search_matches is 'Whether a word is in a search_text, about.';
comment on function search_rank is 'How well a search_text fits, from 0 to 1.';
comment on function search_fits is
'Whether a search_text has all words as they are: these come first in a search.';
