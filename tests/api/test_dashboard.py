"""The dashboard's numbers are those of the deals, whatever is written, and by whom meanwhile."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from html import unescape
from math import ceil
from typing import Any, LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from api.auth import Role, User
from api.dashboard.service import MONTHS, Choice, read
from api.opportunities.unchanged import Unchanged
from tests.api.conftest import Caller

TODAY = datetime.now(UTC).date()
INSERT: LiteralString = """
insert into opportunities (
    remote_id, currency, stage, practice, close_date, crm_outcome, deal_value, win_probability,
    reporting_value
)
select
    gen_random_uuid(),
    (array['EUR', 'USD', '', null])[1 + (i + %(n)s) %% 4],
    (array['01', '02', '', null])[1 + (i + %(n)s) / 2 %% 4],
    (array['Cloud', 'Data', '', null])[1 + (i + %(n)s) / 3 %% 4],
    case when i %% 5 != 0 then current_date + 40 * (i - %(n)s) end,
    (array['OPEN', null, 'OPEN', 'WON', 'OPEN', 'LOST', 'CLOSED'])[1 + (i + %(n)s) %% 7],
    case when i %% 6 != 0 then 100.5 * (i + %(n)s) end,
    case when i %% 4 != 0 then 10 * (i %% 11) end,
    case when i %% 6 != 0 and i %% 5 != 1 then 90.3 * (i + %(n)s) end
from generate_series(1, 3 * %(n)s) as i
"""
# What a writer may do to some of the deals.
STEPS: dict[str, LiteralString] = {
    "begin": "begin",
    "insert": INSERT,
    "delete": "delete from opportunities where id %% 7 = %(n)s",
    "mark": "update opportunities set deleted_at = now() where id %% 5 = %(n)s",
    "return": "update opportunities set deleted_at = null where id %% 2 = %(n)s %% 2",
    "win": "update opportunities set crm_outcome = 'WON' where id %% 5 = %(n)s",
    "reopen": "update opportunities set crm_outcome = null where id %% 3 = %(n)s",
    "move": "update opportunities set stage = '0' || %(n)s, practice = 'New' where id %% 4 = 1",
    "postpone": "update opportunities set close_date = close_date + 31 * %(n)s",
    "slip": "update opportunities set deal_value = deal_value * 1e6, reporting_value ="
    " reporting_value * 1e6 where id %% 11 = %(n)s and deal_value < 1e9",
    "rate": "update opportunities set reporting_value = deal_value * %(n)s where currency = 'USD'",
    "currency": "update opportunities set currency = 'JPY' where id %% 6 = %(n)s",
    # The merge, which alone does so, writes the deals in the same transaction.
    "reporting": "with reporting as ("
    " update reporting_currency set currency = case when %(n)s > 2 then 'EUR' end"
    ") update opportunities set reporting_value = null where false",
    "edit": "update opportunities set workflow_status = 'ASSIGNED' where id %% 3 = 0",
    "truncate": "truncate opportunities cascade",
    "savepoint": "savepoint a",
    "back": "rollback to savepoint a",
    "commit": "commit",
    "rollback": "rollback",
}
AGEING = """
create view workflow_ageing as
select workflow_status, count(*) as deals, 0::numeric as median_days, 0::numeric as oldest_days
from opportunities where coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null
group by workflow_status
"""


@pytest.fixture
def writers(database: str) -> Iterator[tuple[Any, Any]]:
    """Two sessions that write."""
    with (
        psycopg.connect(database, autocommit=True) as one,
        psycopg.connect(database, autocommit=True) as other,
    ):
        for connection in (one, other):
            connection.execute("set lock_timeout = '100ms'")
        one.execute("create schema if not exists staging")
        one.execute(AGEING)
        one.execute("insert into reporting_currency (currency, rates) values ('EUR', '{}')")
        yield one, other
        one.execute("rollback")
        other.execute("rollback")
        one.execute("drop view workflow_ageing")


def _limits(deals: list[DictRow], reporting: str | None) -> dict[str, Decimal]:
    values = defaultdict(list)
    for deal in deals:
        value = deal["deal_value" if reporting is None else "reporting_value"]
        if value is not None and value > 0:
            values[deal["currency"] or "" if reporting is None else "*"].append(value)
    return {
        key: 100 * sorted(all_, reverse=True)[ceil(len(all_) / 100)]
        for key, all_ in values.items()
        if len(all_) > ceil(len(all_) / 100)
    }


def _sums(rows: list[DictRow], value: str) -> dict[str, Any]:
    usual = [row for row in rows if not row["is_outlier"]]
    return {
        "deals": len(rows),
        "deal_value": sum(row[value] or 0 for row in rows),
        "usual_value": sum(row[value] or 0 for row in usual),
        "weighted_value": (
            Decimal(sum((row[value] or 0) * (row["win_probability"] or 0) for row in rows)) / 100
        ).quantize(Decimal("0.01"), ROUND_HALF_UP),
        "without_rate": sum(
            value == "reporting_value" and row["deal_value"] is not None and row[value] is None
            for row in rows
        ),
    }


def _with_currency(everything: list[DictRow]) -> list[DictRow]:
    """The deals whose currencies can be chosen: the counted ones, else the first."""
    counted = [
        deal
        for deal in everything
        if deal["deleted_at"] is None and deal["crm_outcome"] != "CLOSED"
    ]
    return counted or [min(everything, key=lambda deal: deal["id"])]


def _expected(
    everything: list[DictRow], reporting: str | None, shown: dict[str, Any], choice: Choice
) -> dict[str, Any]:
    """Count the deals themselves."""
    there = [deal for deal in everything if deal["deleted_at"] is None]
    open_ones = [deal for deal in there if deal["crm_outcome"] in ("OPEN", None)]
    limits = _limits(open_ones, reporting)
    for deal in there:
        value, limit = deal["reporting_value"], limits.get("*")
        if value is None or limit is None:
            value, limit = deal["deal_value"], limits.get(deal["currency"] or "")
        deal["is_outlier"] = None not in (value, limit) and value > limit
        month = deal["close_date"]
        deal["month"] = month and month.replace(day=1)
    converted = shown["is_converted"]
    assert converted == (reporting is not None and choice.currency is None)
    value = "reporting_value" if converted else "deal_value"
    of = [deal for deal in there if converted or (deal["currency"] or None) == shown["currency"]]
    rows = [deal for deal in of if deal in open_ones]
    outliers = sum(deal["is_outlier"] for deal in rows)
    if choice.outliers is not None:
        rows = [deal for deal in rows if not deal["is_outlier"]]
    first = TODAY.replace(day=1)
    months = 12 * first.year + first.month - 1 + MONTHS
    last = date(months // 12, months % 12 + 1, 1)
    by_stage, by_month, decided = defaultdict(list), defaultdict(list), defaultdict(list)
    for deal in rows:
        by_stage[deal["stage"] or None].append(deal)
        if deal["month"] is not None and first <= deal["month"] < last:
            by_month[deal["month"]].append(deal)
    for deal in of:
        if deal["crm_outcome"] in ("WON", "LOST"):
            decided[deal["practice"] or None].append(deal["crm_outcome"])
    overdue = [deal for deal in rows if deal["month"] is not None and deal["month"] < first]
    top = [deal for deal in rows if deal[value] is not None]
    top.sort(key=lambda deal: (-deal[value], -deal["id"]))
    return {
        "currencies": {
            name: sum((deal["currency"] or None) == name for deal in open_ones)
            for name in {deal["currency"] or None for deal in _with_currency(everything)}
        },
        "total": _sums(rows, value) | {"outliers": outliers},
        "overdue": len(overdue),
        "by_stage": {stage: _sums(of_it, value) for stage, of_it in by_stage.items()},
        "by_month": {month: _sums(of_it, value) for month, of_it in by_month.items()},
        "win_rate": {
            practice: (all_.count("WON"), all_.count("LOST")) for practice, all_ in decided.items()
        },
        "top": [deal["id"] for deal in top[:10]],
    }


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    def sums(row: dict[str, Any]) -> dict[str, Any]:
        names = ("deals", "deal_value", "usual_value", "weighted_value", "without_rate")
        return {name: row[name] for name in names}

    return {
        "currencies": {row["currency"]: row["deals"] for row in found["currencies"]},
        "total": sums(found["total"]) | {"outliers": found["total"]["outliers"]},
        "overdue": found["overdue"]["deals"],
        "by_stage": {row["stage"]: sums(row) for row in found["by_stage"]},
        "by_month": {row["close_month"]: sums(row) for row in found["by_month"]},
        "win_rate": {row["practice"]: (row["won"], row["lost"]) for row in found["win_rate"]},
        "top": [row["id"] for row in found["top"]],
    }


CHOICES = [
    Choice(),
    Choice(outliers="without"),
    Choice(currency="USD"),
    Choice(currency="USD", outliers="without"),
]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["insert", *STEPS]),
            st.integers(1, 4),
            st.sampled_from([None, *CHOICES]),
        ),
        max_size=30,
    )
)
def test_the_numbers_are_those_of_the_deals(
    database: str,
    writers: tuple[Any, Any],
    steps: list[tuple[int, str, int, Choice | None]],
) -> None:
    user = User(1, "vera", Role.VIEWER, 1, frozenset(), True, True, "")

    async def run() -> None:
        unchanged = Unchanged()
        async with await AsyncConnection.connect(
            database, autocommit=True, row_factory=dict_row, options="-c lock_timeout=100ms"
        ) as reader:
            for number, step, n, choice in steps:
                try:
                    writers[number].execute(STEPS[step], {"n": n})
                except (
                    psycopg.InternalError,
                    psycopg.OperationalError,
                ):  # outside a transaction, say, or locked by the other
                    writers[number].execute("rollback")
                if choice is None:
                    continue
                try:
                    found = await read(reader, user, unchanged, choice)
                    deals = await (await reader.execute("select * from opportunities")).fetchall()
                except psycopg.errors.LockNotAvailable:  # of a truncate
                    continue
                reporting = await reader.execute("select currency from reporting_currency")
                (row,) = await reporting.fetchall()
                if found is None:
                    assert deals == []
                else:
                    is_there = any(
                        row["currency"] == choice.currency for row in found["currencies"]
                    )
                    wanted = choice if is_there else choice.model_copy(update={"currency": None})
                    assert _shown(found) == _expected(deals, row["currency"], found, wanted)

    for writer in writers:
        writer.execute("rollback")
    asyncio.run(run())


def test_without_open_deals_there_are_zeros_and_the_win_rate(
    writers: tuple[Any, Any], caller: Caller
) -> None:
    one, _ = writers
    empty = "Nothing to show yet"
    assert empty in caller.get("/dashboard").text
    one.execute(
        "insert into opportunities (remote_id, currency, deal_value, crm_outcome, practice)"
        " select i, 'EUR', 7, case when i <= 5 then 'WON' else 'LOST' end, 'Cloud'"
        " from generate_series(1, 11) as i"
    )
    one.execute(
        "insert into opportunities (remote_id, currency, deal_value, crm_outcome)"
        " values ('12', 'USD', 7, 'OPEN')"
    )
    page = caller.get("/dashboard?currency=EUR").text
    assert empty not in page
    assert 'data-opens="0"' in page
    assert 'data-opens="11"' in page
    assert "45.5 %" in page
    one.execute("delete from opportunities where remote_id = '12'")
    assert "45.5 %" in caller.get("/dashboard").text
    one.execute("update opportunities set crm_outcome = 'CLOSED'")
    page = caller.get("/dashboard").text
    assert empty not in page
    assert "No deal was won or lost yet" in page


@pytest.mark.parametrize(
    ("won", "lost", "rate"),
    [(5, 6, "45.5"), (1, 15, "6.3"), (1, 0, "100.0"), (0, 1, "0.0"), (1, 7999, "0.0")],
)
def test_a_win_rate_is_rounded_as_its_explanation_does(
    writers: tuple[Any, Any], caller: Caller, won: int, lost: int, rate: str
) -> None:
    one, _ = writers
    one.execute(
        "insert into opportunities (remote_id, currency, deal_value, crm_outcome, practice)"
        " select i, 'EUR', 7, case when i <= %(won)s then 'WON' else 'LOST' end, 'Cloud'"
        " from generate_series(1, %(won)s + %(lost)s) as i",
        {"won": won, "lost": lost},
    )
    page = caller.get("/dashboard").text
    explained = dict(re.findall(r'data-explains="(rate|practice)">(.*?)</', page, re.DOTALL))
    (total,) = one.execute(unescape(explained["rate"])).fetchone()
    (practice,) = one.execute(unescape(explained["practice"])).fetchall()
    assert (str(total), str(practice[1])) == (rate, rate)
    # The headline, and the row of the practice; the bar says it, too.
    assert re.findall(r"<data[^>]*>([0-9.]+) %</data>", page) == [rate, rate]
    assert f"Cloud: {rate} %" in page


def test_writers_at_once_do_not_wait_for_each_other(writers: tuple[Any, Any]) -> None:
    one, _ = writers
    one.execute(
        "insert into opportunities (remote_id, deal_value)"
        " select i, 1 from generate_series(1, 4) as i"
    )
    totals = "select count(*), sum(deals), sum(deal_value) from opportunity_totals"
    for remainder, writer in enumerate(writers):
        writer.execute("begin")
        writer.execute(
            "update opportunities set deal_value = 10 where remote_id::int %% 2 = %s", [remainder]
        )
    assert one.execute(totals).fetchone() == (1, 4, 22)
    for writer in writers:
        writer.execute("commit")
    assert one.execute(totals).fetchone() == (2, 4, 40)
    # The next write joins what these left apart.
    one.execute("update opportunities set deal_value = 1 where remote_id = '1'")
    assert one.execute(totals).fetchone() == (1, 4, 31)
    one.execute("delete from opportunities")
    assert one.execute("select count(*) from opportunity_totals").fetchone() == (0,)


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_what_is_no_number_leaves_nothing_behind(writers: tuple[Any, Any], value: str) -> None:
    one, _ = writers
    one.execute(
        "insert into opportunities (remote_id, deal_value, reporting_value, win_probability)"
        " values ('1', 7, 7, 10), ('2', %(value)s, %(value)s, %(value)s)",
        {"value": value},
    )
    totals = "select sum(deals), sum(deal_value), sum(weighted_value) from opportunity_totals"
    assert one.execute(totals).fetchone() == (2, 7, 70)
    one.execute(
        "update opportunities set deal_value = 3, reporting_value = 3, win_probability = 100"
        " where remote_id = '2'"
    )
    assert one.execute(totals).fetchone() == (2, 10, 370)
    # A timestamp does not reach that far.
    one.execute("update opportunities set close_date = '300000-05-31' where remote_id = '1'")
    one.execute("update opportunities set close_date = 'infinity' where remote_id = '2'")
    months = "select close_month::text from opportunity_totals order by 1"
    assert one.execute(months).fetchall() == [("300000-05-01",), (None,)]
    assert one.execute("select wrong_totals()").fetchone() == (0,)


def test_a_stricter_isolation_level_is_no_error(writers: tuple[Any, Any]) -> None:
    one, other = writers
    one.execute(
        "insert into opportunities (remote_id, deal_value)"
        " select i, 1 from generate_series(1, 4) as i"
    )
    change = "update opportunities set deal_value = 10 where remote_id = %s"
    other.execute("begin isolation level repeatable read")
    other.execute("select from opportunities")
    one.execute(change, ["1"])  # the row of totals that the other still sees is gone
    other.execute(change, ["2"])
    other.execute("commit")
    totals = "select sum(deals), sum(deal_value), wrong_totals() from opportunity_totals"
    assert one.execute(totals).fetchone() == (4, 22, 0)


def test_cents_of_large_values_count(writers: tuple[Any, Any], caller: Caller) -> None:
    one, _ = writers
    # A division would give them no digits after the point, as the values have none.
    one.execute(
        "insert into opportunities"
        " (remote_id, currency, deal_value, reporting_value, win_probability)"
        " values ('1', 'EUR', 24691357802469134, 24691357802469134, 53)"
    )
    weighted = "13086419635308641.02"
    page = caller.get("/dashboard").text
    assert weighted in page
    explained = re.search(r'data-explains="weighted">(.*?)</', page, re.DOTALL)
    assert explained is not None
    assert one.execute(unescape(explained[1])).fetchone() == (Decimal(weighted),)
    assert weighted in caller.get("/opportunities").text
