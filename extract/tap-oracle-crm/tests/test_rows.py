"""A record is the same, byte for byte, whether it was read with its page or value by value."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tap_oracle_crm.answers import page_of
from tap_oracle_crm.discovery import schema_of
from tap_oracle_crm.reading import timestamp
from tap_oracle_crm.records import RecordCleaner, RejectedError, Row, key_of
from tap_oracle_crm.rows import RowType
from tap_oracle_crm.writer import lines_of

TYPES = {
    "Name": "string",
    "Revenue": "number",
    "OptyId": "integer",
    "Owner": "integer",
    "Flag": "boolean",
    "Day": "date",
    "LastUpdateDate": "date-time",
}
CUSTOM = {"Any_c": "string", "Amount_c": "number", "Count_c": "integer", "Is_c": "boolean"}
SHAPES = {
    "object": ({**TYPES, **CUSTOM}, "custom"),
    "empty": (TYPES, "custom"),
    "none": ({**TYPES, **CUSTOM}, None),
}
ODD_TEXTS = [
    *(r'"\u0000a"', r'"\ud800"', r'"\ud83d\ude00"', r'"\/"', r'"a\nb"', r'"\u005cu0000"'),
    *(r'",\",\"Any_c\":\""', '"12.50"', '"1e5"', '"Y"', '"NaN"', '"é"', '" "', '""'),
    *('"a\nb"', '"a\x00b"', '"\x7f\u2028"'),
]
MOMENTS = [
    *("2026-01-31T06:30:00+00:00", "2026-01-31T06:30:00Z", "2026-01-31T06:30:00.000+00:00"),
    *("2026-01-31T06:30:00-02:00", "2026-02-30T06:30:00+00:00", "0001-01-01T00:00:00+14:00"),
    *("2026-01-31", "2026-02-30", "2026-W05-6", "0000-00-00", "٢026-01-31"),
    *(r"2026-01-31T06:30:00\u0000+00:00", r"2026-01-31T06:30:00+00:00\n"),
]

# All are texts of JSON, and some of what the standard library takes for JSON.
numbers = (
    st.integers(-(10**30), 10**30).map(str)
    | st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
    | st.sampled_from(
        f"""-0 -0.0 0.0000001 0.00000000 1.50 12.0 1e400 1e99999999999999999999 NaN -Infinity
        {2**63} {-(2**63)} {10**400} 0.{"0" * 17_000}1""".split()
    )
)
texts = st.text(st.characters(), max_size=8).map(json.dumps) | st.sampled_from(ODD_TEXTS)
moments = st.sampled_from(MOMENTS).map(lambda text: f'"{text}"')
scalars = st.sampled_from(["null", "true", "false"]) | numbers | texts | moments
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(texts, inner), max_size=2).map(
            lambda items: "{" + ",".join(f"{name} : {value}" for name, value in items) + "}"
        )
    ),
    max_leaves=3,
)
fitting = {
    "integer": st.integers(-(2**63), 2**63 - 1).map(str),
    "number": st.integers(-(10**9), 10**9).map(lambda cents: str(cents / 100)) | numbers,
    "boolean": st.sampled_from(["true", "false"]),
    "date": moments,
    "date-time": moments,
    "string": texts,
}


@st.composite
def received(draw: st.DrawFn) -> str:
    """Draw a row as text: most values fit their type; some names are missing, unknown or twice."""
    names = draw(
        st.lists(st.sampled_from([*TYPES, *CUSTOM, "Other", "custom", "f1", ""]), max_size=9)
    )
    pairs = [("OptyId", str(draw(st.integers(1, 9)))), *((name, "") for name in names)]
    written = []
    for name, value in draw(st.permutations(pairs)):
        kinds = {**TYPES, **CUSTOM}
        strategy = fitting.get(kinds.get(name, ""), values) | st.just("null")
        if draw(st.integers(0, 9)) == 0:
            strategy = values
        written.append(f"{json.dumps(name)}:{value or draw(strategy)}")
    return "{" + ", ".join(written) + "}"


pages = st.lists(received() | st.sampled_from(["null", "5", '"text"', "[]"]), max_size=4)


def answer() -> requests.Response:
    response = requests.Response()
    response.status_code = 200
    return response


def results(cleaner: RecordCleaner, rows: list[Any], row_type: RowType | None) -> list[Any]:
    """Return the line of each record, or the reason for its rejection."""
    found: list[Any] = []
    for row in rows:
        try:
            record = row if isinstance(row, Row) else cleaner(row)
        except RejectedError as error:
            found.append(str(error))
        else:
            found.append(row_type.lines([record]) if row_type else lines_of([record]))
    return found


@pytest.mark.parametrize("shape", SHAPES)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(page=pages)
@example(page=['{"OptyId":1}'] * 3)
@example(page=['{"OptyId":1}', '{"OptyId":2,"Revenue":-0}', '{"OptyId":3,"Name":"\\u0000"}'])
@example(page=['{"OptyId":1,"LastUpdateDate":"0001-01-01T00:00:00+14:00"}'])
@example(page=['{"OptyId":1,"Revenue":1E400}', '{"OptyId":"2","Day":"2026-02-30"}', "{}"])
def test_a_page_gives_the_records_of_its_rows(shape: str, page: list[str]) -> None:
    types, extra = SHAPES[shape]
    schema = schema_of(types, ["OptyId"])
    cleaner = RecordCleaner.of(schema, "OptyId", list(types), built_in=TYPES, extra_property=extra)
    row_type = RowType.of(cleaner, schema, "LastUpdateDate")
    assert row_type
    body = ('{"items": [' + ", ".join(page) + '], "limit": 25, "hasMore": false}').encode()
    slow = page_of(body, answer())
    quick = page_of(body, answer(), row_type)
    assert results(cleaner, quick.items, row_type) == results(cleaner, slow.items, None)
    assert (quick.complete, quick.limit) == (slow.complete, slow.limit)
    for one, two in zip(quick.items, slow.items, strict=True):
        assert key_of(one, "OptyId") == key_of(two, "OptyId")
        if isinstance(one, Row):
            assert timestamp(one.changed) == timestamp(two.get("LastUpdateDate"))
    records = [
        cleaner(row) for row in slow.items if not isinstance(results(cleaner, [row], None)[0], str)
    ]
    assert row_type.lines(records) == lines_of(records)
