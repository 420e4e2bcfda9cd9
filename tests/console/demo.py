"""Demo data: a bid team's deals, people and syncs, as they are after some weeks of use."""

import json
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from argon2 import PasswordHasher

from declared.assessment import SEVEN, Assessment

PASSWORD = "correct horse battery"  # what all of the people below sign in with
PEOPLE = {
    "vera": ("Vera Lindqvall", "viewer"),
    "ada": ("Ada Bellweather", "assessor"),
    "yusuf": ("يوسف الخطيب", "assessor"),
    "mira": ("Mira Kowalchik", "manager"),
    "olga": ("Olga Petrarch", "admin"),
}
LONG = "Framework agreement for the operation, maintenance and step-by-step renewal of all "
LONG += "regional data centres, including hand-over, training and documentation, lots 1 to 14"
ODD_NAMES = (
    "تجديد عقد الصيانة والدعم الفني للأنظمة المالية",
    "הסכם שירות - שלב ב'",
    LONG,
    '<b>Bold</b> & "quoted" rollout',
    "名前の長い案件" * 6,
    "Renewal 🚀 phase II",
    None,
    "  ",
)
TOPICS = (
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
    "Payments hub",
)
CUSTOMERS = (
    "Alder Bank",
    "Brantford Logistics AG",
    "Cobalt Energie GmbH",
    "Delmare Shipping",
    "Fennwick Insurance PLC",
    "Gallard Pharma S.A.",
    "Juniper Railways",
    "Kestrel Airlines",
    "Marlow Foods Ltd",
    "Norvell Telecom",
    "شركة الأفق للتجارة",
    "Żółw i Łoś Sp. z o.o.",
    "Tamarack Water",
    "Velden Maschinenbau GmbH & Co. KG",
)
OWNERS = (
    "Noor Abadi",
    "Benedikt Falkner",
    "Chiara Montefalco",
    "Dagny Solheim",
    "Esteban Quiroga",
    "Fumiko Arisawa",
    "Greta Lindholm",
    "דנה לוינסון",
    "Ignacio Bellver",
    "Jorunn Aasheim",
    "Kofi Asantewaa",
    "Linnea Österby",
)
STAGES = (
    ("01 - Qualification", 10),
    ("02 - Discovery", 25),
    ("03 - Building Vision", 40),
    ("04 - Proposal", 60),
    ("05 - Negotiation", 75),
)
STATES = (
    ["NEW"] * 8
    + ["ASSIGNED"] * 4
    + ["UNDER_ASSESSMENT"] * 3
    + ["PENDING_REVIEW"] * 2
    + ["APPROVED"] * 2
    + ["REJECTED"]
)
COLUMNS = (
    "remote_id",
    "opty_number",
    "name",
    "customer",
    "practice",
    "geo",
    "region",
    "sector",
    "deal_value",
    "currency",
    "win_probability",
    "sales_owner",
    "stage",
    "status_code",
    "crm_outcome",
    "workflow_status",
    "workflow_status_before_close",
    "close_date",
    "remote_created_at",
    "remote_updated_at",
    "first_synced_at",
    "last_synced_at",
    "deleted_at",
    "assigned_to",
)


def fill(url: str, deals: int = 400) -> None:
    """Fill a database that is up to date and empty."""
    dice = random.Random(7)
    now = datetime.now(UTC)
    password_hash = PasswordHasher().hash(PASSWORD)
    with psycopg.connect(url, autocommit=True) as connection:
        for name, (full_name, role) in PEOPLE.items():
            connection.execute(
                "insert into users (name, full_name, email, role, password_hash)"
                " values (%s, %s, %s, %s, %s)",
                [name, full_name, f"{name}@example.com", role, password_hash],
            )
        with connection.cursor().copy(
            f"copy opportunities ({', '.join(COLUMNS)}) from stdin"
        ) as copy:
            for number in range(1, deals + 1):
                copy.write_row(list(_deal(number, dice, now).values()))
        for number, owner in enumerate(OWNERS):  # the CRM has not told of the others
            connection.execute(
                "insert into sales_owners (remote_id, name) values (%s, %s)",
                [f"30000000001{number:04}", owner],
            )
        connection.execute("analyze opportunities")
        _history(connection, now)
        _assessment(connection)
        _syncs(connection, dice, now)
        _rejects(connection, now)


def _deal(number: int, dice: random.Random, now: datetime) -> dict[str, Any]:
    stage, win = dice.choice(STAGES)
    state, before = dice.choice(STATES), None
    status, deleted = "OPEN", None
    if number % 6 == 0:
        before, state = state, dice.choice(("WON", "WON", "LOST", "CLOSED"))
        status = {"WON": "WON", "LOST": "LOST"}.get(state, "NO_SALE")
        stage, win = ("06 - Closed Won", 100) if state == "WON" else ("07 - Closed Lost", 0)
    if number % 67 == 0:
        deleted = now - timedelta(days=3)
    updated = now - timedelta(days=dice.choice((0, 1, 2, 5, 9, 20, 40, 120)), minutes=number)
    name: str | None = f"{dice.choice(TOPICS)} {2026 + number % 2}"
    if number <= len(ODD_NAMES):
        name = ODD_NAMES[number - 1]
    values = (
        str(300000020000000 + number),
        f"CDRM_{1000 + number}",
        name,
        dice.choice(CUSTOMERS),
        dice.choice(("Cloud", "Data & AI", "Security", "Workplace", None)),
        dice.choice(("EMEA", "APAC", "AMER")),
        f"Region {number % 12}",
        f"Sector {number % 7}",
        None if number % 29 == 0 else round(10 ** dice.uniform(4, 6.7), -2),
        dice.choice(("EUR", "EUR", "EUR", "USD")),
        win,
        f"30000000001{number % 20:04}",
        stage,
        status,
        "OPEN" if before is None else state,
        state,
        before,
        (now + timedelta(days=dice.randint(-20, 300))).date(),
        now - timedelta(days=200),
        updated,
        now - timedelta(days=90),
        updated,
        deleted,
        2 + number % 3 if state not in ("NEW", "WON", "LOST", "CLOSED") else None,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _history(connection: psycopg.Connection[Any], now: datetime) -> None:
    """The first deal has gone through something; others a little."""
    changes = (
        (40, "stage", "01 - Qualification", "02 - Discovery", None),
        (31, "deal_value", "900000", "1250000", None),
        (30, "workflow_status", "NEW", "ASSIGNED", "Mira Kowalchik"),
        (30, "assigned_to", None, "ada", "Mira Kowalchik"),
        (12, "stage", "02 - Discovery", "04 - Proposal", None),
        (12, "win_probability", "25", "60", None),
        (9, "close_date", "2026-10-31", "2026-12-18", None),
        (2, "workflow_status", "ASSIGNED", "UNDER_ASSESSMENT", "Ada Bellweather"),
    )
    connection.execute(
        "update opportunities set workflow_status = 'UNDER_ASSESSMENT', assigned_to = 2,"
        " workflow_status_before_close = null, status_code = 'OPEN', crm_outcome = 'OPEN',"
        " deal_value = 1250000, currency = 'EUR',"
        " stage = '04 - Proposal', win_probability = 60, remote_updated_at = now() - interval '2 h'"
        " where id in (1, 3)"
    )
    connection.execute("truncate opportunity_changes")
    connection.execute("update change_feed set complete_since = now() - interval '90 days'")
    for deal in (1, 3):
        for days, field, old, new, by in changes:
            connection.execute(
                "insert into opportunity_changes"
                " (opportunity_id, field, old_value, new_value, changed_at, changed_by)"
                " values (%s, %s, %s, %s, %s, %s)",
                [deal, field, old, new, now - timedelta(days=days), by],
            )
    connection.execute(
        "update opportunities set workflow_since = %s where id in (1, 3)", [now - timedelta(days=2)]
    )


def _assessment(connection: psycopg.Connection[Any]) -> None:
    scores = {
        key: {"score": score, "comment": "We built their first site" if score == 5 else ""}
        for key, score in zip(SEVEN, (5, 4, 3, 4), strict=False)
    }
    weighted = Assessment().weighted_score(
        {key: int(str(given["score"])) for key, given in scores.items()}
    )
    connection.execute(
        "insert into assessments (opportunity_id, version, criteria_id, scores, weighted_score,"
        " summary, created_by, updated_by)"
        " select 3, 1, max(id), %s, %s, %s, 2, 2 from declarations where section = 'assessment'",
        [json.dumps(scores), weighted, "A strong fit: the team knows the customer well."],
    )
    connection.execute(
        "insert into assessment_comments (assessment_id, author_id, body)"
        " values (1, 4, 'What about the penalties in lot 9?')"
    )


def add_run(
    connection: psycopg.Connection[Any],
    started: datetime,
    seconds: float | None,
    read: int,
    error: str | None = None,
    sync_type: str = "INCREMENTAL",
) -> str:
    """Put a run into the log: one under way if it has no duration, and return its id."""
    succeeded = None if seconds is None else error is None
    row = {
        "run_id": str(uuid.uuid4()),
        "kind": "sync",
        "run_number": 0,
        "sync_type": sync_type,
        "records_claimed": max(read, 1000) if seconds is None else read,
        "records_fetched": read,
        "records_rejected": 0,
        "error_message": error,
        "extraction_completed": succeeded,
        "load_succeeded": succeeded,
        "transform_succeeded": succeeded,
        "started_at": started,
        "heartbeat_at": datetime.now(UTC),
        "observed_at": datetime.now(UTC),
    }
    if seconds is not None:
        ended = started + timedelta(seconds=seconds)
        row |= dict.fromkeys(
            (
                "ended_at",
                "heartbeat_at",
                "observed_at",
                "transform_started_at",
                "transform_completed_at",
            ),
            ended,
        )
    if succeeded:
        row |= {
            "new_records": read // 9,
            "updated_records": read - read // 9 - read // 10,
            "unchanged_records": read // 10,
            "failed_records": 0,
        }
    connection.execute(
        f"insert into sync_runs ({', '.join(row)})"  # noqa: S608
        f" values ({', '.join(['%s'] * len(row))})",
        list(row.values()),
    )
    return str(row["run_id"])


def _syncs(connection: psycopg.Connection[Any], dice: random.Random, now: datetime) -> None:
    for number in range(26, 0, -1):
        is_full = number == 26
        error = None
        if number in (9, 17):
            error = "tap-oracle-crm: the CRM answered 503 Service Unavailable to 6 attempts at\n"
            error += "GET /crmRestApi/resources/11.13.18.05/opportunities?offset=4000&limit=500"
        read = 400 if is_full else dice.randint(3, 60)
        seconds = 31.0 if is_full else dice.uniform(5, 12)
        started = now - timedelta(hours=12 * number - 11, minutes=48)
        add_run(connection, started, seconds, read, error, "FULL" if is_full else "INCREMENTAL")
    connection.execute(
        "insert into schedules (name, job, interval, timezone, next_run_at, last_run_at,"
        " last_succeeded) values ('nightly', 'sync', '0 2 * * *', 'UTC', %s, %s, true)",
        [now + timedelta(hours=9), now - timedelta(hours=12)],
    )


def _rejects(connection: psycopg.Connection[Any], now: datetime) -> None:
    for number, reason in enumerate(
        (
            "WinProb: 'high' is not a number",
            "EffectiveDate: '2026-02-30' is no date",
            "Revenue: '1.2.3' is not a number",
        ),
        1,
    ):
        connection.execute(
            "insert into rejected_records (record_key, stream, remote_id, reason, payload,"
            " first_seen_at, last_seen_at) values (%s, 'opportunities', %s, %s, %s, %s, %s)",
            [
                f"opportunities:{number}",
                str(300000020000000 + number),
                reason,
                json.dumps(
                    {
                        "OptyId": 300000020000000 + number,
                        "Name": ODD_NAMES[number - 1],
                        "WinProb": "high",
                        "Revenue": "1.2.3",
                    }
                ),
                now - timedelta(days=4),
                now - timedelta(hours=number),
            ],
        )
