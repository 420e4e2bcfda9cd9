"""A field is declared once, in crm.yml: from the CRM to the history of its deals."""

from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from declared.fields import (
    BUILT_IN,
    Field,
    built_in,
    default_name,
    key_expression,
    store_fields,
)
from declared.file import DeclarationError, read_declared
from declared.indexes import build_indexes
from tests.conftest import PIPELINE, Pipeline

OWN = [
    {"attribute": "Budget_c", "filter": True, "sort": True, "place": "list"},
    "GoLive_c",
    {"attribute": "Products_c", "label": "What we sell"},
    "Note_c",
    "Nowhere_c",
]


@pytest.fixture
def declare(pipeline: Pipeline, tmp_path: Path) -> Any:
    """Writes the file that the pipeline reads."""
    file = tmp_path / "crm.yml"
    pipeline.environment["CRM_FILE"] = str(file)

    def write(*own: Any) -> None:
        standard = ["Name", "Revenue", {"attribute": "Practice_c", "name": "practice"}]
        file.write_text(yaml.safe_dump({"fields": [*standard, *own]}))

    return write


def fields(pipeline: Pipeline) -> dict[str, tuple[str, str, bool]]:
    """Type and label of the customer's own fields, and whether the CRM has them."""
    rows = pipeline.query('select * from fields where "column" is null order by position')
    return {row["name"]: (row["type"], row["label"], row["is_in_crm"]) for row in rows}


def own_values(pipeline: Pipeline, key: int) -> dict[str, Any]:
    """What a deal has in the customer's own fields."""
    (row,) = pipeline.query("select custom from opportunities where remote_id = %s", str(key))
    custom: dict[str, Any] = row["custom"]
    return custom


def test_a_line_in_the_file_is_all_that_a_field_takes(pipeline: Pipeline, declare: Any) -> None:
    crm = pipeline.crm
    crm.add_attribute("Budget_c", "number", values=[100, 2500.5])
    crm.add_attribute("GoLive_c", "date", values=["2026-12-01"])
    crm.add_attribute("Products_c", "array", values=[["Cloud", "Data"]])
    crm.add_attribute("Note_c", "string", values=["one", None])
    first, second = (row["OptyId"] for row in crm.rows()[:2])
    declare()
    pipeline.sync()
    assert own_values(pipeline, first) == {}

    declare(*OWN)
    added = pipeline.sync()
    assert added["updated_records"] == 1000
    assert fields(pipeline) == {
        "budget": ("number", "Budget", True),
        "go_live": ("date", "Go Live", True),
        "products": ("list", "What we sell", True),
        "note": ("text", "Note", True),
        "nowhere": ("text", "Nowhere_c", False),
    }
    crm.update(first, Budget_c=700, Products_c=["Data"], GoLive_c=None)
    crm.update(second, Note_c="other")
    pipeline.sync()
    assert own_values(pipeline, first) == {
        "budget": 700,
        "go_live": None,
        "products": ["Data"],
        "note": "one",
        "nowhere": None,
    }
    as_read = {
        row["attribute"]: row["as_read"]
        for row in pipeline.query("select * from attributes_as_read(%s)", str(first))
    }
    names = ("Budget_c", "GoLive_c", "Note_c", "Products_c")
    assert [as_read[name] for name in names] == ["700", None, "one", "Data"]
    assert {"Name", "Revenue", "Practice_c"} <= as_read.keys()
    assert "PartyName1" not in as_read, "not declared"
    history = "select field, old_value, new_value from opportunity_changes order by id"
    changes = [tuple(row.values()) for row in pipeline.query(history)]
    assert set(changes) == {
        ("budget", "100", "700"),
        ("go_live", "2026-12-01", None),
        ("note", None, "other"),
        ("products", '["Cloud", "Data"]', '["Data"]'),
    }

    # Renamed, retyped, removed: deals keep what they have, and nothing of it is a change.
    declare(
        {"attribute": "Budget_c", "name": "money"},
        {"attribute": "GoLive_c", "type": "timestamp"},
        {"attribute": "Note_c", "type": "list"},
    )
    crm.add_attribute("Late_c", "number", values=[1])
    done = pipeline.meltano("run", *PIPELINE)
    assert done.returncode == 0, done.stdout
    told = [line.partition("NEWS: ")[2].strip() for line in done.stdout.splitlines()]
    assert set(filter(None, told)) == {
        "new in the CRM: Late_c (number). In crm.yml, add under fields: - Late_c",
        "renamed in crm.yml: budget is money; deals keep the values and the history of budget",
        "of another type in crm.yml: go_live was date, is timestamp",
        "of another type in crm.yml: note was text, is list",
        "no longer in crm.yml: Products_c; deals keep its values."
        " In crm.yml, add under fields: - Products_c",
        "no longer in crm.yml: Nowhere_c; deals keep its values."
        " In crm.yml, add under fields: - Nowhere_c",
    }
    assert own_values(pipeline, first) == {
        "budget": 700,
        "money": 700,
        "go_live": None,
        "products": ["Data"],
        "note": ["one"],
        "nowhere": None,
    }
    assert own_values(pipeline, second)["go_live"] == "2026-12-01T00:00:00+00:00"
    assert len(pipeline.query(history)) == 4


def test_a_value_of_another_type_rejects_its_deal_alone(pipeline: Pipeline, declare: Any) -> None:
    crm = pipeline.crm
    crm.add_attribute("Budget_c", "string", values=["100", "1,5", None, "n/a", " 7 "])
    declare({"attribute": "Budget_c", "type": "number"})
    run = pipeline.sync()
    (counted,) = pipeline.query("select count(*) as deals from opportunities")
    assert run["failed_records"] == 1000 - counted["deals"] == 400
    (reason,) = pipeline.query(
        "select distinct reason from rejected_records where reason like '%%n/a%%'"
    )
    assert reason == {"reason": "Budget_c: n/a is no number; crm.yml can declare it as text"}
    assert pipeline.query("select distinct custom from opportunities order by custom") == [
        {"custom": {"budget": value}} for value in (None, 7, 100)
    ]

    declare("Budget_c")
    assert pipeline.sync()["failed_records"] == 0
    (counted,) = pipeline.query("select count(*) as deals from opportunities")
    assert counted["deals"] == 1000
    assert pipeline.query("select 1 from rejected_records where resolved_at is null") == []


def test_fields_of_the_account_follow_it(pipeline: Pipeline, declare: Any) -> None:
    crm = pipeline.crm
    crm.add_attribute("Industry_c", "string", ["Bank", "Energy", None], "accounts")
    crm.add_attribute("Size_c", "string", ["5", "7.50"], "accounts")
    declare()
    pipeline.sync()
    assert "accounts" not in crm.requests()["by_kind"]

    declare(
        {"attribute": "Account.Industry_c", "name": "industry", "filter": True},
        {"attribute": "Account.Size_c", "type": "number"},
        "Account.OrganizationName",
        {"attribute": "CreatedBy", "name": "author"},
    )
    pipeline.sync()
    accounts = {row["PartyId"]: row for row in crm.rows("accounts")}
    rows = crm.rows()
    deals = pipeline.query("select remote_id, custom from opportunities")
    assert {deal["remote_id"]: deal["custom"] for deal in deals} == {
        str(row["OptyId"]): {
            "industry": accounts[row["TargetPartyId"]]["Industry_c"],
            "account_size": float(accounts[row["TargetPartyId"]]["Size_c"]),
            "account_organization_name": accounts[row["TargetPartyId"]]["OrganizationName"],
            "author": row["CreatedBy"],
        }
        for row in rows
    }
    assert fields(pipeline)["industry"] == ("text", "Industry", True)
    assert pipeline.query("select 1 from opportunity_changes") == []

    def changed(field: str) -> set[tuple[str, str]]:
        query = """
            select remote_id, new_value from opportunity_changes
            inner join opportunities on opportunity_id = opportunities.id where field = %s
        """
        return {tuple(row.values()) for row in pipeline.query(query, field)}

    first, second = sorted({row["TargetPartyId"] for row in rows})[:2]
    of = {
        account: {str(row["OptyId"]) for row in rows if row["TargetPartyId"] == account}
        for account in (first, second)
    }
    crm.update(first, "accounts", Industry_c="Retail")
    crm.update(second, "accounts", Industry_c="Retail", Size_c="many")
    pipeline.sync()
    assert changed("industry") == {(deal, "Retail") for deal in of[first]}
    rejects = pipeline.query("select remote_id, reason, resolved_at from rejected_records")
    assert {reject["remote_id"] for reject in rejects} == of[second]
    assert {reject["reason"] for reject in rejects} == {
        "Account.Size_c: many is no number; crm.yml can declare it as text"
    }

    check = pipeline.module("orchestrate.check")
    misfit = f'deals whose Account.Size_c is no number: {len(of[second])}, such as "many";'
    assert misfit in check.stdout

    crm.update(second, "accounts", Size_c="8")
    pipeline.sync()
    assert changed("industry") == {(deal, "Retail") for deals in of.values() for deal in deals}
    assert changed("account_size") == {(deal, "8") for deal in of[second]}
    assert pipeline.query("select 1 from rejected_records where resolved_at is null") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields: Budget_c", "line 1: fields must be a list"),
        ("fields:\n- Acount.Country", "line 2: a field needs attribute:"),
        ("fields:\n- {name: x}", "line 2: a field needs attribute:"),
        ("fields:\n- Name\n- Budget-c", "line 3: a field needs attribute:"),
        ("fields:\n- {attribute: A_c, tipe: text}", "line 2: a field has no 'tipe'"),
        ("fields:\n- {attribute: A_c, type: money}", "line 2: 'money' must be text, number"),
        ("fields:\n- {attribute: A_c, sort: maybe}", "line 2: 'maybe' must be true or false"),
        ("fields:\n- {attribute: A_c, name: Ä}", "line 2: a name has small letters"),
        ("fields:\n- A_c\n- A_c", "line 3: the name 'a' is taken"),
        ("fields:\n- A_c\n- {attribute: A_c, name: b}", "line 3: 'A_c' stands in line 2 too"),
        ("fields:\n- {attribute: A_c, name: search}", "line 2: 'search' would clash with 'search'"),
        (
            "fields:\n- {attribute: A_c, name: value}",
            "line 2: 'value' would clash with 'max_value'",
        ),
        ("fields:\n- {attribute: A_c, name: region}\n- Region_c", "line 3: the name 'region'"),
        ("fields:\n- {attribute: Revenue, type: text}", "line 2: deal_value is always a number"),
        ("fields:\n- {attribute: Revenue, name: money}", "line 2: Revenue is always called"),
        ("fields:\n- {attribute: OptyNumber, filter: true}", "line 2: lists have no filter for"),
        (
            "fields:\n- {attribute: Name, place: hidden}",
            "line 2: the name of a deal can't be hidden",
        ),
        ("fields:\n- [A_c]", "line 2: a field must consist of lines"),
    ],
)
def test_a_mistake_is_named_with_its_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "crm.yml").write_text(text)
    monkeypatch.setenv("CRM_FILE", str(tmp_path / "crm.yml"))
    with pytest.raises(DeclarationError) as error:
        read_declared()
    assert message in str(error.value)


def test_our_own_file_lists_the_built_in_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRM_FILE", raising=False)
    listed = read_declared().fields
    assert {field.name for field in listed} == BUILT_IN.keys()
    assert set(listed) == set(built_in())


def test_another_spelling_is_the_built_in_field(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "crm.yml").write_text("fields:\n- Geo_c\n- GoLive_c")
    monkeypatch.setenv("CRM_FILE", str(tmp_path / "crm.yml"))
    geo, own = read_declared().fields
    assert (geo.name, geo.attribute, geo.column) == ("geo", "Geo_c", "geo")
    assert (own.name, own.column) == ("go_live", None)


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9]*_c", fullmatch=True))
def test_each_attribute_has_a_name(attribute: str) -> None:
    name = default_name(attribute)
    assert name
    assert name == name.lower()
    assert name.replace("_", "") == attribute.removesuffix("_c").replace("_", "").lower()


SAME = [
    ("100", 100, "number"),
    ("Yes", True, "boolean"),
    ("one", ["one"], "list"),
    ("a; b", ["a", "b"], "list"),
    ("2026-12-01", "2026-12-01T00:00:00+00:00", "timestamp"),
    ("2026-12-01T10:30:00+00:00", "2026-12-01", "date"),
]


@pytest.mark.parametrize(("value", "result", "type_"), SAME)
def test_a_new_type_is_no_change_nor_is_the_old_one(
    database: str, value: Any, result: Any, type_: str
) -> None:
    with psycopg.connect(database) as connection:
        (row,) = connection.execute(
            "select field_value(%(a)s, %(type)s), is_same_value(%(a)s, %(b)s),"
            " is_same_value(%(b)s, %(a)s)",
            {"a": Jsonb(value), "b": Jsonb(result), "type": type_},
        ).fetchall()
        assert row == (result, True, True)
        other: LiteralString = "select is_same_value(%s, '\"other\"'), is_same_value('null', %s)"
        assert connection.execute(other, [Jsonb(value)] * 2).fetchone() == (False, False)


def test_the_short_ways_give_what_the_casts_give(database: str) -> None:
    values = [None, "", " x ", 7, 7.5, True, ["a"], {"a": 1}, "7", "yes"]
    values += ["2026-02-28", "2026-02-30"]
    times = "2026-02-28T{}:30+00:00", "2026-02-28T10:{}:30+00:00", "2026-02-28T10:30:{}+00:00"
    values += [time.format(part) for time in times for part in ("00", "24", "60", "61", "30.5")]
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "select type, value, field_value(value, type), cast_field_value(value, type)"
            " from jsonb_array_elements(%s) as value, unnest(%s::text[]) as type",
            [Jsonb(values), [type_ for _, _, type_ in SAME] + ["text"]],
        ).fetchall()
    assert len(rows) == len(values) * 7
    assert [row for row in rows if row[2] != row[3]] == []


@pytest.mark.parametrize("zone", ["UTC", "Europe/Zurich", "America/New_York"])
def test_a_time_without_an_offset_is_in_utc_in_each_session(database: str, zone: str) -> None:
    times = {
        "2026-03-29": "2026-03-29T00:00:00+00:00",
        "2026-03-29T10:30": "2026-03-29T10:30:00+00:00",
        "2026-03-29 10:00:00 PM": "2026-03-29T22:00:00+00:00",
        "2026-03-29T100000": "2026-03-29T10:00:00+00:00",
        "2026-03-29 02:30:00.5": "2026-03-29T02:30:00.5+00:00",
        "2026-03-29T10:00:00 CET": "2026-03-29T09:00:00+00:00",
        "2026-03-29T10:00:00-0530": "2026-03-29T15:30:00+00:00",
    }
    with psycopg.connect(database) as connection:
        connection.execute("select set_config('timezone', %s, false)", [zone])
        rows = connection.execute(
            "select value #>> '{}', field_value(value, 'timestamp')"
            " from jsonb_array_elements(%s) as value",
            [Jsonb(list(times))],
        ).fetchall()
        assert connection.execute("show timezone").fetchone() == (zone,)
    assert dict(rows) == times


def test_a_line_of_another_attribute_is_news_once(database: str) -> None:
    def news() -> list[tuple[Any, ...]]:
        rows = connection.execute("select kind, field, previous_type, detail from field_news")
        return rows.fetchall()

    with psycopg.connect(database) as connection:
        store_fields(connection, (*built_in(), Field("budget", "Budget_c", type="number")))
        store_fields(connection, (*built_in(), Field("budget", "Budget_c", "Money", "number")))
        assert news() == []
        store_fields(connection, (*built_in(), Field("budget", "Sum_c", type="number")))
        detail = "of another attribute in crm.yml: budget was Budget_c, is Sum_c"
        assert news() == [("moved", "budget", None, detail)]
        store_fields(connection, built_in())
        assert [kind for kind, *_ in news()] == ["removed"]
        connection.execute("update declared_fields set removed_at = now() - interval '15 days'")
        assert news() == []


def test_set_up_indexes_what_lists_are_filtered_and_sorted_by(database: str) -> None:
    fields = {"budget": "number", "go_live": "date", "products": "list", "note": "text"}
    with psycopg.connect(database, autocommit=True) as connection:
        for position, (name, type_) in enumerate(fields.items()):
            connection.execute(
                "insert into declared_fields (name, attribute, type, filter, sort, place, position)"
                " values (%s, %s, %s, true, true, 'list', %s)",
                [name, f"{name}_c", type_, position],
            )
        connection.execute(
            """
            insert into opportunities (remote_id, custom)
            select n::text, jsonb_build_object(
                'budget', n, 'go_live', '2026-01-01'::date + n, 'note', repeat('x', n),
                'products', array['P' || n]
            )
            from generate_series(1, 3000) as n
            -- Of another type than declared: before a change of the type.
            union all
            select 'odd', '{"budget": "much", "go_live": 7, "products": "P1", "note": ["a"]}'
            union all
            select 'none', '{}'
            """
        )
        made = [f"made the index by_{type_}_{name}" for name, type_ in fields.items()]
        assert sorted(build_indexes(database)) == sorted(made)
        assert build_indexes(database) == []
        for name, type_ in fields.items():
            query = "select id from opportunities "
            if type_ == "list":
                query += f"where custom -> '{name}' @? '$[*] ? (@ == 1 || @ == \"P1\")'"
            else:
                query += f"order by {key_expression(name, type_)}, id limit 5"
            plan = connection.execute(SQL("explain " + query)).fetchall()
            assert f"by_{type_}_{name}" in str(plan)

        connection.execute("update declared_fields set type = 'text' where name = 'budget'")
        connection.execute("update declared_fields set filter = false where name = 'products'")
        connection.execute(
            "update pg_index set indisvalid = false where indexrelid = 'by_text_note'::regclass"
        )
        assert sorted(build_indexes(database)) == [
            "dropped the index by_list_products",
            "dropped the index by_number_budget",
            "made the index by_text_budget",
            "made the index by_text_note",
        ]
