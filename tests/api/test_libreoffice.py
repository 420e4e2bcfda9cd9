"""What a spreadsheet program makes of our exports: LibreOffice opens them."""

import subprocess
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psycopg
import pytest

from tests.api.conftest import Caller

pytestmark = pytest.mark.libreoffice
OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
# Semicolons, quotes, UTF-8, from the first line on; all columns of the standard type.
CSV_AS_IN_EUROPE = "CSV:59,34,76,1"
TEXTS = [
    "=1+1", "+1", "-1", "@SUM(1)", '=HYPERLINK("https://example.com")', "00042", "1e5", "1/2",
    "2026-01-01", "TRUE", "a;b", 'a "quoted" one', "Łódź", "صفقة", "名前", "😀", "x" * 32_767,
]  # fmt: skip
Cell = tuple[str, str, str | None]  # type, text, formula


def opened(path: Path, how: str = "") -> list[list[Cell]]:
    """Let LibreOffice open a file; return the cells of the first sheet, by row."""
    ended = subprocess.run(
        [
            "soffice",
            f"-env:UserInstallation=file://{path.parent}/profile",
            "--headless",
            *([f"--infilter={how}"] if how else []),
            "--convert-to",
            "fods",
            "--outdir",
            str(path.parent),
            str(path),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    result = path.with_suffix(".fods")
    assert result.exists(), ended.stderr
    sheet = next(ElementTree.parse(result).iter(f"{TABLE}table"))  # noqa: S314 - ours
    rows = []
    for row in sheet.iter(f"{TABLE}table-row"):
        cells: list[Cell] = []
        for cell in row.iter(f"{TABLE}table-cell"):
            kind = cell.get(f"{OFFICE}value-type", "")
            shown = "\n".join("".join(line.itertext()) for line in cell.iter(f"{TEXT}p"))
            exact = cell.get(f"{OFFICE}value") or cell.get(f"{OFFICE}date-value") or shown
            times = int(cell.get(f"{TABLE}number-columns-repeated", "1"))
            if kind or times < 100:
                cells += [(kind, exact, cell.get(f"{TABLE}formula"))] * times
        rows.append(cells)
    return [row for row in rows if any(kind for kind, _, _ in row)]


@pytest.fixture
def deals(caller: Caller) -> Caller:
    """The API with a deal for each text."""
    with psycopg.connect(caller.database) as connection:
        for number, text in enumerate(TEXTS):
            connection.execute(
                "insert into opportunities (remote_id, opty_number, name, close_date, deal_value)"
                " values (%s, %s, %s, '2026-02-28', 1234567.89)",
                [str(300_000_000_123_456_000 + number), f"000{number}", text],
            )
    return caller


COLUMNS = ["remote_id", "opty_number", "name", "close_date", "deal_value"]


def test_a_workbook_has_texts_dates_and_numbers(deals: Caller, tmp_path: Path) -> None:
    path = tmp_path / "deals.xlsx"
    path.write_bytes(
        deals.get(
            "/api/opportunities/export", params={"format": "xlsx", "columns": COLUMNS}
        ).content
    )
    titles, *rows = opened(path)
    assert [text for _, text, _ in titles] == ["Remote id", "Number", "Name", "Close date", "Value"]
    assert rows == [
        [
            ("string", str(300_000_000_123_456_000 + number), None),
            ("string", f"000{number}", None),
            ("string", text, None),
            ("date", str(date(2026, 2, 28)), None),
            ("float", "1234567.89", None),
        ]
        for number, text in enumerate(TEXTS)
    ]


def test_a_table_for_spreadsheets_has_no_formula(deals: Caller, tmp_path: Path) -> None:
    path = tmp_path / "deals.csv"
    wanted: dict[str, Any] = {"columns": COLUMNS, "separator": "semicolon", "byte_order_mark": True}
    path.write_bytes(deals.get("/api/opportunities/export", params=wanted).content)
    titles, *rows = opened(path, CSV_AS_IN_EUROPE)
    assert [text for _, text, _ in titles] == COLUMNS
    assert len(rows) == len(TEXTS)
    for (_, _, name, closes, value), text in zip(rows, TEXTS, strict=True):
        assert closes[:2] == ("date", "2026-02-28")
        assert value[:2] == ("float", "1234567.89")
        assert name[2] is None
        if name[0] == "string":
            assert name[1].lstrip("'") == text
        else:  # a number or a date, as in each table without types
            assert text in {"00042", "1e5", "1/2", "2026-01-01", "TRUE"}
