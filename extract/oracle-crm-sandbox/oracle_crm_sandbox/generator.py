"""Invented CRM data: the same rows for the same seed, number and moment.

People, companies and deals are fictitious. Rows are as difficult as real ones, but
valid: emoji, right-to-left text, HTML, quotes, control characters, nulls, absent
attributes, numbers sent as strings, thousands of equal timestamps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random

Row = tuple[object, ...]


class Absent:
    """The value of an attribute that is missing in a row of the answer."""


ABSENT = Absent()

# Answers show one row in a hundred with one of these.
ODDITIES = ("omit_nulls", "numbers_as_text")

# The party of the reading account: without a record set, it sees only its own open deals.
OWN_PARTY_ID = 300000000010001
OWN_DEALS = 7
BUSINESS_UNIT = 300000000000101
YEARS_COVERED = timedelta(days=730)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_COMPANY_WORDS = _words(
    """
    Alder Brantford Cobalt Delmare Estrel Fennwick Gallard Hollin Ivara Juniper Kestrel
    Lindwurm Marlow Norvell Ostra Pellucid Quillon Ravensby Sorrel Tamarack Umbria Velden
    Wexcombe Yarrow Zephyr
    """
)
_COMPANY_TRADES = _words(
    """
    Systems Logistics Foods Energie Maschinenbau Bank Insurance Airlines Pharma Retail
    Telecom Railways Chemicals Shipping Hospital Water
    """
)
_COMPANY_FORMS = ("Ltd", "GmbH", "S.A.", "AG", "Inc.", "& Co. KG", "PLC", "B.V.", "AB", "S.p.A.")
_ODD_COMPANIES = (
    'O\'Hara & Söhne "Nord" GmbH',
    "شركة الأفق للتجارة",
    'חברת צפון בע"מ',
    "Żółw i Łoś Sp. z o.o.",
    "北星建設株式会社",
    "Company <b>Bold</b> &amp; Sons",
    "Ünïcode 🚀 Labs",
    "Null Holdings",
    "=SUM(A1:A9) Consulting",
    "  Padded  Name  ",
    "Backslash \\ Slash / Pipe | Tab\tLtd",
    "Robert'); DROP TABLE opportunities;-- Ltd",
)
_FIRST_NAMES = _words(
    """
    Ada Bruno Chiara Dmitri Elif Farah Goran Hana Ines Jonas Keiko Liam Mira Noor Olga
    Pavel Quentin Rosa Søren Thandi Umar Vera Wanjiru Ximena Yusuf Zoë
    """
)
_LAST_NAMES = _words(
    """
    Abernet Bellweather Castanho Dunmore Eskelund Farrowby Grunwaldt Hartigan Ilvonen
    Jarnefold Kowalchik Lindqvall Montrose Nakadori Okonjere Petrarch Quimbly Rosenfold
    """
)
_TOPICS = (
    "Data centre move",
    "SAP rollout",
    "Network refresh",
    "Service desk",
    "Cloud migration",
    "Cyber defence",
    "ERP upgrade",
    "Managed workplace",
    "Field service app",
    "Analytics platform",
    "Smart metering",
    "Framework agreement",
)
_ODD_NAMES = (
    "Renewal 🚀🔥 phase II 👩‍👩‍👧",
    "تجديد عقد الصيانة 2026",
    "הסכם שירות - שלב ב'",
    'The "big" one; with, commas\tand tabs',
    "Line one\nLine two\r\nLine three",
    "<script>alert('deal')</script> & <b>bold</b>",
    "O''Brien's \\ path \\u0041 {json: \"no\"}",
    "Z̴̖a̷l̵g̶o̸ combining e\u0301 vs é",
    "Invisible\u200b\u2028\ufeffmarks",
    '=HYPERLINK("http://example.com")',
    "NUL\x00inside",
    "null",
    "名前の長い案件" * 8,
)
# SalesStage, SalesStageId, StgOrder, WinProb, PhaseCd, MaximumDaysInStage
OPEN_STAGES: tuple[Row, ...] = (
    ("01 - Qualification", 300000000000201, 1, 10, "QUALIFY", 60),
    ("02 - Discovery", 300000000000202, 2, 25, "QUALIFY", 90),
    ("03 - Building Vision", 300000000000203, 3, 40, "WORKING-DEAL", 120),
    ("04 - Proposal", 300000000000204, 4, 60, "WORKING-DEAL", 90),
    ("05 - Negotiation", 300000000000205, 5, 75, "CLOSING", 60),
    ("4. Commit", 300000000000206, 6, 90, "CLOSING", 30),
)
CLOSED_WON: Row = ("06 - Closed Won", 300000000000207, 7, 100, "CLOSED", None)
CLOSED_LOST: Row = ("07 - Closed Lost", 300000000000208, 8, 0, "CLOSED", None)
CLOSED_OTHER: Row = ("08 - Closed", 300000000000209, 9, 0, "CLOSED", None)
CLOSINGS: dict[str, Row] = {
    "WON": CLOSED_WON,
    "LOST": CLOSED_LOST,
    "NO_SALE": CLOSED_OTHER,
    "CLOSED": CLOSED_OTHER,
}
REASONS = {
    "WON": ("PRICE", "RELATIONSHIP", "PRODUCT"),
    "LOST": ("PRICE", "COMPETITION", "TIMING"),
    "NO_SALE": ("NO_BUDGET", "CANCELLED"),
    "CLOSED": ("DUPLICATE",),
}
STAGE_COLUMNS = _words("SalesStage SalesStageId StgOrder WinProb PhaseCd MaximumDaysInStage")
ACCOUNT_COLUMNS = _words(
    """
    PartyId PartyNumber OrganizationName UniqueNameSuffix Type Country City OwnerPartyId
    OwnerName EmployeesTotal CreationDate LastUpdateDate CreatedBy LastUpdatedBy
    """
)
RESOURCE_COLUMNS = _words(
    """
    PartyId PartyNumber ResourceProfileId PartyName EmailAddress Usage StartDateActive
    EndDateActive CreationDate LastUpdateDate CreatedBy LastUpdatedBy
    """
)
OPPORTUNITY_COLUMNS = (
    *_words(
        """
        OptyId OptyNumber Name TargetPartyId TargetPartyName SalesAccountUniqueName Revenue
        ExpectAmount UpsideAmount DownsideAmount CurrencyCode RcmndWinProb
        """
    ),
    *STAGE_COLUMNS,
    *_words(
        """
        StatusCode StageStatusCd EffectiveDate ReasonWonLostCode OwnerResourcePartyId
        PartyName1 EmailAddress KeyContactId PrimaryContactPartyName PrimaryRevenueId
        Description Comments CreationDate LastUpdateDate CreatedBy LastUpdatedBy Practice_c
        GEO_c Region_c Sector_c BidDueDate_c Margin_c LegacyDealId_c SalesMethod
        PrimaryOrganizationId BudgetedFlag ChampionFlag BudgetAvailableDate RiskLevelCode
        StrategicLevelCode DealHorizonCode SalesChannelCd LineOfBusinessCode UpdateFlag
        DeleteFlag LastUpdateLogin DealSource_c GoNoGo_c
        """
    ),
)
_CURRENCIES = ("EUR", "USD", "GBP", "INR", "JPY", "BHD", "CHF", "AED")
_PRACTICES = ("Cloud", "Data & AI", "Cybersecurity", "ERP", "Workplace", "Réseaux", "Engineering")
_REGIONS = (
    ("EMEA", "DACH"),
    ("EMEA", "Nordics"),
    ("EMEA", "UK & Ireland"),
    ("EMEA", "الخليج"),
    ("APAC", "Japan"),
    ("APAC", "India"),
    ("AMER", "US East"),
    ("AMER", "LATAM"),
    ("AMER", None),
    (None, None),
)
_SECTORS = ("Public", "Banking", "Energy", "Retail", "Health", "Transport", "Telecom", None)
_SENTENCES = (
    "Customer asked for a second workshop before the tender.",
    "Incumbent contract ends in Q3; price pressure expected.",
    "<p>Scope: <b>SAP S/4HANA</b> &amp; hosting<br/>Budget: tbc</p>",
    "Decision board meets monthly.",
    "Le client préfère une offre en français.",
    "Kunde möchte Festpreis - bitte prüfen!",
    "الميزانية معتمدة للسنة القادمة.",
    "見積書を再提出してください。",
    "See \\\\share\\bids\\2026 and “annex B”.",
    "🙂 positive signal from the CIO",
)
_STAMP_FORMAT = "%Y-%m-%dT%H:%M:%S+00:00"


def stamp(moment: datetime) -> str:
    """Write a moment as rows hold it: UTC, whole seconds, ``+00:00``."""
    return moment.astimezone(UTC).strftime(_STAMP_FORMAT)


@dataclass(frozen=True, slots=True)
class Party:
    """An account or a resource in opportunities."""

    id: int
    number: str
    name: str
    email: str = ""


class Generator:
    """Rows of one seed. All timestamps are before ``now``; the newest some hours before it."""

    def __init__(self, records: int, seed: int, now: datetime) -> None:
        self._records = records
        self._random = Random(seed)
        self._end = int(now.timestamp()) - 3 * 3600
        self._start = self._end - int(YEARS_COVERED.total_seconds())
        self.accounts = self._make_accounts(max(3, records // 10))
        self.resources = self._make_resources(min(200, max(8, records // 50)))
        self.oddities: dict[int, str] = {}

    def _make_accounts(self, number: int) -> list[Party]:
        names = [
            f"{first} {trade} {form}"
            for trade in _COMPANY_TRADES
            for first in _COMPANY_WORDS
            for form in _COMPANY_FORMS
        ]
        self._random.shuffle(names)
        accounts, identity = [], 300000000100000
        for index in range(number):
            identity += self._random.randrange(1, 90)
            name = names[index % len(names)]
            if index % 25 == 2:
                name = _ODD_COMPANIES[index // 25 % len(_ODD_COMPANIES)]
            elif index >= len(names):
                name = f"{name} ({index // len(names) + 1})"
            accounts.append(Party(identity, f"CDRM_{identity % 10_000_000}", name))
        return accounts

    def _make_resources(self, number: int) -> list[Party]:
        resources, identity = [], OWN_PARTY_ID
        for index in range(number):
            first = _FIRST_NAMES[index % len(_FIRST_NAMES)]
            last = _LAST_NAMES[(index * 7 + index // len(_FIRST_NAMES)) % len(_LAST_NAMES)]
            email = f"person{index + 1:03d}@example.com"
            resources.append(Party(identity, f"RES_{index + 1:04d}", f"{first} {last}", email))
            identity += self._random.randrange(3, 400)
        return resources

    # --- collections --------------------------------------------------------------------

    def account_rows(self) -> Iterator[Row]:
        """Rows of ``accounts`` in the order of ``ACCOUNT_COLUMNS``."""
        choice = self._random.choice
        for account in self.accounts:
            owner = choice(self.resources)
            created, updated = self._two_stamps()
            country = choice(("DE", "GB", "FR", "JP", "US", "AE", "IN", None))
            yield (
                account.id,
                account.number,
                account.name,
                f"({country or 'XX'})",
                choice(("ZCA_CUSTOMER", "ZCA_PROSPECT")),
                country,
                choice(("Berlin", "Leeds", "Lyon", "大阪", "Austin", "دبي", None)),
                owner.id,
                owner.name,
                choice((None, 12, 250, 4_000, 125_000)),
                created,
                updated,
                "FUSION_INTEGRATION",
                owner.email,
            )

    def resource_rows(self) -> Iterator[Row]:
        """Rows of ``resources`` in the order of ``RESOURCE_COLUMNS``."""
        for resource in self.resources:
            created, updated = self._two_stamps()
            yield (
                resource.id,
                resource.number,
                resource.id + 7,
                resource.name,
                resource.email,
                "EMPLOYEE",
                created[:10],
                None,
                created,
                updated,
                "FUSION_INTEGRATION",
                "FUSION_INTEGRATION",
            )

    def opportunity_rows(self) -> Iterator[Row]:
        """Rows of ``opportunities`` in the order of ``OPPORTUNITY_COLUMNS``, by OptyId."""
        rng = self._random
        rand, choice, between = rng.random, rng.choice, rng.randrange
        span = self._end - self._start
        creations = sorted(self._start + int(rand() * span * 0.97) for _ in range(self._records))
        # Mass updates: a few moments that many rows share.
        masses = [self._start + int(span * share) for share in (0.31, 0.62, 0.8, 0.93)]
        sundry = [self._minor_attributes() for _ in range(400)]
        owners = self.resources[1:]
        own = set(rng.sample(range(self._records), min(OWN_DEALS, self._records)))
        identity = 300000048000000
        for index, created in enumerate(creations):
            identity += between(1, 60)
            updated = created + int((self._end - created) * rand() ** 0.7)
            if rand() < 0.2:
                updated = max(choice(masses), created)
            elif rand() < 0.3:
                updated -= updated % 3600  # nightly jobs write whole hours
                updated = max(updated, created)
            account = choice(self.accounts)
            owner = self.resources[0] if index in own else choice(owners)
            stage, status = self._stage_and_status()
            if index in own:
                stage, status = choice(OPEN_STAGES), "OPEN"
            revenue = self._revenue()
            name = f"{account.name}: {choice(_TOPICS)} {2024 + index % 4}"
            if rand() < 0.02:
                name = choice(_ODD_NAMES)
            geo, region = choice(_REGIONS)
            closing = datetime.fromtimestamp(created + between(10, 500) * 86400, UTC).date()
            updated_text = datetime.fromtimestamp(updated, UTC).strftime(_STAMP_FORMAT)
            if index % 97 == 13:
                updated_text = f"{updated_text[:19]}.{between(1, 1000):03d}+00:00"
            if index % 101 == 50:
                self.oddities[identity] = choice(ODDITIES)
            yield (
                identity,
                self._number(index, identity),
                name[:275],
                account.id,
                account.name if rand() > 0.01 else None,
                f"{account.name} ({geo or 'XX'})" if rand() > 0.05 else " ",
                revenue,
                revenue,
                None if revenue is None else round(revenue * 1.2, 2),
                None if revenue is None else round(revenue * 0.8, 2),
                choice(_CURRENCIES) if rand() > 0.01 else None,
                between(0, 101),
                *stage,
                status,
                "OPEN" if status in ("OPEN", "ON_HOLD") else "CLOSED",
                self._closing_date(closing),
                choice(REASONS[status]) if status in REASONS else None,
                owner.id,
                owner.name,
                owner.email,
                account.id + 3 if rand() > 0.3 else None,
                f"{choice(_FIRST_NAMES)} {choice(_LAST_NAMES)}" if rand() > 0.3 else None,
                identity + 1,
                self._description(index),
                choice(_SENTENCES) if rand() < 0.1 else None,
                datetime.fromtimestamp(created, UTC).strftime(_STAMP_FORMAT),
                updated_text,
                owner.email,
                owner.email if rand() > 0.2 else "FUSION_INTEGRATION",
                choice(_PRACTICES) if rand() > 0.08 else None,
                geo,
                region,
                choice(_SECTORS),
                closing.isoformat() if rand() > 0.4 else None,
                round(rand() * 0.5 - 0.05, 4),
                (identity * 1009 + 7) % 900_000_000_000_000_000 + 100_000_000_000_000_000
                if rand() < 0.3
                else None,
                *choice(sundry),
            )

    # --- parts of an opportunity --------------------------------------------------------

    def _two_stamps(self) -> tuple[str, str]:
        created = self._random.randrange(self._start, self._end)
        updated = self._random.randrange(created, self._end + 1)
        return (
            datetime.fromtimestamp(created, UTC).strftime(_STAMP_FORMAT),
            datetime.fromtimestamp(updated, UTC).strftime(_STAMP_FORMAT),
        )

    def _minor_attributes(self) -> Row:
        """Invent the less important attributes."""
        choice = self._random.choice
        budget = date(2025, 1, 1) + timedelta(days=self._random.randrange(700))
        return (
            choice(("Standard Sales Process", "Framework Sales", None)),
            BUSINESS_UNIT,
            choice((True, False)),
            choice((True, False, False)),
            choice((budget.isoformat(), None, None)),
            choice(("LOW", "MEDIUM", "HIGH", None)),
            choice(("STRATEGIC", "STANDARD", None)),
            choice(("SHORT", "LONG", None)),
            choice(("ZPM_DIRECT_CHANNEL_TYPES", "ZPM_PARTNER_CHANNEL_TYPES")),
            choice(("SERVICES", "LICENCES", None)),
            True,
            choice((True, False)),  # whether this user may delete the row; it is no tombstone
            "-1",
            choice(("Inbound", "Tender portal", "Partner", "", None)) or None,
            choice((True, False, None)),
        )

    def _stage_and_status(self) -> tuple[Row, str | None]:
        roll = self._random.random()
        if roll < 0.6:
            return self._random.choice(OPEN_STAGES), "OPEN"
        if roll < 0.61:
            return self._random.choice(OPEN_STAGES), "ON_HOLD"  # the customer's own code
        if roll < 0.615:
            return self._random.choice((CLOSED_WON, CLOSED_LOST)), None
        if roll < 0.62:
            return self._random.choice(OPEN_STAGES), None
        status = self._random.choices(("WON", "LOST", "NO_SALE", "CLOSED"), (40, 40, 16, 4))[0]
        return CLOSINGS[status], status

    def _revenue(self) -> float | int | None:
        roll = self._random.random()
        if roll < 0.02:
            return None
        if roll < 0.03:
            return 0
        if roll < 0.032:
            return 9_999_999_999_999.99
        if roll < 0.3:
            return self._random.randrange(1, 2_000) * 500
        return round(self._random.lognormvariate(11.5, 1.6), 2)

    def _closing_date(self, closing: date) -> str | None:
        roll = self._random.random()
        if roll < 0.01:
            return None
        if roll < 0.012:
            return "4712-12-31"  # Oracle's end of time
        return closing.isoformat()

    def _description(self, index: int) -> str | None:
        if index % 5000 == 321:
            return "".join(self._random.choices(_SENTENCES, k=3000))
        roll = self._random.random()
        if roll < 0.55:
            return None
        if roll < 0.56:
            return "Pasted\x00from\x0ba mainframe\x1b[0m"
        if roll < 0.6:
            return " ".join(self._random.choices(_SENTENCES, k=30))[:2000]
        return " ".join(self._random.choices(_SENTENCES, k=2))

    @staticmethod
    def _number(index: int, identity: int) -> str:
        if index % 211 == 17:
            return f"OPP {identity % 1_000_000} & Ä#{index}"
        if index % 5 == 3:
            return f"OPP_IMPORT_{identity % 1_000_000_000:09d}"
        if index % 2:
            return f"CDRM_{identity % 1_000_000_000}"
        return str(identity % 1_000_000_000)
