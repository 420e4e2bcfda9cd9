"""What is repaired, what is rejected, and why."""

from __future__ import annotations

import http.server
import json
import threading
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tap_oracle_crm.discovery import schema_of
from tap_oracle_crm.records import RecordCleaner, RejectedError, reject
from tap_user import TapUser

TYPES = {
    "OptyId": "integer",
    "Count": "integer",
    "Revenue": "number",
    "Flag": "boolean",
    "Day": "date",
    "Moment": "date-time",
    "Name": "string",
    "Any_c": "string",
}
BUILT_IN = [name for name in TYPES if name != "Any_c"]
clean = RecordCleaner.of(schema_of(TYPES, ["OptyId"]), "OptyId", list(TYPES), built_in=BUILT_IN)


@pytest.mark.parametrize(
    ("name", "received", "emitted"),
    [
        ("OptyId", "300000000000000001", 300000000000000001),
        ("Count", Decimal("12.0"), 12),
        ("Count", " 12 ", 12),
        ("Count", "", None),
        ("Count", Decimal("1E+3"), 1000),
        ("Revenue", "1234.50", Decimal("1234.50")),
        ("Revenue", " ", None),
        ("Revenue", 2**70, Decimal(2**70)),
        ("Revenue", Decimal("0.1"), Decimal("0.1")),
        ("Revenue", Decimal("0E-100000"), 0),
        ("Revenue", "0e-100000", 0),
        ("Count", Decimal("0E-100000"), 0),
        ("Flag", "Y", True),
        ("Flag", "N", False),
        ("Flag", "false", False),
        ("Flag", 1, True),
        ("Flag", "", None),
        ("Day", "2026-02-28", "2026-02-28"),
        ("Day", "2026-02-28T23:00:00+00:00", "2026-02-28"),
        ("Day", "0000-00-00", None),
        ("Day", "  ", None),
        ("Moment", "2026-01-31T06:30:00Z", "2026-01-31T06:30:00+00:00"),
        ("Moment", "2026-01-31T06:30:00.000+00:00", "2026-01-31T06:30:00+00:00"),
        ("Moment", "2026-01-31T06:30:00.25-02:00", "2026-01-31T08:30:00.250000+00:00"),
        ("Moment", "2026-03-29T02:30:00+02:00", "2026-03-29T00:30:00+00:00"),
        ("Moment", "2026-03-29T02:30:00.5+02:00", "2026-03-29T00:30:00.500000+00:00"),
        ("Moment", "2026-01-01T02:30:00+05:30", "2025-12-31T21:00:00+00:00"),
        ("Moment", "2026-01-01T02:30:00.125+05:30", "2025-12-31T21:00:00.125000+00:00"),
        ("Moment", "2026-01-31 06:30:00", "2026-01-31T06:30:00+00:00"),
        ("Moment", "2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("Moment", "0000-00-00 00:00:00", None),
        ("Moment", "2026-W05-6T06:30:00+00:00", "2026-01-31T06:30:00+00:00"),
        ("Name", "a\x00b", "ab"),
        ("Revenue", "12\x00.5", Decimal("12.5")),
        ("Flag", "Y\x00", True),
        ("Day", "2026-02-28\x00", "2026-02-28"),
        ("Moment", "2026-01-31T06:30:00Z\x00", "2026-01-31T06:30:00+00:00"),
        ("Name", "a\ud83db", "a\ufffdb"),
        ("Name", "😀 مرحبا", "😀 مرحبا"),
        ("Name", 12, "12"),
        ("Name", True, "true"),
        ("Name", "", ""),
        ("Name", None, None),
        ("Any_c", ["a", Decimal("1.5")], '["a",1.5]'),
        ("Any_c", {"code": 1, "text": "a\x00b"}, '{"code":1,"text":"ab"}'),
        ("Any_c", [Decimal("NaN"), 10**400, 2**64], f'["NaN","1{"0" * 400}",{2**64}]'),
        ("Any_c", ["a\ud83db", {"\udc00": None}], '["a\ufffdb",{"\ufffd":null}]'),
    ],
)
def test_what_can_be_repaired_is(name: str, received: Any, emitted: Any) -> None:
    assert clean({"OptyId": 1, name: received})[name] == emitted


@pytest.mark.parametrize(
    ("name", "received", "words"),
    [
        ("OptyId", None, "no identity"),
        ("OptyId", "abc", "is not a number"),
        ("OptyId", 2**63, "64 bits"),
        ("OptyId", Decimal("1.5"), "whole number"),
        ("Count", True, "a boolean where"),
        ("Revenue", Decimal("1E+400"), "1E+400 is too large or too small"),
        ("Revenue", "1e99999999999999999999", "too large"),
        ("Revenue", Decimal("NaN"), "finite"),
        ("Revenue", Decimal("-Infinity"), "finite"),
        ("Revenue", "1e400", "too large"),
        ("Revenue", Decimal(f"1.{'0' * 16_384}"), "more than 16,383 decimals"),
        ("Revenue", "1_000", "is not a number"),
        ("Revenue", "about a million", "is not a number"),
        ("Revenue", 10**400, "too large"),
        ("Flag", "perhaps", "neither true nor false"),
        ("Flag", 2, "neither"),
        ("Flag", [], "neither"),
        ("Day", "2026-02-30", "no date that exists"),
        ("Day", "31/12/2026", "no date that exists"),
        ("Day", "99999-01-01", "no date that exists"),
        ("Day", 20260101, "no date that exists"),
        ("Moment", "yesterday", "exists"),
        ("Moment", "2026-01-31T25:00:00Z", "exists"),
        ("Moment", "0001-01-01T00:00:00+14:00", "exists"),
        ("Moment", {}, "exists"),
        ("Name", {"a": 1}, "an object where text belongs"),
        ("Name", ["a"], "a list where text belongs"),
    ],
)
def test_what_cannot_be_repaired_is_rejected_with_the_reason(
    name: str, received: Any, words: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        clean({"OptyId": 1, name: received})
    assert str(caught.value).startswith(f"{name}: ")
    assert words in str(caught.value)


def test_what_is_nested_too_deeply_is_rejected() -> None:
    nested: Any = []
    for _ in range(900):
        nested = [nested]
    with pytest.raises(RejectedError, match="Any_c: nested more than 100 deep"):
        clean({"OptyId": 1, "Any_c": nested})
    told = reject("opportunities", {"OptyId": 1, "Revenue": nested}, "OptyId", "x")
    assert json.loads(told["payload"]) == {"OptyId": "1", "cut": "nested too deeply"}


@pytest.mark.parametrize("row", [None, "text", 5, ["a"], True])
def test_what_is_no_record_is_rejected(row: Any) -> None:
    with pytest.raises(RejectedError):
        clean(row)
    assert json.loads(reject("opportunities", row, "OptyId", "x")["payload"]) == row


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.decimals()
    | st.text(st.characters())
    | st.dates().map(str)
    | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine does not mean bad data
@given(row=st.dictionaries(st.sampled_from(sorted(TYPES)), values))
def test_every_record_is_either_clean_or_told_of_in_plain_json(row: dict[str, Any]) -> None:
    reason = None
    try:
        record = clean(row)
    except RejectedError as error:
        reason = str(error)
    if reason is None:
        assert list(record) == list(TYPES)
        assert isinstance(record["OptyId"], int)
    else:
        record = reject("opportunities", row, "OptyId", reason)
        assert record["id"] == reject("opportunities", row, "OptyId", reason)["id"]
        assert isinstance(json.loads(record["payload"]), dict)
        assert "\\u0000" not in record["payload"].replace("\\\\", "")
    for value in record.values():
        if isinstance(value, str):
            assert "\x00" not in value
            value.encode()  # fails on a lone surrogate


REJECTED = {
    "overflow_1e400": "Revenue",
    "huge_number": "Revenue",
    "text_as_number": "Revenue",
    "missing_id": "OptyId",
    "null_id": "OptyId",
    "text_id": "OptyId",
    "fraction_id": "OptyId",
    "bigint_overflow_id": "OptyId",
    "bad_date": "EffectiveDate",
    "far_date": "EffectiveDate",
    "bad_timestamp": "LastUpdateDate",
    "wrong_type": "Name",
}
REPAIRED = [
    "nul",
    "numeric_string",
    "empty_string",
    "zero_date",
    "null_timestamp",
    "missing_timestamp",
    "lone_surrogate",
    "null_name",
    "missing_name",
    "long_name",
    "negative_prob",
    "high_prob",
]


@pytest.mark.parametrize("touch", [True, False])
def test_one_bad_record_never_stops_the_rest(tap: TapUser, touch: bool) -> None:
    keys = sorted(tap.expected(["OptyId"]))
    kinds = [*REJECTED, *REPAIRED]
    poisoned = dict(zip(keys[::30], kinds, strict=False))
    for key, kind in poisoned.items():
        tap.crm.poison(key, kind, touch=touch)
    output = tap.sync(page_size=100)
    bad = {key for key, kind in poisoned.items() if kind in REJECTED}
    assert set(output.by_key()) == set(keys) - bad
    rejects = output.by_key("rejected_records", "id")
    assert sorted(record["reason"].split(":")[0] for record in rejects.values()) == sorted(
        REJECTED.values()
    )
    assert all(json.loads(record["payload"]) for record in rejects.values())
    assert '"record_count","value":12,"tags":{"stream":"rejected_records"' in output.log


class TwoDeals(http.server.BaseHTTPRequestHandler):
    """A CRM of two deals, without describe; rows without a key are shown to who asks for such."""

    second: str

    def do_GET(self) -> None:
        one = '{"OptyId": 1, "LastUpdateDate": "2026-01-01T00:00:00+00:00"}'
        is_shown = "null" not in self.second or "OptyId%20is%20null" in self.path
        rows = [one, self.second] if is_shown else [one]
        items = ", ".join(rows)
        body = f'{{"items": [{items}], "limit": 25, "totalResults": {len(rows)}}}'.encode()
        self.send_response(404 if "/describe" in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ('{"OptyId": null}', "without it the record has no identity"),
        ('{"OptyId": 2, "Revenue": 1e99999999999999999999}', "too large"),
        (f'{{"OptyId": 2, "Revenue": {"[" * 800}{"]" * 800}}}', "a list where a number belongs"),
    ],
    ids=["no key", "exponent", "nested"],
)
def test_a_record_that_few_crms_have_is_told_of(tap: TapUser, second: str, reason: str) -> None:
    handler = type("Handler", (TwoDeals,), {"second": second})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        output = tap.sync(base_url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert output.error is None
    assert set(output.by_key()) == {1}
    (told,) = output.records("rejected_records")
    assert reason in told["reason"]


def test_a_record_that_was_mended_arrives(tap: TapUser) -> None:
    key = min(tap.expected(["OptyId"]))
    tap.crm.clock(3600)
    tap.crm.poison(key, "overflow_1e400")
    first = tap.sync()
    (told,) = first.records("rejected_records")
    assert (told["stream"], told["remote_id"]) == ("opportunities", str(key))
    assert key not in first.by_key()
    tap.crm.clock(7200)
    tap.crm.heal(key)
    assert key in tap.sync(first.state).by_key()


def test_a_record_too_large_for_the_pipe_is_rejected(tap: TapUser) -> None:
    catalog = tap.discover()
    for entry in catalog["streams"]:
        for item in entry["metadata"]:
            if item["breadcrumb"] == ["properties", "Description"]:
                item["metadata"]["selected"] = True
    keys = sorted(tap.expected(["OptyId"]))[:2]
    for key in keys:
        tap.crm.poison(key, "huge_text")
    output = tap.sync(catalog=catalog)
    assert {record["remote_id"] for record in output.records("rejected_records")} == set(
        map(str, keys)
    )
    assert len(output.by_key()) == 998
    for record in output.records("rejected_records"):
        assert len(json.dumps(record)) < 100_000
        assert json.loads(record["payload"])["OptyId"] in keys


def test_rejects_can_be_left_unselected(tap: TapUser) -> None:
    tap.crm.poison(min(tap.expected(["OptyId"])), "overflow_1e400")
    output = tap.sync(streams=("opportunities",))
    assert {item["stream"] for item in output.messages if "stream" in item} == {"opportunities"}
