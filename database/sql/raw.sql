-- The tables that the loader fills. They are the application's, so that every column has the type
-- that the transformation relies on, and no field of a customer's needs DDL. `make setup` runs
-- this each time: what is there stays as it is.

create schema if not exists raw;

create table if not exists raw.opportunities (
    "OptyId" bigint primary key,
    "OptyNumber" text,
    "Name" text,
    "TargetPartyId" bigint,
    "TargetPartyName" text,
    "Revenue" numeric,
    "CurrencyCode" text,
    "WinProb" numeric,
    "SalesStage" text,
    "StatusCode" text,
    "StageStatusCd" text,
    "LookupCategory" text,
    "EffectiveDate" date,
    "OwnerResourcePartyId" bigint,
    "PartyName1" text,
    "CrmConversionRate" numeric,
    "CrmCurcyCode" text,
    "CreationDate" timestamptz,
    "CreatedBy" text,
    "LastUpdateDate" timestamptz,
    "LastUpdatedBy" text,
    custom jsonb
);

create table if not exists raw.rejected_records (
    id text primary key,
    stream text,
    remote_id text,
    reason text,
    payload text,
    rejected_at timestamptz
);

create table if not exists raw.accounts (
    "PartyId" bigint primary key,
    "PartyNumber" text,
    "OrganizationName" text,
    "Type" text,
    "OwnerPartyId" bigint,
    "CreationDate" timestamptz,
    "CreatedBy" text,
    "LastUpdateDate" timestamptz,
    "LastUpdatedBy" text
);
alter table raw.accounts add column if not exists custom jsonb;

-- A changed account merges its deals again. Deals have the key only if crm.yml names an account's
-- attribute; else this index is empty.
create index if not exists opportunities_of_account on raw.opportunities ("TargetPartyId")
where "TargetPartyId" is not null;

create table if not exists raw.resources (
    "PartyId" bigint primary key,
    "PartyNumber" text,
    "PartyName" text,
    "EmailAddress" text,
    "ResourceProfileId" bigint,
    "CreationDate" timestamptz,
    "CreatedBy" text,
    "LastUpdateDate" timestamptz,
    "LastUpdatedBy" text
);

create table if not exists raw.revenue_lines (
    "RevnId" bigint primary key,
    "OptyId" bigint,
    "RevnAmount" numeric,
    "RevnAmountCurcyCode" text,
    "Quantity" numeric,
    "WinProb" numeric,
    "StatusCode" text,
    "ProdGroupName" text,
    "EffectiveDate" date,
    "ActualCloseDate" date,
    "CreationDate" timestamptz,
    "CreatedBy" text,
    "LastUpdateDate" timestamptz,
    "LastUpdatedBy" text
);

create table if not exists raw.opportunity_team (
    "OptyResourceId" bigint primary key,
    "OptyId" bigint,
    "ResourceId" bigint,
    "PartyName" text,
    "EmailAddress" text,
    "MemberFunctionCode" text,
    "OwnerFlag" boolean,
    "CreationDate" timestamptz,
    "CreatedBy" text,
    "LastUpdateDate" timestamptz,
    "LastUpdatedBy" text
);

create table if not exists raw.opportunity_statuses (
    "LookupCode" text primary key,
    "Meaning" text,
    "LookupCategory" text
);

create table if not exists raw.opportunity_attributes (
    resource text primary key,
    attributes text
);

-- Which records each batch brought, the unchanged ones too, which cost no write elsewhere. A merge
-- counts them and takes them out.
create table if not exists raw.read_keys (
    loaded_in bigint not null,
    stream text not null,
    record_key text not null
);
create index if not exists read_keys_loaded_in on raw.read_keys (loaded_in);

create or replace function raw.begin_batch(run bigint) returns bigint language plpgsql as $$
declare
    begun bigint;
begin
    -- The row's lock, held until the transaction ends, lets batches commit in the order of their
    -- numbers: a merge that has seen a number has seen all below it.
    update public.load_fence set batch = load_fence.batch + 1
    where run is null or run_number = run
    returning load_fence.batch into begun;
    if begun is null then
        raise exception 'This run was superseded by a later one: nothing more of it is loaded.'
            using errcode = '55000';
    end if;
    perform set_config('oracle_crm.batch', begun::text, true);
    return begun;
end
$$;

create or replace function raw.note_batch() returns trigger language plpgsql as $$
begin
    -- What is erased is erased from the merged rows, too: there is nothing to merge.
    if current_setting('app.erasing', true) = 'on' then
        return new;
    end if;
    new._loaded_in := coalesce(
        nullif(current_setting('oracle_crm.batch', true), '')::bigint, raw.begin_batch(null)
    );
    return new;
end
$$;
comment on function raw.note_batch is
'Numbers the rows of a loader that does not do it itself, as MeltanoLabs'' own.';

-- Of databases that are older than these attributes.
alter table raw.opportunities
add column if not exists "CrmConversionRate" numeric,
add column if not exists "CrmCurcyCode" text;

do $do$
declare
    name text;
begin
    foreach name in array array[
        'opportunities', 'rejected_records', 'accounts', 'resources', 'revenue_lines',
        'opportunity_team', 'opportunity_statuses', 'opportunity_attributes'
    ] loop
        execute format(
            'alter table raw.%I
                add column if not exists _sdc_extracted_at timestamptz,
                add column if not exists _sdc_received_at timestamptz,
                add column if not exists _sdc_batched_at timestamptz,
                add column if not exists _sdc_deleted_at timestamptz,
                add column if not exists _sdc_sequence bigint,
                add column if not exists _sdc_table_version bigint,
                add column if not exists _sdc_sync_started_at bigint,
                add column if not exists _loaded_in bigint',
            name
        );
        execute format(
            'create index if not exists %I on raw.%I (_loaded_in)', name || '_loaded_in', name
        );
        execute format(
            'create or replace trigger note_batch_of_insert before insert on raw.%I
                for each row when (new._loaded_in is null) execute function raw.note_batch()',
            name
        );
        execute format(
            'create or replace trigger note_batch_of_update before update on raw.%I
                for each row when (new._loaded_in is not distinct from old._loaded_in)
                execute function raw.note_batch()',
            name
        );
    end loop;
end
$do$;
