"""The shape of records: built-in attributes with fixed types, all others in one object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_oracle_crm.discovery import match, schema_of
from tap_oracle_crm.records import RecordCleaner, RejectedError
from tap_oracle_crm.writer import PageWriter, lines_of
from tap_user import TapUser

EXTRA: dict[str, Any] = {"extra_property": "custom"}
LONG = "VeryLongCustomFieldNameThatSomebodyTypedInApplicationComposer_SalesRegion{}_c"


def take_all(catalog: dict[str, Any]) -> dict[str, Any]:
    """Select every attribute of opportunities."""
    for entry in catalog["streams"]:
        if entry["stream"] == "opportunities":
            for item in entry["metadata"]:
                item["metadata"]["selected"] = True
    return catalog


def test_what_is_not_built_in_arrives_in_one_object(tap: TapUser) -> None:
    output = tap.sync(mapped_fields="Practice_c", custom_fields=["GEO_c", "Nowhere_c"], **EXTRA)
    schema = next(item for item in output.messages if item["type"] == "SCHEMA")["schema"]
    assert schema["properties"]["custom"] == {"type": ["object", "null"]}
    assert not [name for name in schema["properties"] if name.endswith("_c")]
    expected = tap.expected(["OptyId", "Name", "Practice_c", "GEO_c"])
    for key, record in output.by_key().items():
        row = expected[key]
        assert set(record) == set(schema["properties"])
        assert record["Name"] == row["Name"]
        assert record["custom"] == {
            "Practice_c": row["Practice_c"],
            "GEO_c": row["GEO_c"],
            "Nowhere_c": None,
        }


def test_every_attribute_can_still_be_selected_by_itself(tap: TapUser) -> None:
    catalog = tap.discover(**EXTRA)
    (entry,) = [entry for entry in catalog["streams"] if entry["stream"] == "opportunities"]
    assert {"Margin_c", "StgOrder", "Revenue"} <= set(entry["schema"]["properties"])
    for item in entry["metadata"]:
        if item["breadcrumb"]:
            item["metadata"]["selected"] = item["breadcrumb"][-1] in {"Margin_c", "Name"}
    record = tap.sync(catalog=catalog, **EXTRA).records()[0]
    assert set(record) == {"OptyId", "OptyNumber", "Name", "LastUpdateDate", "custom"}
    assert set(record["custom"]) == {"Margin_c"}


def test_values_in_the_object_are_of_any_kind(tap: TapUser) -> None:
    tap.crm.add_attribute("Sectors_c", "array", [["Bank", "Energy"], None])
    tap.crm.add_attribute("Extent_c", "object", [{"unit": "m²", "of": [1, 2.5]}])
    rows = tap.expected(["OptyId", "Sectors_c", "Extent_c", "Margin_c", "GoNoGo_c"])
    for version in (4, 9):
        fields = ["sectors_c", "Extent_c", "Margin_c", "GoNoGo_c"]
        output = tap.sync(custom_fields=fields, framework_version=version, **EXTRA)
        assert output.error is None
        assert "does not exist" not in output.log
        for key, record in output.by_key().items():
            extra, row = record["custom"], rows[key]
            listed = row["Sectors_c"] and ",".join(row["Sectors_c"])
            assert extra["Sectors_c"] == (row["Sectors_c"] if version == 9 else listed)
            assert (extra["Extent_c"], extra["GoNoGo_c"]) == (row["Extent_c"], row["GoNoGo_c"])


def test_without_the_object_lists_are_json_text(tap: TapUser) -> None:
    tap.crm.add_attribute("Sectors_c", "array", [["Bank", "Energy"]])
    output = tap.sync(custom_fields=["Sectors_c"], framework_version=8)
    assert {record["Sectors_c"] for record in output.records()} == {'["Bank","Energy"]'}


@pytest.mark.parametrize("extra", [EXTRA, {}], ids=["object", "columns"])
def test_odd_values_in_custom_fields_cost_no_record(tap: TapUser, extra: dict[str, Any]) -> None:
    key = min(tap.expected(["OptyId"]))
    tap.crm.poison(key, "odd_custom")
    fields = ["Practice_c", "Region_c", "Sector_c"]
    output = tap.sync(custom_fields=fields, **extra)
    assert len(output.by_key()) == 1000
    record = output.by_key()[key]
    shown = record["custom"] if extra else record
    practice = {"key": ["ab", {"deep": None}], "half": "\ufffd"}
    assert shown["Region_c"] == "1E+400"
    if extra:
        assert shown["Practice_c"] == practice
        assert shown["Sector_c"] == ["Banking", 0.3, True]
    else:
        assert json.loads(shown["Practice_c"]) == practice
        assert shown["Sector_c"] == '["Banking",0.30000000000000000000001,true]'


def test_names_of_any_length_and_number_work(tap: TapUser) -> None:
    tap.crm.reset(records=60)
    names = [{"name": LONG.format(number), "type": "string"} for number in range(1700)]
    tap.crm.command("POST", "attributes", [*names[:-1], {**names[-1], "values": ["the last"]}])
    catalog = take_all(tap.discover(**EXTRA))
    output = tap.sync(catalog=catalog, **EXTRA)
    assert len(output.by_key()) == 60
    for record in output.records():
        assert record["custom"][LONG.format(1699)] == "the last"
        assert len(record["custom"]) > 1700


def test_the_exact_name_wins_over_one_that_differs_in_case(tap: TapUser) -> None:
    tap.crm.add_attribute("Geo_c", values=["wrong"])
    output = tap.sync(custom_fields=["GEO_c"], **EXTRA)
    rows = tap.expected(["OptyId", "GEO_c"])
    assert {key: record["custom"] for key, record in output.by_key().items()} == {
        key: {"GEO_c": row["GEO_c"]} for key, row in rows.items()
    }
    assert "Of GEO_c and Geo_c, GEO_c is read" in output.log


@given(
    names=st.lists(st.text("aAbB_", min_size=1, max_size=3), unique=True),
    wanted=st.text("aAbB_", min_size=1, max_size=3),
)
def test_names_are_matched_exactly_or_else_in_any_case(names: list[str], wanted: str) -> None:
    found, alike = match(wanted, names)
    same = {name for name in names if name.lower() == wanted.lower()}
    assert (found is None) == (not same)
    if found:
        assert found == wanted or wanted not in names
        assert same == {found, *alike}
        assert match(wanted, reversed(names)) == (found, alike)


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [("string", "n/a", "Revenue: 'n/a' is not a number"), ("string", "12.50", None)],
)
def test_a_built_in_attribute_that_changes_its_type_keeps_ours(
    tap: TapUser, kind: str, value: str, reason: str | None
) -> None:
    first = tap.sync()
    tap.crm.retype_attribute("Revenue", kind)
    tap.crm.clock(3600)
    key = min(tap.expected(["OptyId"]))
    tap.crm.update(key, Revenue=value)
    tap.crm.mutate(create=2)
    second = tap.sync(first.state)
    assert second.error is None
    schema = next(item for item in second.messages if item["type"] == "SCHEMA")["schema"]
    assert schema["properties"]["Revenue"]["type"] == ["number", "null"]
    assert [record["reason"] for record in second.records("rejected_records")] == (
        [reason] if reason else []
    )
    assert second.by_key().get(key, {}).get("Revenue") == (None if reason else 12.5)
    assert len(second.records()) >= 2


@pytest.mark.parametrize("kind", ["string", "number", "boolean", "date"])
def test_another_attribute_that_changes_its_type_stops_nothing(tap: TapUser, kind: str) -> None:
    catalog = take_all(tap.discover(**EXTRA))
    first = tap.sync(catalog=catalog, **EXTRA)
    tap.crm.retype_attribute("StgOrder", kind)
    for catalogued in (catalog, take_all(tap.discover(**EXTRA))):
        tap.crm.clock(3600)
        changed = set(tap.crm.mutate(update=5)["updated"])
        second = tap.sync(first.state, catalogued, **EXTRA)
        assert changed <= set(second.by_key())
        assert second.records("rejected_records") == []


@pytest.mark.parametrize(
    "name", ["StageStatusCd", "LookupCategory", "PartyName1", "CrmConversionRate"]
)
def test_some_attributes_are_asked_for_only_where_the_crm_has_them(tap: TapUser, name: str) -> None:
    described = tap.discover()
    (entry,) = [entry for entry in described["streams"] if entry["stream"] == "opportunities"]
    absent = ("LookupCategory", "CrmConversionRate")
    assert (name in entry["schema"]["properties"]) == (name not in absent)
    tap.crm.add_attribute("LookupCategory", values=["WON"])
    assert {record["LookupCategory"] for record in tap.sync().records()} == {"WON"}
    tap.crm.fault("error", status=404, path="/describe$")
    output = tap.sync()
    assert output.error is None
    assert "The CRM has no" not in output.log


@pytest.mark.parametrize("refused", [{}, {"fields": 400}], ids=str)  # the latter: all are sent
def test_personal_data_can_be_omitted(tap: TapUser, refused: dict[str, int]) -> None:
    tap.crm.reset(records=100)
    streams = ("opportunities", "resources", "opportunity_team", "rejected_records")
    tap.crm.poison(int(tap.crm.rows()[0]["OptyId"]), "text_as_number")
    tap.crm.settings(refused=refused)

    def read(*, omit: bool) -> str:
        output = tap.sync(streams=streams, omit_personal_data=omit)
        assert output.error is None
        assert all(output.records(stream) for stream in streams)
        return json.dumps(output.messages, ensure_ascii=False)

    people = {row["PartyName1"] for row in tap.crm.rows()}
    names = [*people, "@", "EmailAddress", '"PartyName"']
    assert [name for name in names if name in read(omit=False)] == names
    assert [name for name in names if name in read(omit=True)] == []


def test_spelling_is_learnt_from_rows_where_describe_is_silent(tap: TapUser) -> None:
    tap.crm.rename_attribute("GEO_c", "Geo_c")
    tap.crm.fault("error", status=404, path="/describe$")
    output = tap.sync(custom_fields=["GEO_c"], **EXTRA)
    rows = tap.expected(["OptyId", "Geo_c"])
    assert {key: record["custom"]["Geo_c"] for key, record in output.by_key().items()} == {
        key: row["Geo_c"] for key, row in rows.items()
    }
    assert "The CRM has no" not in output.log


def test_another_shape_makes_the_next_run_read_all(tap: TapUser) -> None:
    options: dict[str, Any] = {"custom_fields": ["Practice_c"]}
    first = tap.sync(**options)
    second = tap.sync(first.state, **options, **EXTRA)
    assert len(second.records()) == 1000
    assert len(tap.sync(second.state, **options, **EXTRA).records()) < 100


def test_the_extra_property_is_no_attribute(tap: TapUser) -> None:
    assert "extra_property: Name is an attribute" in str(tap.sync(extra_property="Name").error)


def test_stream_maps_see_the_object(tap: TapUser) -> None:
    maps = {"opportunities": {"OptyId": "OptyId", "Area": "custom['GEO_c']", "__else__": None}}
    output = tap.sync(custom_fields=["GEO_c"], stream_maps=maps, **EXTRA)
    rows = tap.expected(["OptyId", "GEO_c"])
    got = {key: record["Area"] for key, record in output.by_key().items()}
    assert got == {key: row["GEO_c"] for key, row in rows.items()}


def test_a_record_that_is_too_large_is_told_of_as_it_was_received(tap: TapUser) -> None:
    catalog = take_all(tap.discover(**EXTRA))
    key = min(tap.expected(["OptyId"]))
    tap.crm.poison(key, "huge_text")
    output = tap.sync(catalog=catalog, **EXTRA)
    assert len(output.by_key()) == 999
    (told,) = output.records("rejected_records")
    assert told["remote_id"] == str(key)
    payload = json.loads(told["payload"])
    assert "custom" not in payload
    assert payload["Practice_c"] == tap.expected(["OptyId", "Practice_c"])[key]["Practice_c"]


CLEAN = RecordCleaner.of(
    schema_of({"OptyId": "integer", "Any_c": "string"}, ["OptyId"]),
    "OptyId",
    ["OptyId", "Any_c"],
    built_in=["OptyId"],
    extra_property="custom",
)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.decimals()
    | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def texts_of(value: Any) -> Iterator[str]:
    """All texts and keys in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from texts_of(item)


def refuse(constant: str) -> None:
    """Fail on what JSON does not have."""
    raise AssertionError(constant)


@given(value=anything)
def test_whatever_a_custom_field_holds_arrives_as_json_that_databases_take(value: Any) -> None:
    lines = [lines_of([CLEAN({"OptyId": 1, "Any_c": value})])]
    (line,) = PageWriter().messages("opportunities", lines)
    arrived = json.loads(line, parse_constant=refuse, parse_float=Decimal)["record"]["custom"]
    assert set(arrived) == {"Any_c"}
    for text in texts_of(arrived):
        assert "\x00" not in text
        text.encode()  # fails on a lone surrogate
    assert (arrived["Any_c"] is None) == (value is None)
    if isinstance(value, list):
        assert len(arrived["Any_c"]) == len(value)
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < 300:
        assert Decimal(arrived["Any_c"]) == value


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_how_deep_values_may_lie() -> None:
    value = nested(100)
    assert CLEAN({"OptyId": 1, "Any_c": value}) == {"OptyId": 1, "custom": {"Any_c": value}}
    with pytest.raises(RejectedError, match="Any_c: nested more than 100 deep"):
        CLEAN({"OptyId": 1, "Any_c": nested(101)})
