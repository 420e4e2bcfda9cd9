"""The export: everything, as it is, and in little memory."""

import csv
import io
import json
import operator
import re
import socket
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook
from openpyxl.utils.escape import unescape

from api import limits, requests, spreadsheets
from api.auth import Role
from api.opportunities.export import EXPORTS_AT_ONCE
from api.token import make_token
from tests.api.conftest import Caller, fill
from tests.conftest import wait_until

PATH = "/api/opportunities/export"
DANGEROUS = "=+-@\t\r\n＝＋－＠"  # noqa: RUF001
STARTS = st.sampled_from(DANGEROUS + "' 1a")


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"sort": "-deal_value", "include_deleted": True},
        {"sort": "close_date"},
        {"stage": ["01 - Qualification", "02 - Discovery"], "min_value": 5000},
        {"search": "generale", "sort": "-relevance"},
    ],
)
def test_both_formats_hold_what_the_list_holds(reader: Caller, wanted: dict[str, Any]) -> None:
    listed = reader.get("/api/opportunities", params=wanted | {"limit": 1000}).json()["items"]
    lines = reader.get(PATH, params=wanted | {"format": "ndjson"})
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()] == listed
    table = reader.get(PATH, params=wanted | {"format": "csv"})
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert table.headers["content-disposition"] == 'attachment; filename="opportunities.csv"'
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert list(rows[0]) == [name for name in listed[0] if name != "custom"]
    assert [row["remote_id"] for row in rows] == [item["remote_id"] for item in listed]


def test_awkward_text_arrives_as_it_is(caller: Caller) -> None:
    name = 'a "quoted", \\back\\slashed\\n\nsecond line\r\n\t\x01\x02 =1+1 😀 \u2028'
    with psycopg.connect(caller.database) as connection:
        connection.execute("insert into opportunities (remote_id, name) values ('1', %s)", [name])
    lines = caller.get(PATH, params={"format": "ndjson"}).text
    assert lines.count("\n") == 1
    assert json.loads(lines)["name"] == name
    table = caller.get(PATH).text
    assert next(csv.DictReader(io.StringIO(table, newline="")))["name"] == name


@given(
    texts=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
        | st.builds(operator.add, STARTS, st.text('+1=A;"\t\n', max_size=8)),
        min_size=1,
        max_size=30,
    ),
    value=st.decimals(-(10**9), 10**9, places=2),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_text_becomes_a_formula_in_a_spreadsheet(
    caller: Caller, texts: list[str], value: Decimal
) -> None:
    columns = ["name", "customer", "stage", "sales_owner", "workflow_status"]
    with psycopg.connect(caller.database) as connection:
        connection.execute("truncate opportunities cascade")
        for number, text in enumerate(texts):
            connection.execute(
                f"insert into opportunities (remote_id, deal_value, {', '.join(columns)})"  # noqa: S608
                " values (%s, %s, %s, %s, %s, %s, %s)",
                [str(number), value, *[text] * len(columns)],
            )
    rows = list(csv.DictReader(io.StringIO(caller.get(PATH).text, newline="")))
    lines = caller.get(PATH, params={"format": "ndjson"}).text.split("\n")
    for text, row, line in zip(texts, rows, lines, strict=False):
        (guarded,) = {row[column] for column in columns}
        assert guarded.replace("'", "") == text.replace("'", "")
        first, *cells = re.split("[;\t\r\n]", guarded)  # a cell ends there in many countries
        assert not first.startswith(tuple(DANGEROUS))
        signs = tuple(DANGEROUS.replace("\t\r\n", ""))
        assert not any(cell.lstrip('"').startswith(signs) for cell in cells)
        if not re.search(f"[{re.escape(DANGEROUS)}]", text):
            assert guarded == text
        assert Decimal(row["deal_value"]) == value
        assert {json.loads(line)[column] for column in columns} == {text}
    assert [row["remote_id"] for row in rows] == [str(number) for number in range(len(texts))]


def test_an_empty_export(caller: Caller) -> None:
    assert caller.get(PATH, params={"format": "ndjson"}).text == ""
    assert caller.get(PATH).text.startswith("id,remote_id,")


def test_what_makes_no_sense_is_refused(reader: Caller) -> None:
    for wanted in ({"format": "xml"}, {"sort": "relevance"}, {"limit": 5}):
        assert reader.get(PATH, params=wanted).status_code == 422


def test_it_is_compressed_for_who_takes_that(reader: Caller) -> None:
    plain = reader.get(PATH, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    packed = reader.get(PATH, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == plain.text


def test_who_goes_away_in_the_middle_leaves_nothing_behind(
    server: httpx.Client, database: str
) -> None:
    fill(database, 20_000)
    for _ in range(2 * EXPORTS_AT_ONCE):
        with server.stream("GET", PATH) as stream:
            next(stream.iter_raw())
    for _ in range(500):
        export = server.get(PATH, params={"format": "ndjson", "include_deleted": True})
        if export.status_code == 200:
            break
        time.sleep(0.02)
    assert export.text.count("\n") == 20_000


def test_one_user_leaves_an_export_to_others_and_all_together_have_few(
    server: httpx.Client, database: str
) -> None:
    # More, uncompressed, than the buffers between the two hold: else it would end unread.
    fill(database, 60_000)
    small = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)])
    headers = {**server.headers, "accept-encoding": "identity"}
    with (
        httpx.Client(base_url=server.base_url, headers=headers, transport=small) as slow,
        ExitStack() as streams,
    ):
        for number in range(EXPORTS_AT_ONCE):
            if number == limits.EXPORTS:
                refused = server.get(PATH)
                token = make_token(database, Role.VIEWER, timedelta(hours=1))
                slow.headers["Authorization"] = f"Bearer {token}"
            stream = streams.enter_context(slow.stream("GET", PATH))
            assert stream.status_code == 200
        token = make_token(database, Role.ASSESSOR, timedelta(hours=1))
        busy = server.get(PATH, headers={"Authorization": f"Bearer {token}"})
    assert refused.status_code == 429
    assert "The user service-admin has as many exports" in refused.json()["detail"]
    assert busy.status_code == 503
    for answer in (refused, busy):
        assert int(answer.headers["retry-after"]) > 0


def sheets_of(content: bytes) -> list[list[tuple[Any, ...]]]:
    """Read a workbook: the rows of each sheet."""
    book = load_workbook(io.BytesIO(content))
    return [list(sheet.iter_rows(values_only=True)) for sheet in book]


def test_a_workbook_has_texts_dates_numbers_and_names(reader: Caller) -> None:
    wanted: dict[str, Any] = {"sort": "-deal_value", "limit": 1000, "include_deleted": True}
    items = reader.get("/api/opportunities", params=wanted).json()["items"]
    del wanted["limit"]
    answer = reader.get(PATH, params=wanted | {"format": "xlsx"})
    assert answer.headers["content-disposition"] == 'attachment; filename="opportunities.xlsx"'
    assert answer.headers["content-type"].endswith("spreadsheetml.sheet")
    ((titles, *rows),) = sheets_of(answer.content)
    assert titles[:4] == ("Id", "Remote id", "Number", "Name")
    names = [name for name in items[0] if name != "custom"]
    assert len(rows) == len(items)
    for row, item in zip(rows, items, strict=True):
        found = dict(zip(names, row, strict=True))
        assert found["remote_id"] == item["remote_id"]
        assert found["deal_value"] == item["deal_value"]
        assert found["name"] == item["name"]
        close = item["close_date"]
        assert found["close_date"] == (close and datetime.fromisoformat(close))
        changed = datetime.fromisoformat(item["remote_updated_at"]).replace(tzinfo=None)
        assert abs(found["remote_updated_at"] - changed) < timedelta(milliseconds=1)
    people = {row[names.index("assigned_to")] for row in rows}
    assert people == {None}


def test_a_workbook_says_who_and_what_does_not_fit_is_text(caller: Caller) -> None:
    with psycopg.connect(caller.database) as connection:
        person = connection.execute(
            "insert into users (name, full_name, role) values ('ada', 'Ada Example', 'viewer')"
            " returning id"
        ).fetchone()
        assert person is not None
        connection.execute(
            "insert into sales_owners (remote_id, name) values ('7', 'Olga Example')"
        )
        connection.execute(
            "insert into opportunities (remote_id, name, sales_owner, assigned_to, close_date,"
            " deal_value, stage) values ('300000123456789012', '=1+1', '7', %s, '1899-12-31',"
            " 1234567890123456789, %s), ('2', %s, '8', null, '12026-01-01', 0.5, null)",
            [person[0], "x" * 40_000, "\x01\x1f _x0041_"],
        )
    columns = [
        "stage",
        "remote_id",
        "name",
        "sales_owner",
        "assigned_to",
        "close_date",
        "deal_value",
    ]
    answer = caller.get(PATH, params={"format": "xlsx", "columns": columns})
    ((titles, first, second),) = sheets_of(answer.content)
    assert titles == (
        "Stage", "Remote id", "Name", "Owner", "Assigned to", "Close date", "Value",
    )  # fmt: skip
    assert first == (
        "x" * 32_767, "300000123456789012", "=1+1", "Olga Example", "Ada Example", "1899-12-31",
        "1234567890123456789",
    )  # fmt: skip
    assert second[3:] == ("8", None, "12026-01-01", 0.5)
    assert unescape(second[2]) == "\x01\x1f _x0041_"


@pytest.mark.parametrize(
    ("value", "is_number"),
    [
        ("999999999999999", True),
        ("1000000000000000", False),
        ("12345678901234.56", True),
        ("123456789012345.67", False),
        ("24691357802469134.56", False),
        ("-24691357802469134.56", False),
        ("0.1234567890123456789", False),
        ("1000000.10", True),
        ("0.00", True),
    ],
)
def test_a_number_in_a_workbook_keeps_all_digits(
    caller: Caller, value: str, is_number: bool
) -> None:
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into opportunities (remote_id, deal_value) values ('1', %s)", [value]
        )
    wanted = {"format": "xlsx", "columns": ["deal_value"]}
    ((_, (cell,)),) = sheets_of(caller.get(PATH, params=wanted).content)
    assert isinstance(cell, int | float) is is_number
    assert Decimal(str(cell)) == Decimal(value)
    if not is_number:
        assert cell == value


def test_a_time_without_an_offset_is_the_same_on_each_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        book = spreadsheets.Workbook(tmp_path / "a.xlsx", "A", [("Signed", "timestamp")])
        book.write([["2026-01-01T10:00:00"], ["2026-01-01T10:00:00+02:00"]]).close()
    finally:
        monkeypatch.undo()
        time.tzset()
    ((titles, *rows),) = sheets_of((tmp_path / "a.xlsx").read_bytes())
    assert titles == ("Signed (UTC)",)
    assert rows == [(datetime(2026, 1, 1, 10),), (datetime(2026, 1, 1, 8),)]  # noqa: DTZ001


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where exports write their workbooks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_workbook_may_take_as_long_as_it_takes(
    server: httpx.Client,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    folders: Path,
    encoding: str,
) -> None:
    fill(database, 300)
    close = spreadsheets.Workbook.close
    is_closing = threading.Event()

    def slow(book: spreadsheets.Workbook) -> None:
        assert is_closing.wait(10)
        close(book)

    monkeypatch.setattr(spreadsheets.Workbook, "close", slow)
    monkeypatch.setattr(requests, "TIME_LIMIT_SECONDS", 1)
    wanted: dict[str, Any] = {"format": "xlsx", "include_deleted": True}
    headers = {"Accept-Encoding": encoding}
    with server.stream("GET", PATH, params=wanted, headers=headers) as stream:
        assert stream.status_code == 200
        time.sleep(1.5)
        is_closing.set()
        ((_, *rows),) = sheets_of(stream.read())
    assert len(rows) == 300
    assert list(folders.iterdir()) == []


def test_an_error_of_the_query_of_a_workbook_gets_its_own_answer(
    server: httpx.Client, database: str
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("lock table opportunities in access exclusive mode")
        answer = server.get(PATH, params={"format": "xlsx"})
    assert answer.status_code == 503
    assert "Try again" in answer.json()["detail"]


def test_who_does_not_wait_for_a_workbook_ends_its_making(
    server: httpx.Client, database: str, folders: Path
) -> None:
    fill(database, 10_000)
    wanted = {"format": "xlsx"}
    for _ in range(EXPORTS_AT_ONCE + 1):
        with server.stream("GET", PATH, params=wanted) as stream:
            assert stream.status_code == 200
        wait_until(lambda: not list(folders.iterdir()), 30)
    trail = server.get("/api/audit", params={"subject": "opportunities"}).json()
    assert {entry["action"] for entry in trail} == {"export"}
    assert server.get(PATH, params=wanted | {"search": "renewal 6"}).status_code == 200


def test_a_workbook_goes_on_in_the_next_sheet(
    reader: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreadsheets, "MOST_ROWS", 40)
    wanted = {"columns": ["remote_id"]}
    sheets = sheets_of(reader.get(PATH, params=wanted | {"format": "xlsx"}).content)
    assert len(sheets) > 1
    assert {len(sheet) for sheet in sheets[:-1]} == {40}
    assert {sheet[0] for sheet in sheets} == {("Remote id",)}
    listed = reader.get(PATH, params=wanted).text.split()
    assert listed == ["remote_id", *(row[0] for sheet in sheets for row in sheet[1:])]


def test_a_table_as_a_spreadsheet_wants_it(reader: Caller) -> None:
    wanted = {"columns": ["customer", "remote_id"], "separator": "semicolon"}
    answer = reader.get(PATH, params=wanted | {"byte_order_mark": True})
    assert answer.content.startswith(b"\xef\xbb\xbfcustomer;remote_id\n")
    assert "Łódź Works;" in answer.content.decode("utf-8-sig")
    assert reader.get(PATH, params=wanted | {"separator": "tab"}).text.startswith(
        "customer\tremote"
    )
    all_refused: list[dict[str, Any]] = [
        {"columns": ["custom"]},
        {"columns": ["search_text"]},
        {"format": "ndjson", "columns": ["name"]},
        {"format": "xlsx", "byte_order_mark": True},
        {"format": "ndjson", "separator": "tab"},
    ]
    for refused in all_refused:
        assert reader.get(PATH, params=refused).status_code == 422, refused
    assert reader.get("/api/audit/export", params={"format": "xlsx"}).status_code in (403, 422)
