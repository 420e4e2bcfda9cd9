"""CSV for spreadsheets: a text stays a text."""

import re
from enum import StrEnum

from psycopg.sql import SQL, Composable, Literal


class Format(StrEnum):
    """How to write rows."""

    CSV = "csv"
    NDJSON = "ndjson"


CONTENT_TYPES = {Format.CSV: "text/csv; charset=utf-8", Format.NDJSON: "application/x-ndjson"}

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
