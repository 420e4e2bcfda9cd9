"""What lists of opportunities need: search, and an index for each filter and sort."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create the search's functions, the extension it is indexed with, and the indexes."""
    op.execute(
        r"""
        create function search_text(variadic parts text[]) returns text
        language sql immutable parallel safe as $$
            -- Small letters without accents; those that Unicode does not take apart, by hand.
            select regexp_replace(
                translate(
                    lower(normalize(left(array_to_string(parts, ' '), 1000), NFKD)),
                    'øłđðħıŧ', 'olddhit'
                ),
                '[\u0300-\u036f]', '', 'g'
            )
        $$;
        comment on function search_text is
            'Texts as they are searched: small letters, no accents, the first 1,000 characters.';

        create function search_pattern(word text) returns text
        language sql immutable parallel safe as $$
            select '%' || regexp_replace(search_text(word), '([\\%_])', '\\\1', 'g') || '%'
        $$;
        comment on function search_pattern is 'The pattern for `like` that finds a word anywhere.';

        -- Stored, for a search looks at the text of every row that the index proposes.
        alter table opportunities add search_text text
        generated always as (search_text(name, customer)) stored;

        do $do$
        begin
            create extension if not exists pg_trgm;
            create index opportunities_search on opportunities
            using gin (search_text gin_trgm_ops);
            create function search_matches(haystack text, word text) returns boolean
            language sql stable parallel safe as $$
                select haystack like search_pattern(word) or search_text(word) <% haystack
            $$;
            create function search_rank(haystack text, words text) returns real
            language sql immutable parallel safe as $$
                select word_similarity(search_text(words), haystack)
            $$;
        exception
            -- A role without the right to create it, or a server that does not carry it.
            when insufficient_privilege or undefined_file or feature_not_supported then
                raise warning 'There is no extension pg_trgm: search is slow and takes words as '
                    'they are typed.';
                create function search_matches(haystack text, word text) returns boolean
                language sql immutable parallel safe as $$
                    select haystack like search_pattern(word)
                $$;
                create function search_rank(haystack text, words text) returns real
                language sql immutable parallel safe as $$
                    select case when haystack like search_pattern(words) then 1 else 0 end::real
                $$;
        end
        $do$;
        comment on function search_matches is 'Whether a word is in a search_text, about.';
        comment on function search_rank is 'How well a search_text fits, from 0 to 1.';

        -- Keys that are never null make one index serve both directions, and a page one range:
        -- nothing counts as smallest. Names can be longer than an index entry may be.
        create index opportunities_by_name on opportunities
        (lower(left(coalesce(name, ''), 200)), id);
        create index opportunities_by_customer on opportunities
        (lower(left(coalesce(customer, ''), 200)), id);
        create index opportunities_by_deal_value on opportunities
        (coalesce(deal_value, '-infinity'), id);
        create index opportunities_by_close_date on opportunities
        (coalesce(close_date, '-infinity'), id);
        create index opportunities_by_remote_updated_at on opportunities
        (coalesce(remote_updated_at, '-infinity'), id);
        create index opportunities_by_workflow_status on opportunities (workflow_status, id);
        create index opportunities_by_stage on opportunities (left(stage, 200), id);
        create index opportunities_by_sales_owner on opportunities (left(sales_owner, 200), id);
        create index opportunities_by_practice on opportunities (left(practice, 200), id);
        """
    )
