"""Values are converted into the reporting currency that crm.yml declares."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from declared.file import declare, read_declared
from tests.warehouse import Warehouse
from tests.warm import WarmProject


@pytest.fixture
def warehouse(
    postgres: str,
    migrated: str,
    parsed: Path,
    warm: WarmProject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Warehouse:
    """An empty database."""
    monkeypatch.setenv("CRM_FILE", str(tmp_path / "crm.yml"))
    return Warehouse(postgres, migrated, parsed, warm)


def test_values_follow_their_deals_and_the_declared_rates(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    def declared(text: str) -> None:
        (tmp_path / "crm.yml").write_text(text)
        with psycopg.connect(warehouse.url, autocommit=True) as connection:
            declare(connection, read_declared())

    def values() -> dict[int, Any]:
        """The converted value of each deal; a merge makes them."""
        warehouse.merge()
        rows = warehouse.query("select remote_id, reporting_value from opportunities")
        return {int(row["remote_id"]): row["reporting_value"] for row in rows}

    def deal(key: int, value: object, currency: str | None, **rate: object) -> None:
        warehouse.load({"OptyId": key, "Revenue": value, "CurrencyCode": currency, **rate})

    corporate = {"CrmConversionRate": Decimal("0.9"), "CrmCurcyCode": "EUR"}
    declared("currency:\n  reporting: EUR\n  rates: {USD: 0.92, JPY: 0.006}\n")
    deal(1, Decimal("10.005"), "EUR")
    deal(2, 100, "USD")
    deal(3, Decimal("1234567.8"), "JPY")
    deal(4, 100, "USD", **corporate)
    deal(5, 100, "USD", **corporate | {"CrmCurcyCode": "CHF"})
    deal(6, 100, "SEK")
    deal(7, 100, "SEK", **corporate)
    deal(8, 100, None)
    deal(9, None, "USD")
    deal(10, 100, "EUR", **corporate)
    deal(11, 100, "USD", **corporate | {"CrmConversionRate": 0})
    deal(12, 100, "USD")
    assert values() == {
        1: Decimal("10.005"),
        2: 92,
        3: Decimal("7407.41"),
        4: 90,  # the deal's own rate
        5: 92,  # its own rate is into another currency
        6: None,
        7: 90,
        8: None,
        9: None,
        10: 100,
        11: 92,
        12: 92,
    }

    # Of deal 12 the CRM now has a version that cannot be merged: the one of before is converted.
    deal(12, 500, "USD", WinProb=200)
    deal(2, 200, "USD")
    declared("currency:\n  reporting: USD\n  rates: {EUR: 1.1}\n")
    assert values() == {
        1: Decimal("11.01"),
        2: 200,
        3: None,
        4: 100,
        5: 100,
        6: None,
        7: None,
        8: None,
        9: None,
        10: 110,
        11: 100,
        12: 100,
    }
    changed = warehouse.query(
        "select remote_id, field from opportunity_changes"
        " join opportunities on opportunities.id = opportunity_id"
    )
    assert changed == [{"remote_id": "2", "field": "deal_value"}]

    # Each merge begins with this.
    declared("")
    warehouse.query("select convert_deals()")
    found = warehouse.query("select distinct reporting_value from opportunities")
    assert found == [{"reporting_value": None}]
