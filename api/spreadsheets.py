"""CSV and workbooks for spreadsheets: a text stays a text."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from psycopg.sql import SQL, Composable, Literal
from xlsxwriter import Workbook as XlsxWorkbook


class Format(StrEnum):
    """How to write rows."""

    CSV = "csv"
    NDJSON = "ndjson"
    XLSX = "xlsx"


CONTENT_TYPES = {
    Format.CSV: "text/csv; charset=utf-8",
    Format.NDJSON: "application/x-ndjson",
    Format.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}

# A spreadsheet runs a cell that begins with one of these: OWASP's list, with the wide forms.
SIGNS = "=+@＝＋－＠-"  # noqa: RUF001
FORMULA_STARTS = f"\t\r\n{SIGNS}"
# In many countries a cell ends at a semicolon, and a quote within a cell does not protect it.
CELL_ENDS = ";\t\r\n"
# Python and PostgreSQL read it alike.
BEFORE_FORMULA = f'(^(?=[{FORMULA_STARTS}])|[{CELL_ENDS}]"*(?=[{SIGNS}]))'


def without_formulas(text: str) -> str:
    """Return a text with a quote before each beginning of a formula.

    >>> without_formulas("=1"), without_formulas("a;=1;-"), without_formulas("a=1; b")
    ("'=1", "a;'=1;'-", 'a=1; b')
    """
    return re.sub(BEFORE_FORMULA, r"\1'", text)


def sql_without_formulas(column: Composable) -> Composable:
    """Return the expression of `without_formulas` for a column of text."""
    return SQL(
        # Most texts need no regular expression, which would take the longest of an export.
        "case when ascii({column}) in ({starts}) or {has_end}"
        " then regexp_replace({column}, {pattern}, {quoted}, 'g') else {column} end"
    ).format(
        column=column,
        starts=SQL(", ").join(map(Literal, map(ord, FORMULA_STARTS))),
        has_end=SQL(" or ").join(
            SQL("strpos({}, {}) > 0").format(column, Literal(end)) for end in CELL_ENDS
        ),
        pattern=Literal(BEFORE_FORMULA),
        quoted=Literal("\\1'"),
    )


# The limits of Excel, which are those of the format.
MOST_ROWS = 1_048_576
LONGEST_TEXT = 32_767
MOST_EXACT = 10**15
# Before it, Excel counts a day that never was: 29 February 1900.
FIRST_DAY = date(1900, 3, 1)
WIDTHS = {"number": 14, "date": 12, "timestamp": 18}


class Workbook:
    """An .xlsx file that is written row by row, so its memory does not grow with the rows.

    After the last row that a sheet can have, the next sheet begins.
    """

    def __init__(self, path: Path, name: str, columns: Sequence[tuple[str, str]]) -> None:
        """Begin the file; other files for it are made beside it meanwhile.

        Args:
            path: of the file.
            name: of the sheets.
            columns: the title of each, and its kind: number, date, timestamp, boolean or text.
        """
        self._name, self._columns = name, columns
        self._book = XlsxWorkbook(str(path), {"constant_memory": True, "tmpdir": str(path.parent)})
        self._title = self._book.add_format({"bold": True})
        self._formats = {
            "date": self._book.add_format({"num_format": "yyyy-mm-dd"}),
            "timestamp": self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"}),
        }
        self._sheets = 0
        self._begin_sheet()

    def _begin_sheet(self) -> None:
        self._sheets += 1
        name = self._name if self._sheets == 1 else f"{self._name} {self._sheets}"
        self._sheet = self._book.add_worksheet(name)
        self._sheet.freeze_panes(1, 0)
        for number, (title, kind) in enumerate(self._columns):
            self._sheet.set_column(number, number, WIDTHS.get(kind, 24))
            words = f"{title} (UTC)" if kind == "timestamp" else title
            self._sheet.write_string(0, number, words[:LONGEST_TEXT], self._title)
        self._row = 1

    def write(self, rows: Iterable[Sequence[Any]]) -> Self:
        """Write rows of values as JSON has them: numbers are Decimal, dates and times ISO 8601."""
        for row in rows:
            if self._row == MOST_ROWS:
                self._begin_sheet()
            for number, (value, (_, kind)) in enumerate(zip(row, self._columns, strict=True)):
                self._write_cell(number, value, kind)
            self._row += 1
        return self

    def _write_cell(self, column: int, value: Any, kind: str) -> None:
        match value:
            case None | "" | []:
                return
            case bool():
                self._sheet.write_boolean(self._row, column, value)
                return
            case Decimal() if _is_exact(value):
                self._sheet.write_number(self._row, column, float(value))
                return
            case list():
                value = "; ".join(map(str, value))
            case str() if (moment := _moment(value, kind)) is not None:
                self._sheet.write_datetime(self._row, column, moment, self._formats[kind])
                return
        self._sheet.write_string(self._row, column, str(value)[:LONGEST_TEXT])

    def close(self) -> None:
        """Finish the file."""
        self._book.close()


def _is_exact(number: Decimal) -> bool:
    """Return whether the file keeps all digits of a number: an id, or an amount, may have more."""
    # So many digits has a number in the file; a double has no more.
    return abs(number) < MOST_EXACT and Decimal(f"{float(number):.16G}") == number


def _moment(text: str, kind: str) -> date | datetime | None:
    """Return the day or, in UTC, the time that a spreadsheet can have; else None."""
    try:
        if kind == "date":
            day = date.fromisoformat(text)
            return day if day >= FIRST_DAY else None
        if kind == "timestamp":
            time = datetime.fromisoformat(text)
            # One without an offset is UTC, wherever this host is.
            time = time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
            return time if time.date() >= FIRST_DAY else None
    except (ValueError, OverflowError):
        pass  # years that Python has not, or an own field's value of another type
    return None
