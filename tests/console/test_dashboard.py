"""The dashboard shows what the marts hold, as charts with tables behind them."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import parse_qs

from playwright.sync_api import expect

from tests.console.conftest import Desk
from tests.console.test_money import convert

OUTLIER = """
update opportunities set deal_value = 1e13, name = 'A slip of the pen'
where id = (
    select min(id) from opportunities
    where currency = 'EUR' and id % 2 = 0 and deleted_at is null and crm_outcome = 'OPEN'
        and close_date between now() and now() + interval '1 year'
)
returning id
"""


def test_charts_and_their_tables_are_the_marts(desk: Desk) -> None:
    page = desk.open("/dashboard", "vera")
    (total,) = desk.query(
        "select sum(deals)::int as deals from pipeline_by_stage_and_month where currency = 'EUR'"
    )
    expect(page.locator(".figures")).to_contain_text(str(total["deals"]))

    stages = desk.query(
        "select stage, sum(deals)::int as deals from pipeline_by_stage_and_month"
        " where currency = 'EUR' group by stage order by stage"
    )
    rows = (
        page.get_by_role("region")
        .or_(page.locator("section"))
        .filter(has=page.get_by_role("heading", name="Pipeline by stage"))
        .last.locator("tbody tr")
    )
    assert [row.locator("td").last.inner_text() for row in rows.all()] == [
        str(row["deals"]) for row in stages
    ]
    widths = [
        float(bar.get_attribute("width", timeout=1000).strip("%"))  # type: ignore[union-attr]
        for bar in rows.locator(".bar-fill").all()
    ]
    assert max(widths) == 100
    assert len(widths) == len(stages)

    months = desk.query(
        "select close_month, sum(deals)::int as deals from pipeline_by_stage_and_month"
        " where currency = 'EUR' and close_month >= date_trunc('month', now())"
        " group by close_month order by close_month"
    )
    page.get_by_text("As a table").click()
    table = page.get_by_label("Pipeline by month", exact=True).locator("tbody tr")
    assert [row.locator("td").first.inner_text() for row in table.all()] == [
        str(row["deals"]) for row in months
    ]
    assert page.locator(".months .bar-fill").count() >= len(months)
    assert page.locator(".months .ticks data").last.inner_text() == "€0"
    assert page.locator(".months .ticks data").count() > 2
    bar = page.get_by_role("img", name=re.compile(r"^02 - Discovery: [0-9,]+ EUR, weighted "))
    expect(bar).to_have_count(1)


def test_win_rate_ageing_and_top_deals(desk: Desk) -> None:
    page = desk.open("/dashboard", "vera")

    def rows(title: str) -> list[list[str]]:
        section = page.locator("section", has=page.get_by_role("heading", name=title))
        return [
            [row.locator("th").inner_text(), *row.locator("td.number").all_inner_texts()]
            for row in section.locator("tbody tr").all()
        ]

    assert rows("Win rate by practice") == [
        [
            row["practice"] or "No practice",
            f"{100 * row['win_rate']:.1f}".removesuffix(".0") + "%",
            str(row["won"]),
            str(row["lost"]),
        ]
        for row in desk.query(
            "select * from win_rate_by_practice where currency = 'EUR' and won + lost > 0"
            " order by win_rate desc, practice"
        )
    ]
    assert {(row[0].upper().replace(" ", "_"), row[-1]) for row in rows("How long deals wait")} == {
        (row["workflow_status"], str(row["deals"]))
        for row in desk.query("select * from workflow_ageing")
    }
    expected = desk.query(
        "select id from opportunities where crm_outcome = 'OPEN'"
        " and deleted_at is null and deal_value is not null and currency = 'EUR'"
        " order by deal_value desc, id desc limit 10"
    )
    top = page.locator(".top-deals .name")
    assert [deal.get_attribute("href") for deal in top.all()] == [
        f"/opportunities/{row['id']}" for row in expected
    ]


def test_another_currency_and_the_way_to_the_deals(desk: Desk) -> None:
    page = desk.open("/dashboard", "vera")
    page.get_by_role("link", name=re.compile("^USD")).click()
    expect(page.locator(".top-deals data").first).to_have_text(re.compile(r"^US\$"))
    page.get_by_role("link", name="02 - Discovery").click()
    expect(page).to_have_url(re.compile(r"/opportunities\?stage=02.*currency=USD"))
    expect(page.get_by_label("Remove the filter Stage: 02 - Discovery")).to_be_visible()


def test_before_the_first_sync(empty_desk: Desk) -> None:
    page = empty_desk.open("/dashboard")
    expect(page.get_by_text("Nothing to show yet")).to_be_visible()
    page.get_by_role("link", name="Over time", exact=True).click()
    expect(page.get_by_text("The history begins with the first sync.")).to_be_visible()
    page.goto("/opportunities")
    expect(page.get_by_text("No opportunities yet")).to_be_visible()
    page.goto("/board")
    expect(page.get_by_text("None", exact=True)).to_have_count(6)
    page.goto("/sync")
    expect(page.get_by_text("There has been no sync yet.")).to_be_visible()
    expect(page.get_by_text("Nothing is rejected.")).to_be_visible()


def test_it_opens_on_the_currency_of_most_deals(desk: Desk) -> None:
    desk.query("update opportunities set currency = null where id % 50 = 0 returning id")
    page = desk.open("/dashboard", "vera")
    current = page.get_by_label("Currency").locator("[aria-current]")
    expect(current).to_contain_text("EUR")
    page.get_by_role("link", name=re.compile("^No currency")).click()
    expect(current).to_contain_text("No currency")
    (counted,) = desk.query(
        "select count(*)::int as deals from opportunities where currency is null"
        " and deleted_at is null and coalesce(crm_outcome, 'OPEN') = 'OPEN'"
    )
    expect(page.locator(".figures strong").first).to_have_text(str(counted["deals"]))


def test_each_number_opens_exactly_its_deals(desk: Desk) -> None:
    desk.query("update opportunities set currency = 'JPY' where id % 7 = 0")
    desk.query("update opportunities set currency = null where id % 11 = 0")
    desk.query("update opportunities set stage = null where id % 13 = 0")
    desk.query("update opportunities set crm_outcome = null where id % 17 = 0")
    desk.query("update opportunities set deleted_at = now() where id % 19 = 0")
    desk.query(OUTLIER)
    # Closed in the CRM, and not yet moved by a merge.
    desk.query("update opportunities set crm_outcome = 'WON' where id % 23 = 0")
    vera = {"session": desk.session("vera")}

    def opened(path: str) -> list[tuple[str, str, int]]:
        """The numbers of a page with the addresses that they lead to."""
        found = re.findall(
            r'href="/opportunities\?([^"]*)"\s+data-opens="(\d+)">(.*?)</a>',
            desk.call("GET", path, cookies=vera).text,
            re.DOTALL,
        )
        return [(unescape(query), text, int(number)) for query, number, text in found]

    kinds = set()
    for path in (
        *("currency=EUR", "currency=USD", "currency=JPY", "no_currency=true"),
        "currency=EUR&outliers=without",
        *("converted", "outliers=without", "currency=EUR&outliers=without"),
    ):
        if path == "converted":
            convert(desk)
        numbers = opened(f"/dashboard?{path.removeprefix('converted')}")
        assert len(numbers) > 20
        for query, text, number in numbers:
            total = desk.call("GET", f"/api/opportunities?{query}", cookies=vera).json()["total"]
            assert (query, total) == (query, number), text
            kinds |= {part.partition("=")[0] for part in query.split("&") if number}
    # Each filter has counted something.
    assert kinds >= {
        *("currency", "crm_outcome", "stage", "practice", "missing", "workflow_status"),
        *("closing_after", "closing_before", "outliers"),
    }

    lanes = opened("/board?currency=EUR&currency=JPY")
    assert {"NEW", "ASSIGNED"} <= {
        state
        for query, _, number in lanes
        if number
        for state in parse_qs(query)["workflow_status"]
    }
    for query, text, number in lanes:
        total = desk.call("GET", f"/api/opportunities?{query}", cookies=vera).json()["total"]
        assert (query, total) == (query, number), text


def test_late_deals_are_those_of_the_list(desk: Desk) -> None:
    desk.query(
        "insert into declarations (section, content) select section, jsonb_set("
        ' content::jsonb, \'{states}\', \'{"NEW": {"days": 5}, "ASSIGNED": {"days": 90}}\')'
        " from declarations where section = 'decisions' order by id desc limit 1"
    )
    (expected,) = desk.query("select over_limit from workflow_ageing where workflow_status = 'NEW'")
    assert expected["over_limit"] > 0
    page = desk.open("/dashboard", "vera")
    section = page.locator("section", has=page.get_by_role("heading", name="How long deals wait"))
    number = section.locator("a[href*='late=true'][href*='NEW']")
    expect(number).to_have_text(str(expected["over_limit"]))
    number.click()
    expect(page.get_by_label("Remove the filter Late")).to_be_visible()
    expect(page.locator("#results").get_by_role("status")).to_contain_text(
        f"{expected['over_limit']} opportunit"
    )


def test_an_outlier_is_marked_and_can_be_left_out(desk: Desk) -> None:
    (outlier,) = desk.query(OUTLIER)
    page = desk.open("/dashboard?currency=EUR", "vera")
    pipeline = page.locator(".figures strong").nth(1)
    expect(pipeline).to_have_text("€10tn")
    expect(page.locator(".top-deals li").first).to_contain_text("Outlier")
    # The other bars can still be seen: the longer ones are cut.
    bars = page.locator("section", has=page.get_by_role("heading", name="Pipeline by stage"))

    def lengths() -> list[float]:
        found = bars.locator(".bar-fill").all()
        return sorted(float((bar.get_attribute("width") or "").strip("%")) for bar in found)

    assert lengths()[-2] > 10
    expect(bars.locator(".bar-cut")).to_have_count(1)
    expect(page.locator(".months .bar-cut")).to_have_count(1)

    page.get_by_role("link", name="Leave it out", exact=True).click()
    (rest,) = desk.query(
        "select count(*)::int as deals from opportunities where currency = 'EUR' and id != %s"
        " and deleted_at is null and coalesce(crm_outcome, 'OPEN') = 'OPEN'",
        outlier["id"],
    )
    expect(page.locator(".figures strong").first).to_have_text(str(rest["deals"]))
    expect(page.locator(".hints")).to_contain_text("It is left out of the pipeline.")
    expect(page.locator(".top-deals")).not_to_contain_text("A slip of the pen")
    expect(page.locator(".bar-cut")).to_have_count(0)
    page.get_by_role("link", name="Count it", exact=True).click()
    expect(pipeline).to_have_text("€10tn")
    page.locator(".hints .opens").click()
    expect(page.get_by_label("Remove the filter Outliers only")).to_be_visible()
    expect(page.locator("#results tbody tr")).to_have_count(1)
    # It has the same mark wherever it is.
    expect(page.locator("#results tbody .badge", has_text="Outlier")).to_have_count(1)
    page.goto(f"/opportunities/{outlier['id']}")
    expect(page.locator("#deal-head .badge", has_text="Outlier")).to_have_count(1)
    page.goto("/board")
    card = page.locator(f".deal[data-deal='{outlier['id']}']")
    expect(card.locator(".badge", has_text="Outlier")).to_have_count(1)
    expect(page.locator(".badge", has_text="Outlier")).to_have_count(1)


def test_all_currencies_are_one_with_rates(desk: Desk) -> None:
    desk.query("update opportunities set currency = 'SEK' where id % 7 = 0")
    convert(desk)
    page = desk.open("/dashboard", "vera")
    expect(page.get_by_label("Currency").locator("[aria-current]")).to_contain_text("All in EUR")
    (total,) = desk.query(
        "select count(*)::int as deals, sum(reporting_value) as value,"
        " count(*) filter (where currency = 'SEK' and deal_value is not null)::int as without_rate"
        " from opportunities"
        " where deleted_at is null and coalesce(crm_outcome, 'OPEN') = 'OPEN'"
    )
    figures = page.locator(".figures strong")
    expect(figures.first).to_have_text(str(total["deals"]))
    assert figures.nth(1).locator("data").get_attribute("value") == str(total["value"])
    expect(page.locator(".hints")).to_contain_text(
        f"{total['without_rate']} deals have no rate into EUR and add nothing to the sums."
    )


def test_each_number_explains_itself(desk: Desk) -> None:
    """The SQL that is shown gives what is shown."""
    desk.query(OUTLIER)
    for path in ("currency=EUR", "no_currency=true&outliers=without", "converted", ""):
        if path == "converted":
            convert(desk)
        html = desk.call(
            "GET",
            f"/dashboard?{path.removeprefix('converted')}",
            cookies={"session": desk.session("vera")},
        ).text
        explained = dict(re.findall(r'data-explains="(\w+)">(.*?)</pre>', html, re.DOTALL))

        def rows(name: str, explained: dict[str, str] = explained) -> list[list[str]]:
            found = desk.query(unescape(explained[name]).replace("%", "%%"))
            return [[str(value) for value in row.values()] for row in found]

        figures = html.split('class="card figures"')[1].split("<section")[0]
        shown = re.findall(r"<strong>.*?</strong>", figures, re.DOTALL)
        values = [re.findall(r'<data value="([^"]*)"', figure) for figure in shown]
        expected = [rows(name)[0] for name in ("open", "pipeline", "weighted", "rate", "overdue")]
        assert [list(map(float, value)) for value in values] == [
            list(map(float, value)) for value in expected
        ]
        for name, title in (("month", "month-title"), ("stage", "stage-title")):
            table = html.split(f'id="{title}"')[1].split("<tbody>")[1].split("</tbody>")[0]
            for part, row in zip(table.split("<tr>")[1:], rows(name), strict=True):
                amounts = set(map(float, re.findall(r'<data value="([^"]*)"', part)))
                assert amounts == set(map(float, row[1 : 4 if name == "month" else 3]))
        top = re.findall(r'class="name" href="/opportunities/(\d+)"', html)
        assert [row[0] for row in rows("top") if row[2] != "None"] == top
        assert len(rows("practice")) == html.split('id="win-title"')[1].split("</tbody>")[0].count(
            'scope="row"'
        )
        assert {row[0] for row in rows("ageing")} >= {"NEW", "ASSIGNED"}

    page = desk.open("/dashboard", "vera")
    page.get_by_label("Explain: Pipeline", exact=True).click()
    help_ = page.locator(".explains[open]")
    expect(help_).to_contain_text("Values are in EUR, converted")
    expect(help_).to_contain_text("from opportunities")
    expect(help_.get_by_role("link", name="sync", exact=True)).to_have_attribute(
        "href", re.compile("^/sync/runs/")
    )
    for width in (768, 1000):
        page.set_viewport_size({"width": width, "height": 800})
        for question in page.locator(".explains > summary").all():
            question.click()
            box = page.locator(".explains[open] .popover").bounding_box()
            assert box
            assert 0 <= box["x"] <= width - box["width"]
            page.keyboard.press("Escape")


# What has happened on the last days to deals of the demo data.
HAPPENED = """
    update opportunities set crm_outcome = 'OPEN', deleted_at = null, stage = '01 - Qualification',
        deal_value = 100000, currency = case id % 6 when 5 then null else 'EUR' end,
        close_date = '2026-12-01'
    where id between 20 and 99;
    update opportunity_changes set changed_at = now() - interval '20 days';
    insert into opportunities (opty_number, remote_id, name, stage, deal_value, currency)
    select 'new ' || i, 'new ' || i, 'New ' || i, '01 - Qualification', 1000 * i, 'EUR'
    from generate_series(1, 60) as i;
    update opportunities set deal_value = 150000 where id between 20 and 29;
    update opportunities set deal_value = null where id = 30;
    update opportunities set crm_outcome = 'WON', stage = '06 - Closed Won'
    where id between 28 and 33;
    update opportunities set crm_outcome = 'LOST' where id between 34 and 36;
    update opportunities set deleted_at = now() where id between 37 and 38;
    update opportunities set currency = 'USD' where id between 39 and 42;
    update opportunities set stage = '02 - Discovery' where id between 43 and 52;
    update opportunities set stage = null where id between 53 and 55;
    update opportunities set close_date = '2027-03-01' where id between 56 and 66;
    update opportunities set close_date = null where id between 67 and 68
"""


def test_what_became_of_the_pipeline(desk: Desk) -> None:
    for statement in HAPPENED.split(";"):
        desk.query(statement)
    vera = {"session": desk.session("vera")}
    period = {"start": str(datetime.now(UTC).date() - timedelta(days=10))}
    steps = set()
    for one in ("currency=EUR", "currency=USD", "missing=currency", ""):
        if not one:
            convert(desk)
        shown = desk.call(
            "GET", f"/dashboard/pipeline?start={period['start']}&{one}", cookies=vera
        ).text
        found = re.findall(
            r'href="(/opportunities|/dashboard/pipeline)\?([^"#]*)[^"]*"\s+data-opens="(\d+)"',
            shown,
        )
        assert len(found) > 5
        for path, query, number in found:
            lists = "opportunities" if path == "/opportunities" else "pipeline/deals"
            asked = unescape(query)
            total = desk.call("GET", f"/api/{lists}?{asked}", cookies=vera).json()["total"]
            assert (asked, total) == (asked, int(number))
            steps |= set(parse_qs(asked).get("step", []))
    assert steps >= {
        *("opening", "new", "value_up", "value_down", "won", "lost", "deleted", "kept"),
        *("currency_in", "currency_out"),
    }

    page = desk.open(f"/dashboard/pipeline?start={period['start']}&currency=EUR", "vera")
    (told,) = (
        one
        for one in desk.call("GET", "/api/pipeline", params=period, cookies=vera).json()[
            "currencies"
        ]
        if one["currency"] == "EUR"
    )
    expect(page.get_by_role("heading", level=2).first).to_contain_text("From €")
    new = page.get_by_role("row", name="New ").first
    expect(new.get_by_role("img")).to_have_accessible_name(re.compile("^New: 1,830,000 EUR$"))
    assert told["steps"][0] == {"step": "new", "deals": 60, "value": 1830000}
    new.get_by_role("link").click()
    rows = page.locator("#deals tbody tr:not(.more)")
    expect(page.get_by_role("heading", name="New 60", exact=True)).to_be_visible()
    page.get_by_role("link", name="Show more").scroll_into_view_if_needed()
    expect(rows).to_have_count(60)
    expect(rows.first).to_contain_text("€60,000")
    page.get_by_role("link", name=re.compile("^All in EUR")).click()
    # The values of now are those of the list; a deal in dollars shows both.
    (now,) = desk.query(
        "select count(*)::int as deals, sum(reporting_value) as value from opportunities"
        " where deleted_at is null and coalesce(crm_outcome, 'OPEN') = 'OPEN'"
    )
    closing = page.get_by_role("row", name="Closing").locator("td.number")
    expect(closing.locator("data").first).to_have_attribute("value", str(now["value"]))
    expect(closing.last).to_have_text(str(now["deals"]))
    page.get_by_role("row", name="Opening").get_by_role("link").click()
    expect(rows.locator(".original", has_text="US$").first).to_be_visible()
    page.get_by_role("link", name=re.compile("^EUR")).click()
    page.get_by_label("From", exact=True).fill(str(datetime.now(UTC).date()))
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page).to_have_url(re.compile(r"start=20.*&currency=EUR"))
    expect(page.get_by_role("table").first).to_contain_text("Closing")
