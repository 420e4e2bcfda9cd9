"""The CRM of a release: the same when the release syncs it and when it is upgraded."""

from datetime import UTC, datetime, timedelta

from oracle_crm_sandbox import Sandbox

RECORDS = 240
PAGE = 40
BEGIN = datetime(2026, 2, 1, tzinfo=UTC)
LAST_DAY = 3


def begin(crm: Sandbox) -> None:
    """Create the CRM of the first day; one deal can never be loaded, another one not yet."""
    crm.reset(records=RECORDS, seed=1, now=BEGIN)
    crm.settings(page_cap=PAGE)
    # Earlier releases had a column for each custom field, with the field's type.
    crm.add_attribute("Size_c", "number", [1.5, None, 20])
    set_day(crm, 0)
    never, not_yet = keys(crm)[:2]
    crm.poison(never, "text_as_number", touch=False)
    crm.poison(not_yet, "bad_date", touch=False)


def second_day(crm: Sandbox) -> None:
    """Change some deals, and heal one."""
    set_day(crm, 1)
    at = (BEGIN + timedelta(hours=30)).isoformat()
    crm.mutate(create=6, update=20, close=6, reopen=4, seed=2, at=at)
    crm.heal(keys(crm)[1], touch=False)
    crm.update(keys(crm)[1], at=at, Name="Good at last")


def third_day(crm: Sandbox) -> None:
    """Change some deals, and delete a few, which a sync cannot notice."""
    set_day(crm, 2)
    crm.mutate(update=5, delete=3, seed=3, at=(BEGIN + timedelta(hours=54)).isoformat())


def set_day(crm: Sandbox, day: int) -> None:
    """Set the CRM's clock to noon of a day."""
    crm.clock((BEGIN + timedelta(days=day, hours=12) - datetime.now(UTC)).total_seconds())


def keys(crm: Sandbox) -> list[int]:
    """Return the keys of the deals, in their order."""
    return [row["OptyId"] for row in crm.rows(fields=["OptyId"])]
