"""Values of several currencies, compared and added up."""

import re
from decimal import Decimal
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.console.conftest import Desk

OPEN = "deleted_at is null and coalesce(crm_outcome, 'OPEN') = 'OPEN'"
MONEY = re.compile(r'<data value="([^"]*)" data-format="money"[^>]*data-currency="([^"]*)"')


@pytest.fixture
def mixed(desk: Desk) -> Desk:
    """Deals in several currencies, one of which has no rate."""
    desk.query("update opportunities set currency = 'JPY' where id % 5 = 0")
    desk.query("update opportunities set currency = 'SEK' where id % 7 = 0")
    desk.query("update opportunities set currency = null where id % 50 = 0")
    return desk


def convert(desk: Desk) -> None:
    """Convert all values, like a merge after crm.yml has got a reporting currency."""
    desk.query(
        "insert into declarations (section, content) values ('currency',"
        """ '{"reporting": "EUR", "rates": {"USD": "0.9", "GBP": "1.2", "JPY": "0.006"}}')"""
    )
    desk.query("select convert_deals()")


def look(desk: Desk, path: str) -> str:
    """Return a page as Vera sees it."""
    return desk.call("GET", path, cookies={"session": desk.session("vera")}).text


def sums(html: str) -> list[list[tuple[Decimal, str]]]:
    """Return the amounts of each `sums` of a page, with their currencies."""
    found = re.findall(r'<(p|details) class="sums">(.*?)</\1>', html, re.DOTALL)
    return [
        [(Decimal(value), currency) for value, currency in MONEY.findall(part)] for _, part in found
    ]


def expected(desk: Desk, value: str, condition: str) -> list[tuple[Decimal, str]]:
    """Return the sum and the weighted sum of each currency, most deals first."""
    currency = "'EUR'" if value == "reporting_value" else "nullif(currency, '')"
    rows = desk.query(
        f"""
        select
            {currency} as currency,
            sum({value}) as value,
            round(sum({value} * win_probability * 0.01), 2) as weighted
        from opportunities
        where {condition} group by 1 order by count(*) desc, 1
        """  # noqa: S608
    )
    return [(row[name], row["currency"] or "") for row in rows for name in ("value", "weighted")]


@pytest.mark.parametrize("value", ["deal_value", "reporting_value"])
def test_lists_and_lanes_say_what_their_deals_are_worth(mixed: Desk, value: str) -> None:
    if value == "reporting_value":
        convert(mixed)
    found = sums(look(mixed, "/opportunities?practice=Cloud&include_deleted=true"))
    assert found == [expected(mixed, value, "practice = 'Cloud'")]
    assert len(found[0]) == 2 if value == "reporting_value" else len(found[0]) > 4
    assert sums(look(mixed, "/opportunities?currency=JPY")) == [
        expected(mixed, value, "currency = 'JPY' and deleted_at is null")
    ]
    assert sums(look(mixed, "/opportunities?search=nothing+is+like+this")) == []
    assert sums(look(mixed, "/board")) == [
        expected(mixed, value, f"{OPEN} and workflow_status = '{state}'")
        for state in (
            *("NEW", "ASSIGNED", "UNDER_ASSESSMENT", "PENDING_REVIEW"),
            *("APPROVED", "REJECTED"),
        )
    ]


def test_deals_are_compared_in_the_reporting_currency(mixed: Desk) -> None:
    convert(mixed)

    def first(query: str) -> list[int]:
        rows = mixed.query(f"select id from opportunities where {query} limit 20")  # noqa: S608
        return [row["id"] for row in rows]

    page = mixed.open("/opportunities", "vera")
    page.get_by_role("link", name="Largest", exact=True).click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Value")
    shown = page.locator("tbody tr[id^=deal-]")
    expect(shown.first).to_have_attribute(
        "id", f"deal-{first('deleted_at is null order by reporting_value desc nulls last, id')[0]}"
    )
    ids = [int((row.get_attribute("id") or "")[5:]) for row in shown.all()[:20]]
    order = "order by coalesce(reporting_value, -1) desc, id desc"
    assert ids == first(f"deleted_at is null {order}")
    # The original is beside it.
    yen = "reporting_value is not null and deleted_at is null and currency = 'JPY'"
    page.goto("/opportunities?currency=JPY&sort=-deal_value")
    cell = page.locator(f"#deal-{first(f'{yen} {order}')[0]} td[data-label=Value]")
    expect(cell).to_have_text(re.compile(r"€[\d,]+\s+JP¥[\d,]+"))
    page.goto("/opportunities?currency=SEK")
    expect(page.locator("tbody td[data-label=Value]").first).to_contain_text("no rate")
    expect(page.locator("#results .sums")).to_contain_text("without a rate")

    page.goto("/opportunities?min_reporting_value=100000&min_value=5")
    expect(page.get_by_label("Remove the filter Value, converted, from 100000")).to_be_visible()
    page.locator("#filters summary", has_text="Value").click()
    expect(page.get_by_text("Converted into EUR.")).to_be_visible()
    page.get_by_label("From", exact=True).first.fill("200000")
    page.get_by_label("From", exact=True).first.press("Tab")
    (fitting,) = mixed.query(
        "select count(*) from opportunities where deleted_at is null"
        " and reporting_value >= 200000 and deal_value >= 5"
    )
    expect(page.locator("#results").get_by_role("status")).to_contain_text(str(fitting["count"]))

    cards = re.findall(r'data-deal="(\d+)" data-state="NEW"', look(mixed, "/board"))
    assert list(map(int, cards)) == first(f"{OPEN} and workflow_status = 'NEW' {order}")
    (deal,) = first(f"{yen} {order}")[:1]
    page.goto(f"/opportunities/{deal}")
    figures = page.locator("#deal-head .figures")
    expect(figures).to_contain_text("JP¥")
    # It says by which rate.
    page.get_by_label("Explain: Value").click()
    expect(figures).to_contain_text(re.compile(r"JP¥[\d,.]+ \S\s+0.006 =\s+€[\d,.]+"))
    expect(figures).to_contain_text("declared in crm.yml: JPY under currency, rates")
    expect(figures).to_contain_text("The deal has no rate of its own in the CRM.")


def test_a_deal_says_how_its_value_was_converted(desk: Desk) -> None:
    # The currency of a deal, its own rate in the CRM, and into which currency that is.
    cases: list[tuple[str | None, float | None, str | None, str]] = [
        ("EUR", 2, "EUR", "The deal is in EUR, so its value is as in the CRM."),
        ("USD", 0.8, "EUR", "CrmConversionRate of its version of"),
        ("USD", 0.8, "CHF", "rate in the CRM, 0.8, is into CHF, so it can't be used."),
        ("USD", 0, "EUR", "The deal has no rate of its own in the CRM."),
        ("SEK", None, None, "There is no rate from SEK into EUR"),
        (None, 0.8, "EUR", "CrmConversionRate of its version of"),
        (None, None, None, "The deal has no currency in the CRM"),
    ]
    for number, (currency, rate, into, _) in enumerate(cases, 1):
        desk.query(
            "update opportunities set deal_value = 100, currency = %s, crm_rate = %s,"
            " crm_rate_currency = %s where id = %s",
            *(currency, rate, into, number),
        )
    assert "Explain: Value" not in look(desk, "/opportunities/1")
    convert(desk)
    for number, (*_, words) in enumerate(cases, 1):
        html = look(desk, f"/opportunities/{number}")
        explained = html.split("Explain: Value")[1].split("</details>")[0]
        assert words in " ".join(re.sub("<[^>]+>", "", explained).split()), number


def test_amounts_keep_their_currencies_without_a_reporting_one(mixed: Desk) -> None:
    html: Any = look(mixed, "/opportunities?sort=-deal_value")
    assert "In the currency of each deal." in html
    assert 'name="min_value"' in html
    assert 'class="original"' not in html
