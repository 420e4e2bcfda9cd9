"""What each number of the dashboard means, and the SQL that gives it."""

from collections.abc import Mapping
from datetime import date
from typing import Any, LiteralString, NamedTuple

from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.rows import DictRow

from api.auth import User
from api.fields import Fields
from api.opportunities import queries
from api.opportunities.schemas import OPEN, Filters

_VALUES: dict[bool, LiteralString] = {True: "reporting_value", False: "deal_value"}
_SUMS: LiteralString = """
    count(*) as deals,
    coalesce(sum({value}), 0) as value,
    round(coalesce(sum({value} * win_probability * 0.01), 0), 2) as weighted"""
_WON: LiteralString = "count(*) filter (where crm_outcome = 'WON')"
_LOST: LiteralString = "count(*) filter (where crm_outcome = 'LOST')"
_RATE: LiteralString = f"round(100.0 * {_WON} / count(*), 1)"
# What to select, and what follows the conditions.
_QUERIES: dict[str, tuple[LiteralString, LiteralString]] = {
    "open": ("count(*)", ""),
    "pipeline": ("coalesce(sum({value}), 0)", ""),
    "weighted": ("round(coalesce(sum({value} * win_probability * 0.01), 0), 2)", ""),
    "overdue": ("count(*)", ""),
    "rate": (_RATE, ""),
    "month": (
        "close_date - extract(day from close_date)::integer + 1 as month," + _SUMS,
        "group by 1 order by 1",
    ),
    "stage": ("nullif(stage, '') as stage," + _SUMS, "group by 1 order by 1"),
    "practice": (
        f"nullif(practice, '') as practice, {_RATE} as rate, {_WON} as won, {_LOST} as lost",
        "group by 1 order by 2 desc, 1",
    ),
    "top": ("id, name, {value} as value", "order by {value} desc nulls last, id desc limit {top}"),
}
_AGEING: LiteralString = "select * from workflow_ageing"
_OPEN_WORDS = "that are open in the CRM or have an unknown status, without deleted ones"


class Explanation(NamedTuple):
    """An explanation.

    Attributes:
        title: of the number.
        words: what it means.
        sql: it gives the same from this database.
    """

    title: str
    words: str
    sql: str


def explain(
    connection: AsyncConnection[DictRow],
    user: User,
    shown: Mapping[str, Any],
    of_currency: Mapping[str, Any],
    months: tuple[date, date],
    top: int,
) -> dict[str, Explanation]:
    """Return the explanations of the dashboard that is shown, by number.

    Args:
        connection: to the database; it writes the parameters into the SQL.
        user: who reads it.
        shown: what `service.read` gave.
        of_currency: the filters of its currency.
        months: the first day of this month, and the last one that the chart shows.
        top: how many deals the list of the largest ones has.
    """
    if shown["is_converted"]:
        of = (
            f" Values are in {shown['unit']}, converted by the deal's own rate in the CRM, else by"
            " the rate in crm.yml. A deal without a rate adds nothing."
        )
        which = ""
    else:
        of = ""
        which = f" in {shown['unit']}" if shown["unit"] else " without a currency"
    left_out = " Outliers are left out." if shown["without_outliers"] else ""
    open_ones = {**of_currency, "crm_outcome": OPEN}
    if shown["without_outliers"]:
        open_ones["outliers"] = "without"
    decided = {**of_currency, "crm_outcome": ["WON", "LOST"]}
    ahead = {"closing_after": months[0], "closing_before": months[1]}
    deals = f"deals{which} {_OPEN_WORDS}"
    weighted = "A weighted value is the value times the win probability; a deal without one of them"
    weighted += " adds nothing."

    def one(name: str, title: str, words: str, filters: Mapping[str, Any]) -> Explanation:
        return Explanation(title, words, _sql(connection, user, shown, name, filters, top))

    return {
        "open": one("open", "Open deals", f"The {deals}.{left_out}", open_ones),
        "pipeline": one(
            "pipeline", "Pipeline", f"The values of the {deals}, added up.{of}{left_out}", open_ones
        ),
        "weighted": one(
            "weighted",
            "Weighted by probability",
            f"The weighted values of the {deals}, added up. {weighted}{of}{left_out}",
            open_ones,
        ),
        "rate": one(
            "rate",
            "Won of decided",
            f"The deals{which} that were won, in percent of those that were won or lost. Deals that"
            " were closed without a decision do not count.",
            decided,
        ),
        "overdue": one(
            "overdue",
            "Close month is past",
            f"The {deals}, whose close date is before this month.{left_out}",
            {**open_ones, "closing_before": date.fromordinal(months[0].toordinal() - 1)},
        ),
        "month": one(
            "month",
            "Pipeline by month of closing",
            f"The {deals}, by the month of their close date, from this month on. {weighted}{of}"
            f"{left_out}",
            {**open_ones, **ahead},
        ),
        "stage": one(
            "stage",
            "Pipeline by stage",
            f"The {deals}, by stage. {weighted}{of}{left_out}",
            open_ones,
        ),
        "practice": one(
            "practice",
            "Win rate by practice",
            f"The deals{which} that were won or lost, by practice.",
            decided,
        ),
        "ageing": Explanation(
            "How long deals wait",
            "For how many days the open deals have had their workflow status. Late are those that"
            " have it for longer than crm.yml says under states. A view of dbt has these numbers.",
            _AGEING,
        ),
        "top": one(
            "top",
            "Top deals",
            f"The {deals}, those of the greatest value.{of}{left_out}",
            open_ones,
        ),
    }


def _sql(
    connection: AsyncConnection[DictRow],
    user: User,
    shown: Mapping[str, Any],
    name: str,
    filters: Mapping[str, Any],
    top: int,
) -> str:
    select, rest = (
        part.format(value=_VALUES[shown["is_converted"]], top=top) for part in _QUERIES[name]
    )
    # The SQL reads the table itself: what crm.yml lets lists be filtered by does not matter.
    conditions = queries.conditions(
        Fields(), Filters.model_validate(filters), user.id, shown["limits"]
    )
    where = [" ".join(queries.CONDITIONS[one].split()) for one in conditions]
    query = f"select {select.strip()}\nfrom opportunities\nwhere\n    " + "\n    and ".join(where)
    # The texts are the module's own; values are only in the parameters.
    cursor = AsyncClientCursor(connection)
    return cursor.mogrify(f"{query}\n{rest}".strip().encode(), conditions)
