"""The pipeline between two days is what a comparison of the two days' deals gives."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.api.conftest import Caller

PATH = "/api/pipeline"
TODAY = datetime.now(UTC).date()
DAYS = 6
CURRENCIES = ["EUR", "USD", None]
STAGES = ["01", "02", None]
RATES: dict[str | None, Decimal] = {"USD": Decimal("0.913")}
"""Into euros; deals without a currency have no rate."""
VALUES = [None, Decimal("100"), Decimal("250.10"), Decimal("99.95")]
CLOSES = [None, *(date(2026, 6, 1) + timedelta(days=days) for days in (0, 10, 45, 200))]
OUTCOMES = ["OPEN", "WON", "LOST", "CLOSED", None]
FIELDS: dict[str, list[Any]] = {
    "currency": CURRENCIES,
    "stage": STAGES,
    "deal_value": VALUES,
    "close_date": CLOSES,
    "crm_outcome": OUTCOMES,
    "deleted_at": [None, datetime(2026, 1, 1, tzinfo=UTC)],
}
DEAL = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in FIELDS.items()})
CHANGE = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(FIELDS[name]))
)
DAY = st.lists(st.one_of(DEAL, st.tuples(st.integers(0, 5), CHANGE)), max_size=6)


ALL = "all"
OWN = Decimal("0.87")
OWN_RATE = "update opportunities set crm_rate = %s, crm_rate_currency = 'EUR' where id = %s"
INSERT = f"""
insert into opportunities (opty_number, remote_id, {", ".join(FIELDS)})
values (%s, %s, {", ".join(["%s"] * len(FIELDS))})
"""  # noqa: S608


@pytest.fixture
def connection(caller: Caller) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(caller.database) as connection:
        connection.execute("update change_feed set complete_since = now() - interval '90 days'")
        connection.commit()
        yield connection


def day_of(number: int) -> date:
    """One of the days; the last one is today."""
    return TODAY - timedelta(days=DAYS - 1 - number)


def commit(connection: psycopg.Connection[Any], at: datetime) -> None:
    """Let what this transaction did have been done at another time."""
    connection.execute(
        "update opportunity_changes set changed_at = %s where changed_at = now()", [at]
    )
    connection.execute(
        "update opportunities set first_synced_at = %s where first_synced_at = now()", [at]
    )
    connection.commit()


def is_open(deal: dict[str, Any] | None) -> bool:
    if deal is None or deal["deleted_at"] is not None:
        return False
    return deal["crm_outcome"] in ("OPEN", None)


def outcome(deal: dict[str, Any]) -> str:
    return "deleted" if deal["deleted_at"] is not None else deal["crm_outcome"].lower()


def value(deal: dict[str, Any]) -> Decimal:
    return deal["deal_value"] or Decimal(0)


def converted(
    deals: dict[int, dict[str, Any]], now: dict[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """The deals with their values in euros; their own rates are those of their currencies now."""
    found = {}
    for id_, deal in deals.items():
        rate = Decimal(1) if deal["currency"] == "EUR" else RATES.get(deal["currency"], Decimal(0))
        if id_ % 2 and deal["currency"] not in (None, "EUR"):
            rate = OWN if deal["currency"] == now[id_]["currency"] else rate
        in_euros = (value(deal) * rate).quantize(Decimal("0.01"), ROUND_HALF_UP)
        found[id_] = deal | {"deal_value": in_euros, "currency": ALL}
    return found


def compare(
    before: dict[int, dict[str, Any]], after: dict[int, dict[str, Any]], currency: str | None
) -> dict[str, list[Decimal]]:
    """The values that each step adds, deal by deal, from what two days' deals were like."""
    steps: dict[str, list[Decimal]] = {}

    def add(step: str, amount: Decimal) -> None:
        steps.setdefault(step, []).append(amount)

    for id_, new in after.items():
        old = before.get(id_)
        was_here = is_open(old) and old is not None and old["currency"] == currency
        is_here = is_open(new) and new["currency"] == currency
        if was_here and old is not None:
            add("opening", value(old))
            if new["currency"] == currency:
                if value(new) != value(old):
                    add(
                        "value_up" if value(new) > value(old) else "value_down",
                        value(new) - value(old),
                    )
                leaves_with = value(new)
            else:
                leaves_with = value(old)
            if not is_open(new):
                add(outcome(new), -leaves_with)
            elif not is_here:
                add("currency_out", -value(old))
        if is_here:
            add("closing", value(new))
            if old is None:
                add("new", value(new))
            elif is_open(old) and not was_here:
                add("currency_in", value(new))
            elif not is_open(old):
                gone = old["deleted_at"] is not None
                add("returned" if gone else "reopened", value(new))
    return steps


@settings(
    max_examples=25,
    deadline=None,
    # To make a failing example smaller would take minutes.
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    days=st.lists(DAY, min_size=DAYS, max_size=DAYS),
    first=st.integers(1, DAYS - 1),
    last=st.integers(1, DAYS - 1),
)
def test_it_is_the_difference_of_two_days(
    caller: Caller,
    connection: psycopg.Connection[Any],
    days: list[list[Any]],
    first: int,
    last: int,
) -> None:
    connection.execute("truncate opportunities, opportunity_changes restart identity cascade")
    connection.execute("delete from reporting_currency")
    connection.execute("insert into reporting_currency values ('EUR', %s)", ['{"USD": 0.913}'])
    connection.execute(
        "insert into opportunities (remote_id, crm_outcome) values ('the first', 'CLOSED')"
    )
    commit(connection, datetime.combine(day_of(0), time(0), UTC))
    deals: dict[int, dict[str, Any]] = {}
    snapshots = []
    for number, changes in enumerate(days):
        for change in changes:
            if isinstance(change, dict):
                id_ = len(deals) + 2
                deals[id_] = dict(change)
                connection.execute(
                    INSERT,
                    [id_, id_, *(change[name] for name in FIELDS)],
                )
                if id_ % 2:
                    connection.execute(OWN_RATE, [OWN, id_])
            elif deals:
                which, (name, wanted) = change
                id_ = which % len(deals) + 2
                deals[id_][name] = wanted
                connection.execute(
                    f"update opportunities set {name} = %s where id = %s",  # noqa: S608
                    [wanted, id_],
                )
        commit(connection, datetime.combine(day_of(number), time(0, 0, 1), UTC))
        snapshots.append(deepcopy(deals))
    first, last = sorted((first, last))
    before, after = snapshots[first - 1], snapshots[last]

    period = {"start": day_of(first).isoformat(), "end": day_of(last).isoformat()}
    answer = caller.get(PATH, params=period)
    assert answer.status_code == 200, answer.text
    told = json.loads(answer.text, parse_float=Decimal)
    pipelines = {one["currency"]: one for one in told["currencies"]} | {ALL: told["converted"]}
    for currency in [*CURRENCIES, ALL]:
        was, became = before, after
        if currency == ALL:
            was, became = converted(before, deals), converted(after, deals)
        expected = compare(was, became, currency)
        if not expected and currency != ALL:
            assert currency not in pipelines
            continue
        found = pipelines[currency]
        steps = {step["step"]: step for step in found["steps"]}
        steps |= {name: found[name] for name in ("opening", "closing")}
        assert {
            name: (step["deals"], step["value"]) for name, step in steps.items() if step["deals"]
        } == {name: (len(amounts), sum(amounts)) for name, amounts in expected.items()}
        assert (
            found["opening"]["value"] + sum(step["value"] for step in found["steps"])
            == found["closing"]["value"]
        )

        def total(currency: str | None = currency, **wanted: str | None) -> int:
            which: dict[str, str | None] = (
                {"converted": "true"} if currency == ALL else {"currency": currency}
            )
            filters = which | wanted
            query: dict[str, Any] = period | {
                name: value for name, value in filters.items() if value is not None
            }
            query["missing"] = [name for name, value in filters.items() if value is None]
            listed = caller.get(f"{PATH}/deals", params=query)
            assert listed.status_code == 200, listed.text
            return int(listed.json()["total"])

        for name, amounts in expected.items():
            assert total(step=name) == len(amounts), name
        moves = found["moves"]
        came = ("new", "reopened", "returned", "currency_in")
        assert sum(move["deals"] for move in moves if move["step"] not in came) == len(
            expected.get("opening", [])
        )
        assert sum(move["deals"] for move in moves if move["step"] in (*came, "kept")) == len(
            expected.get("closing", [])
        )
        for move in moves:
            sides = {}
            if move["step"] not in came:
                sides["stage_before"] = move["stage_before"]
            if move["step"] in (*came, "kept"):
                sides["stage_after"] = move["stage_after"]
            assert total(step=move["step"], **sides) == move["deals"], move
        for moved in found["close_dates"]:
            assert total(step="kept", close_date=moved["close_date"]) == moved["deals"], moved
        kept = [
            (old["close_date"], after[id_]["close_date"])
            for id_, old in was.items()
            if is_open(old)
            and is_open(after[id_])
            and old["currency"] == became[id_]["currency"] == currency
            and old["close_date"] != after[id_]["close_date"]
        ]
        assert sum(moved["deals"] for moved in found["close_dates"]) == len(kept)
        dated = [(new - old).days for old, new in kept if old and new]
        assert sum(
            moved["deals"] for moved in found["close_dates"] if moved["close_date"] == "earlier"
        ) == sum(days < 0 for days in dated)


def test_how_long_deals_were_in_a_stage(
    caller: Caller, connection: psycopg.Connection[Any]
) -> None:
    def do(days_ago: int, statement: str) -> None:
        connection.execute(statement)
        commit(connection, datetime.now(UTC) - timedelta(days=days_ago))

    do(
        50,
        "insert into opportunities (opty_number, remote_id, stage, remote_created_at)"
        " values ('1', '1', 'a', '2020-01-01'), ('2', '2', 'x', '2020-01-01')",
    )
    do(
        45,
        "insert into opportunities (opty_number, remote_id, stage, remote_created_at)"
        " values ('3', '3', 'a', now() - interval '46 days')",
    )
    do(40, "update opportunities set stage = 'b' where id = 1")
    # One transaction: the deal was never open in the stage that it ends in.
    do(20, "update opportunities set stage = 'won', crm_outcome = 'WON' where id = 1")
    do(16, "update opportunities set stage = 'b' where id = 3")
    # What is done to a closed deal ends no stay.
    do(10, "update opportunities set stage = 'paid' where id = 1")
    do(6, "update opportunities set deleted_at = now() where id = 3")
    do(5, "update opportunities set stage = 'y' where id = 2")

    def stays(first: int, last: int) -> dict[str, tuple[int, float]]:
        start, end = (TODAY - timedelta(days=days) for days in (first, last))
        answer = caller.get(PATH, params={"start": str(start), "end": str(end)})
        assert answer.status_code == 200, answer.text
        return {one["stage"]: (one["stays"], one["median_days"]) for one in answer.json()["stays"]}

    # Nobody knows since when the first two deals were in their first stages.
    assert stays(30, 0) == {"a": (1, 30), "b": (2, 15)}
    assert stays(30, 8) == {"a": (1, 30), "b": (1, 20)}
    assert stays(4, 0) == {}


def test_days_that_cannot_be_told_of(caller: Caller, connection: psycopg.Connection[Any]) -> None:
    told = caller.get(PATH).json()
    assert told["begin"] is None
    assert told["currencies"] == []
    connection.execute("insert into opportunities (remote_id, currency) values ('1', 'EUR')")
    commit(connection, datetime.now(UTC) - timedelta(days=10))
    first = TODAY - timedelta(days=10)
    told = caller.get(PATH).json()
    assert told["start"] == str(first)
    assert told["end"] == str(TODAY)
    (euros,) = told["currencies"]
    # The deals that were there when the history began are no new ones.
    assert euros["opening"] == euros["closing"] == {"deals": 1, "value": 0}
    tomorrow = TODAY + timedelta(days=1)
    for period, why in (
        (
            {"start": str(first - timedelta(days=1))},
            f"the first day that can be told of is {first}",
        ),
        ({"end": str(tomorrow)}, f"today is {TODAY}"),
        ({"start": str(TODAY), "end": str(first)}, "end is before start"),
    ):
        refused = caller.get(PATH, params=period)
        assert refused.status_code == 422
        assert why in refused.text
    # Housekeeping has deleted a part of the history.
    connection.execute("update change_feed set pruned_at = now() - interval '3 days'")
    connection.commit()
    assert caller.get(PATH).json()["start"] == str(TODAY - timedelta(days=3))


def test_shares_are_rounded_as_the_win_rate_is(
    caller: Caller, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(
        "insert into opportunities (remote_id, currency, stage)"
        " select i, 'EUR', 'a' from generate_series(1, 16) as i"
    )
    commit(connection, datetime.now(UTC) - timedelta(days=10))
    connection.execute("update opportunities set stage = 'b' where remote_id = '1'")
    connection.commit()
    page = caller.get("/dashboard/pipeline").text
    assert re.findall(r"<data[^>]*>([0-9.]+) %</data>", page) == ["93.8", "6.3"]


def test_amounts_keep_all_digits(caller: Caller, connection: psycopg.Connection[Any]) -> None:
    connection.execute("delete from reporting_currency")
    connection.execute("insert into reporting_currency (currency, rates) values ('EUR', '{}')")
    large = "24691357802469134.56"
    connection.execute(
        "insert into opportunities (remote_id, currency, stage, deal_value)"
        " values ('1', 'EUR', 'a', 1e28), ('2', 'EUR', 'b', 0.75), ('3', 'USD', 'a', %s)",
        [large],
    )
    commit(connection, datetime.now(UTC) - timedelta(days=10))
    connection.execute("update opportunities set crm_outcome = 'WON' where remote_id = '3'")
    connection.commit()
    told = caller.get(PATH).text
    assert f'"opening":{{"deals":1,"value":{large}}}' in told
    assert f'{{"deals":1,"value":-{large},"step":"won"}}' in told
    assert f'"closing":{{"deals":2,"value":1{"0" * 28}.75}}' in told
    deals = caller.get(f"{PATH}/deals", params={"step": "opening", "converted": True}).text
    assert f'"value_before":{large},"value_after":{large}' in deals
    assert f'"converted_before":1{"0" * 28}' in deals
    assert f'"converted_after":1{"0" * 28}' in deals
