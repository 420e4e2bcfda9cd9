"""`make check`: compare `crm.yml` with the CRM and the database; say what the next sync changes.

`python -m orchestrate.check` prints a line for each finding: ✓ it is well, → the next sync changes
this, ! look at it, ✗ it is wrong; `--json` prints the same for machines. The exit code is 1 if
there is any ✗. The CRM gets one request, or two if fields of accounts are declared. What the file
would change is tried in a transaction that is rolled back, so that the rules are those of the sync
itself.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from tap_oracle_crm.crm import Crm
from tap_oracle_crm.errors import OracleCrmError, is_fatal

from database import objects
from database.address import AddressError, database_url, url_for
from database.locks import LockedError, bounded
from declared.fields import OF_ACCOUNT
from declared.file import (
    MODELS,
    DeclarationError,
    Declared,
    decides_anew,
    declare,
    read_declared,
)
from orchestrate.crm import tap_settings

Connection = psycopg.Connection[DictRow]
Fields = dict[str, DictRow]
Annotations = Mapping[str, Mapping[str, str]]
"""What the CRM says of attributes, by name: `title` and `description`, its own type."""

RESOURCES = {"": "opportunities", OF_ACCOUNT: "accounts"}
"""The CRM's resources by what attributes of theirs begin with in crm.yml."""

MARKS = {"ok": "✓", "change": "→", "warning": "!", "error": "✗"}
LOCK_SECONDS, QUERY_SECONDS = 5, 60
MOST = 20
"""Lines of one kind."""


@dataclass(frozen=True)
class Finding:
    """What the check found.

    Attributes:
        about: what it is about: `crm.yml`, `crm`, `database`, `fields`, `values`, `outcomes`,
            `currency` or `news`.
        status: `ok`, `change`, `warning` or `error`.
        detail: what is so.
        advice: what to do; empty where nothing is to be done.
    """

    about: str
    status: Literal["ok", "change", "warning", "error"]
    detail: str
    advice: str = ""


def check() -> list[Finding]:
    """Validate the file, and find what the next sync would change; nothing is written."""
    try:
        declared = read_declared()
        for section in MODELS:
            declared.model(section)
    except DeclarationError as error:
        return [Finding("crm.yml", "error", str(error), "Correct it: no sync starts before.")]
    found = [Finding("crm.yml", "ok", f"{len(declared.fields)} fields, without a mistake")]
    described: dict[str, Annotations] = {}
    for prefix, resource in RESOURCES.items():
        if prefix and not any(field.attribute.startswith(prefix) for field in declared.fields):
            continue
        try:
            with Crm(tap_settings(meltano=False)) as crm:
                listed = crm.annotations(resource)
        except OracleCrmError as error:
            found.append(_not_described(resource, str(error)))
            if is_fatal(error):
                break
            continue
        if listed:
            described[prefix] = listed
            detail = f"it describes {len(listed)} attributes of {resource}"
            found.append(Finding("crm", "ok", detail))
        else:
            found.append(_not_described(resource, "its answer names none"))
    try:
        url = url_for("run", database_url())
        with psycopg.connect(url, connect_timeout=10, row_factory=dict_row) as database:
            if missing := objects.missing(database):
                lacks = f"it lacks {objects.in_words(missing)}"
                return [*found, Finding("database", "error", lacks, "Run make setup.")]
            database.rollback()
            with (
                bounded(database, LOCK_SECONDS),
                database.transaction(force_rollback=True),
            ):
                database.execute(f"set local statement_timeout = '{QUERY_SECONDS}s'")
                found += _compare(database, declared, described)
    except (AddressError, LockedError, psycopg.Error) as error:
        found.append(Finding("database", "error", str(error).strip(), "Try again, or make doctor."))
    return found


def _not_described(resource: str, reason: str) -> Finding:
    return Finding(
        "crm",
        "warning",
        f"it does not describe the attributes of {resource} ({reason}): the last description"
        " counts",
        "make doctor and make probe find the reason.",
    )


def _compare(
    connection: Connection, declared: Declared, described: Mapping[str, Annotations]
) -> Iterator[Finding]:
    before = _fields(connection)
    is_changed = decides_anew(connection, declared)
    declare(connection, declared)
    for prefix, listed in described.items():
        _describe(connection, prefix, listed)
    after = _fields(connection)
    changes = list(_changes(before, after)) if before else []
    yield from changes
    yield from _absent(connection, after)
    yield from _misfits(connection, before, after)
    yield from _outcomes(connection, after)
    conversion = list(_conversion(connection))
    yield from conversion
    yield from _news(connection)
    deals = _scalar(connection, "select count(*) from public.opportunities")
    if before and (is_changed or changes):
        yield Finding("crm.yml", "change", f"the next sync merges all {deals:,} deals again")
    elif before and not any(one.status == "change" for one in conversion):
        yield Finding("crm.yml", "ok", "the next sync changes nothing because of it")


def _fields(connection: Connection) -> Fields:
    """Return the fields as the database has them now."""
    rows = connection.execute("select * from public.fields order by position")
    return {row["name"]: row for row in rows}


def _describe(connection: Connection, prefix: str, described: Annotations) -> None:
    """Put a description by the CRM into the database, as the model `crm_attributes` does."""
    attributes = [
        {"name": prefix + name, "label": one["title"], "type": one["description"]}
        for name, one in described.items()
    ]
    connection.execute(
        """
        insert into public.crm_attributes as known (name, label, type)
        select name, label, type
        from jsonb_to_recordset(%s) as listed (name text, label text, type text)
        on conflict (name) do update set
            label = excluded.label,
            type = excluded.type,
            gone_since = null,
            previous_type = case
                when known.type != excluded.type then known.type else known.previous_type
            end,
            type_changed_at = case
                when known.type != excluded.type then now() else known.type_changed_at
            end
        """,
        [Jsonb(attributes)],
    )
    connection.execute(
        "update public.crm_attributes set gone_since = now()"
        " where gone_since is null and name != all(%s) and starts_with(name, %s) = %s",
        [[one["name"] for one in attributes], OF_ACCOUNT, prefix == OF_ACCOUNT],
    )


def _changes(before: Fields, after: Fields) -> Iterator[Finding]:
    names = {field["attribute"]: field["name"] for field in before.values()}
    renamed = {
        names[field["attribute"]]: name
        for name, field in after.items()
        if names.get(field["attribute"], name) != name and names[field["attribute"]] not in after
    }
    for name, field in after.items():
        if name in renamed.values():
            continue
        if name not in before:
            detail = f"new: {name}, the {field['type']} {field['attribute']}"
            advice = "" if field["column"] else "The next sync reads all deals."
            if field["attribute"].startswith(OF_ACCOUNT):
                advice = (
                    "The next sync reads all accounts; for the first field of theirs, all deals."
                )
            if advice and (field["filter"] or field["sort"]):
                advice += " make setup makes its index."
            yield Finding("fields", "change", detail, advice)
        elif before[name]["attribute"] != field["attribute"]:
            was = before[name]["attribute"]
            detail = f"of another attribute: {name} was {was}, is {field['attribute']}"
            yield Finding("fields", "change", detail)
        elif before[name]["type"] != field["type"]:
            detail = f"of another type: {name} was {before[name]['type']}, is {field['type']}"
            yield Finding("fields", "change", detail)
    for old, new in renamed.items():
        yield Finding("fields", "change", f"renamed: {old} is {new}; the history of {old} stays")
    for name in before:
        if name not in after and name not in renamed:
            detail = f"removed: {name}; deals keep its values and its history"
            yield Finding("fields", "change", detail)


def _typed(fields: Iterable[DictRow], prefix: str = "") -> tuple[list[str], list[str]]:
    """Return the attributes, without a prefix that they have, and types of own fields.

    Values of texts and lists always fit, so these are left out.
    """
    own = [
        field
        for field in fields
        if field["column"] is None
        and field["type"] not in {"text", "list"}
        and field["attribute"].startswith(prefix)
    ]
    attributes = [field["attribute"].removeprefix(prefix) for field in own]
    return attributes, [field["type"] for field in own]


def _absent(connection: Connection, fields: Fields) -> Iterator[Finding]:
    known = connection.execute(
        "select distinct starts_with(name, %s) as of_account from public.crm_attributes",
        [OF_ACCOUNT],
    )
    described = {row["of_account"] for row in known}
    for field in fields.values():
        is_described = field["attribute"].startswith(OF_ACCOUNT) in described
        if is_described and not field["is_in_crm"]:
            yield Finding(
                "fields",
                "warning" if field["column"] else "error",
                f"the CRM has no attribute {field['attribute']}: {field['name']} is empty",
                "Correct its line, or remove it.",
            )


def _misfits(connection: Connection, before: Fields, after: Fields) -> Iterator[Finding]:
    """Find the values of own fields that would reject their deals.

    A merge has looked at the values of the fields that stay as they are. Of these, only the deals
    are looked at that it has rejected, or not merged yet.
    """
    known = {(field["attribute"], field["type"]) for field in before.values()}
    fields: dict[bool, list[DictRow]] = {True: [], False: []}
    for field in after.values():
        fields[(field["attribute"], field["type"]) not in known].append(field)
    rows = [row for is_new, some in fields.items() for row in _misfits_of(connection, some, is_new)]
    rows.sort(key=lambda row: (-row["deals"], row["attribute"]))
    for row in rows[:MOST]:
        yield Finding(
            "values",
            "error",
            f"deals whose {row['attribute']} is no {row['type']}: {row['deals']:,}, such as"
            f" {json.dumps(row['example'], ensure_ascii=False)}; the sync rejects them",
            f"Correct them in the CRM, or declare {row['attribute']} as text.",
        )


def _misfits_of(connection: Connection, fields: list[DictRow], is_new: bool) -> list[DictRow]:
    attributes, types = _typed(fields)
    if not attributes:
        return []
    rows = connection.execute(
        """
        select
            field.attribute,
            field.type,
            count(*) as deals,
            min(left(given.value #>> '{}', 60)) as example
        from raw.opportunities as deals
        left join raw.accounts on deals."TargetPartyId" = accounts."PartyId"
        cross join lateral (
            values ('', deals.custom), ('Account.', accounts.custom)
        ) as part (prefix, attributes)
        cross join lateral jsonb_each(part.attributes) as given (key, value)
        inner join unnest(%s::text[], %s::text[]) as field (attribute, type)
            on lower(part.prefix || given.key) = lower(field.attribute)
        where
            deals._sdc_deleted_at is null
            and (
                %s
                or greatest(deals._loaded_in, accounts._loaded_in) > coalesce(
                    (
                        select merged_until from public.merge_marks
                        where model = 'rejected_records'
                    ),
                    0
                )
                or deals."OptyId" in (
                    select case when remote_id ~ '^[0-9]{1,18}$' then remote_id::bigint end
                    from public.rejected_records
                    where stream = 'opportunities' and resolved_at is null
                )
            )
            and (
                part.prefix || given.key = field.attribute
                or not jsonb_exists(
                    part.attributes, substr(field.attribute, length(part.prefix) + 1)
                )
            )
            and public.field_value(given.value, field.type) is null
        group by field.attribute, field.type
        """,
        [attributes, types, is_new],
    )
    return rows.fetchall()


def _outcomes(connection: Connection, fields: Fields) -> Iterator[Finding]:
    """Count the deals whose outcome changes, by the sync's own view; rejected deals stay."""
    if _scalar(connection, "select to_regclass('staging.opportunity_outcomes') is null"):
        return
    # As the model `status_outcomes`, for codes that are known already.
    connection.execute(
        "delete from public.status_outcomes where source = 'declared' and code not in"
        " (select name from public.declared_outcomes where section = 'statuses')"
    )
    connection.execute(
        """
        insert into public.status_outcomes (code, outcome, source)
        select name, outcome, 'declared' from public.declared_outcomes where section = 'statuses'
        on conflict (code) do update set outcome = excluded.outcome, source = 'declared'
        """
    )
    connection.execute(
        """
        insert into public.status_outcomes (code, outcome, source)
        select code, upper(btrim(category)), 'crm' from staging.stg_opportunity_statuses
        where upper(btrim(category)) in ('OPEN', 'WON', 'LOST', 'CLOSED')
        on conflict do nothing
        """
    )
    rows = connection.execute(
        """
        select deals.crm_outcome as before, judged.crm_outcome as after, count(*) as deals
        from staging.opportunity_outcomes as judged
        inner join public.opportunities as deals on judged.remote_id = deals.remote_id
        inner join raw.opportunities as loaded on deals.remote_id::bigint = loaded."OptyId"
        left join raw.accounts on loaded."TargetPartyId" = accounts."PartyId"
        where
            judged.crm_outcome is not null
            and judged.crm_outcome is distinct from deals.crm_outcome
            and public.own_error(loaded.custom, %s, %s) is null
            and public.own_error(accounts.custom, %s, %s) is null
            -- Rejected so far for another reason than a field.
            and (
                judged.reject_reason is null
                or exists (
                    select from staging.stg_opportunities as rejected
                    where rejected.opty_id = loaded."OptyId" and rejected.custom_error is not null
                )
            )
        group by before, after
        order by count(*) desc
        """,
        [*_typed(fields.values()), *_typed(fields.values(), OF_ACCOUNT)],
    ).fetchall()
    for row in rows:
        yield Finding(
            "outcomes",
            "change",
            f"deals that become {row['after']}: {row['deals']:,}, now {row['before'] or 'unknown'}",
        )
    if not rows:
        yield Finding("outcomes", "ok", "no deal gets another outcome")


def _conversion(connection: Connection) -> Iterator[Finding]:
    """Count the deals that are converted anew, and those for which there is no rate."""
    counted = connection.execute(
        """
        select
            declared.reporting,
            applied.currency as before,
            nullif(deals.currency, '') as currency,
            count(*) filter (where deals.reporting_value is distinct from converted.value) as anew,
            count(*) filter (where converted.value is null and deals.deleted_at is null) as lacking
        from (
            select content ->> 'reporting' as reporting, (content -> 'rates')::jsonb as rates
            from public.declarations
            where section = 'currency' order by id desc limit 1
        ) as declared
        cross join public.reporting_currency as applied
        left join public.opportunities as deals on deals.deal_value is not null
        left join lateral (
            select public.in_reporting_currency(
                deals.deal_value, deals.currency, deals.crm_rate, deals.crm_rate_currency,
                declared.reporting, declared.rates
            ) as value
        ) as converted on deals.id is not null
        group by 1, 2, 3
        order by lacking desc, currency
        """
    ).fetchall()
    anew = sum(row["anew"] for row in counted)
    before, reporting = counted[0]["before"], counted[0]["reporting"]
    if reporting is None:
        if before is not None:
            yield Finding("currency", "change", f"values are no longer converted into {before}")
        return
    if anew:
        yield Finding("currency", "change", f"deals to convert into {reporting}: {anew:,}")
    lacking = [row for row in counted if row["lacking"]]
    if not lacking:
        yield Finding("currency", "ok", f"each value can be converted into {reporting}")
        return
    most = ", ".join(
        f"{row['currency'] or 'no currency'} {row['lacking']:,}" for row in lacking[:MOST]
    )
    deals = sum(row["lacking"] for row in lacking)
    yield Finding(
        "currency",
        "warning",
        f"deals without a rate into {reporting}: {deals:,} ({most})",
        "Sums leave them out. Add their currencies in crm.yml, under rates.",
    )


def _news(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(
        "select * from public.field_news where kind in ('new', 'gone', 'type')"
        " order by kind, attribute"
    ).fetchall()
    for row in rows[:MOST]:
        yield Finding(
            "news", "change", row["detail"], f"In crm.yml, {row['advice']}" if row["advice"] else ""
        )
    if len(rows) > MOST:
        yield Finding("news", "change", f"and {len(rows) - MOST} more", "See the view field_news.")


def _scalar(connection: Connection, query: Any) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else next(iter(row.values()))


def main() -> None:
    """Print the findings."""
    found = check()
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
    else:
        for one in found:
            print(f"{MARKS[one.status]} {one.about}: {one.detail}")
            if one.advice:
                print(f"  {one.advice}")
    sys.exit(any(one.status == "error" for one in found))


if __name__ == "__main__":
    main()
