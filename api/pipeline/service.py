"""What became of the open deals between two days, in each currency."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, localcontext
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import Role, User
from api.database import fetch_one
from api.opportunities.unchanged import Unchanged
from api.pipeline import queries
from api.pipeline.schemas import CloseDate, DealsRequest, Period, Step
from api.problems import ProblemError

USUAL_DAYS = 30
MOST_DAYS = 366
TOO_LONG = "To compare these days took too long. Choose a shorter time."
CAME = (Step.NEW, Step.REOPENED, Step.RETURNED, Step.CURRENCY_IN)
WENT = (Step.CURRENCY_OUT, Step.WON, Step.LOST, Step.CLOSED, Step.DELETED)
STEPS = [step for step in Step if step not in (Step.OPENING, Step.CLOSING, Step.KEPT)]
_MOST_DIGITS = 150_000
"""A number of PostgreSQL has no more."""
_ARRIVALS = {"absent": Step.NEW, "deleted": Step.RETURNED}


@dataclass(frozen=True)
class Window:
    """A time from the start of a day, or of the history, to the end of a day, or now."""

    start: date
    end: date
    begin: datetime | None
    today: date

    @property
    def opening(self) -> datetime:
        """The moment of the opening; what happened at it is part of the opening."""
        start = _midnight(self.start)
        return start if self.begin is None else max(start, self.begin)

    @property
    def closing(self) -> datetime:
        """The moment of the closing, in the future if the last day is today."""
        return _midnight(self.end + timedelta(days=1))

    @property
    def first(self) -> date:
        """The first day that can be asked for."""
        limit = self.today - timedelta(days=MOST_DAYS)
        return limit if self.begin is None else max(limit, self.begin.astimezone(UTC).date())

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the queries."""
        return {"opening": self.opening, "closing": self.closing, "begin": self.begin}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


async def read_window(
    connection: AsyncConnection[DictRow], unchanged: Unchanged, wanted: Period
) -> Window:
    """Return the time that is wanted.

    Raises:
        ProblemError: 422, it begins before the history, or more than a year ago, or ends in the
            future.
    """

    async def read() -> datetime | None:
        first: datetime | None = (await fetch_one(connection, queries.FIRST_DEAL))["at"]
        return first

    first_deal = await unchanged.get(connection, queries.FIRST_DEAL, read)
    kept_since = (await fetch_one(connection, queries.KEPT_SINCE))["at"]
    begin = None if first_deal is None else max(kept_since, first_deal)
    today = datetime.now(UTC).date()
    end = today if wanted.end is None else wanted.end
    window = Window(end, end, begin, today)
    usual = max(end - timedelta(days=USUAL_DAYS), window.first)
    start = min(usual, end) if wanted.start is None else wanted.start
    if end > today:
        raise ProblemError(422, f"end: today is {today}, in UTC")
    if start < window.first:
        raise ProblemError(422, f"start: the first day that can be told of is {window.first}")
    return Window(start, end, window.begin, today)


async def _read_rates(connection: AsyncConnection[DictRow]) -> dict[str, Any]:
    """Return the reporting currency and its rates, as parameters of the queries."""
    found = await (await connection.execute(queries.RATES)).fetchone()
    return found or {"reporting": None, "rates": "{}"}


async def read_pipeline(
    connection: AsyncConnection[DictRow], user: User, unchanged: Unchanged, wanted: Period
) -> dict[str, Any]:
    """Return what became of the open deals, as `schemas.Pipeline` says.

    Raises:
        ProblemError: 422, see `read_window`.
    """
    user.must_be(Role.VIEWER)
    window = await read_window(connection, unchanged, wanted)
    parameters = window.parameters | await _read_rates(connection)
    reporting = parameters["reporting"]

    async def read() -> tuple[list[dict[str, Any]], dict[str, Any] | None, list[DictRow]]:
        found = await connection.execute(queries.CELLS, parameters)
        cells = await found.fetchall()
        converted = None if reporting is None else _all_in(reporting, cells)
        stays = await connection.execute(queries.STAYS, parameters)
        return _by_currency(cells), converted, await stays.fetchall()

    currencies, converted, stays = await unchanged.get(
        connection, ("pipeline over time", parameters), read
    )
    return {
        "start": window.start,
        "end": window.end,
        "opening_at": window.opening,
        "closing_at": min(window.closing, datetime.now(UTC)),
        "begin": window.begin,
        "first": window.first,
        "today": window.today,
        "currencies": currencies,
        "converted": converted,
        "stays": stays,
    }


async def list_deals(
    connection: AsyncConnection[DictRow], user: User, unchanged: Unchanged, wanted: DealsRequest
) -> dict[str, Any]:
    """Return the deals that a number of the pipeline counts, and how many there are.

    Raises:
        ProblemError: 422, see `read_window`.
    """
    user.must_be(Role.VIEWER)
    window = await read_window(connection, unchanged, wanted)
    filters = [
        name
        for name in ("stage_before", "stage_after", "close_date")
        if getattr(wanted, name) is not None
    ]
    filters += [f"missing_{name}" for name in wanted.missing if name != "currency"]
    parameters = wanted.model_dump() | window.parameters | await _read_rates(connection)
    found = await connection.execute(queries.rows(wanted.step, filters), parameters)
    rows = await found.fetchall()
    if rows:
        total = rows[0]["total"]
    elif wanted.offset:
        whole = wanted.model_copy(update={"offset": 0, "limit": 1})
        total = (await list_deals(connection, user, unchanged, whole))["total"]
    else:
        total = 0
    return {"items": rows, "total": total}


def _by_currency(cells: list[DictRow]) -> list[dict[str, Any]]:
    """Add up the cells of each currency; exactly, since all values are decimals."""
    names = {cell["currency_before"] for cell in cells if cell["outcome_before"] == "open"}
    names |= {cell["currency_after"] for cell in cells if cell["outcome_after"] == "open"}
    found = [_of_currency(cells, name) for name in names]
    found.sort(
        key=lambda one: (
            -one["opening"]["deals"] - one["closing"]["deals"],
            one["currency"] or "",
        )
    )
    return found


def _all_in(reporting: str, cells: list[DictRow]) -> dict[str, Any]:
    """Add up all cells in the reporting currency."""
    converted = [
        cell
        | {"currency_before": reporting, "currency_after": reporting}
        | {
            name.removesuffix("_converted"): amount
            for name, amount in cell.items()
            if name.endswith("_converted")
        }
        for cell in cells
    ]
    without_rate = sum(cell["without_rate"] for cell in cells)
    return _of_currency(converted, reporting) | {"without_rate": without_rate}


def _of_currency(cells: list[DictRow], currency: str | None) -> dict[str, Any]:
    sums: dict[Step, list[Any]] = {step: [0, Decimal(0)] for step in Step}
    moves: dict[tuple[Step, str | None, str | None], list[Any]] = {}
    dates: dict[CloseDate, list[Any]] = {}

    def add(to: list[Any], *amounts: Any) -> None:
        for place, amount in enumerate(amounts):
            to[place] += amount

    with localcontext(prec=_MOST_DIGITS):
        for cell in cells:
            deals = cell["deals"]
            for step, count, value in _steps(cell, currency):
                add(sums[step], count, value)
            for step, value in _moves(cell, currency):
                before = cell["stage_before"] if step not in CAME else None
                after = cell["stage_after"] if step not in WENT else None
                add(moves.setdefault((step, before, after), [0, Decimal(0)]), deals, value)
                if step is Step.KEPT and cell["date_moved"] is not None:
                    moved = dates.setdefault(CloseDate(cell["date_moved"]), [0, Decimal(0), 0])
                    add(moved, deals, value, cell["days_moved"])
    return {
        "currency": currency,
        "opening": _counted(sums[Step.OPENING]),
        "steps": [{"step": step} | _counted(sums[step]) for step in STEPS],
        "closing": _counted(sums[Step.CLOSING]),
        "moves": [
            {"step": step, "stage_before": before, "stage_after": after} | _counted(amounts)
            for (step, before, after), amounts in sorted(
                moves.items(), key=lambda item: [str(part or "") for part in item[0]]
            )
        ],
        "close_dates": [
            {"close_date": kind}
            | _counted(dates[kind])
            | {
                "average_days": None
                if kind in (CloseDate.SET, CloseDate.REMOVED)
                else round(dates[kind][2] / dates[kind][0], 1)
            }
            for kind in CloseDate
            if kind in dates
        ],
    }


def _counted(amounts: list[Any]) -> dict[str, Any]:
    return {"deals": amounts[0], "value": amounts[1]}


def _steps(cell: DictRow, currency: str | None) -> Iterable[tuple[Step, int, Decimal]]:
    """Return the steps of a currency that the deals of a cell take, as the queries' STEPS say."""
    deals, before, after = cell["deals"], cell["value_before"], cell["value_after"]
    is_open = cell["outcome_after"] == "open"
    is_same = cell["currency_before"] == cell["currency_after"]
    if _was_here(cell, currency):
        yield Step.OPENING, deals, before
        if is_same:
            yield Step.VALUE_UP, cell["deals_up"], cell["value_up"]
            yield Step.VALUE_DOWN, cell["deals_down"], cell["value_down"]
        if not is_open:
            yield Step(cell["outcome_after"]), deals, -(after if is_same else before)
        elif not is_same:
            yield Step.CURRENCY_OUT, deals, -before
    if _is_here(cell, currency):
        arrival = _arrival(cell)
        if arrival is not Step.KEPT:
            yield arrival, deals, after
        yield Step.CLOSING, deals, after


def _moves(cell: DictRow, currency: str | None) -> Iterable[tuple[Step, Decimal]]:
    """Return the moves of the deals of a cell, each with what they are worth after it."""
    if _is_here(cell, currency):
        yield _arrival(cell), cell["value_after"]
    elif _was_here(cell, currency):
        is_same = cell["currency_before"] == currency == cell["currency_after"]
        yield (
            Step.CURRENCY_OUT if cell["outcome_after"] == "open" else Step(cell["outcome_after"]),
            cell["value_after" if is_same else "value_before"],
        )


def _was_here(cell: DictRow, currency: str | None) -> bool:
    return bool(cell["outcome_before"] == "open" and cell["currency_before"] == currency)


def _is_here(cell: DictRow, currency: str | None) -> bool:
    return bool(cell["outcome_after"] == "open" and cell["currency_after"] == currency)


def _arrival(cell: DictRow) -> Step:
    """Return how deals of a currency that are open on the last day came to it."""
    if cell["outcome_before"] == "open":
        is_same = cell["currency_before"] == cell["currency_after"]
        return Step.KEPT if is_same else Step.CURRENCY_IN
    return _ARRIVALS.get(cell["outcome_before"], Step.REOPENED)
