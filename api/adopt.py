"""`make adopt`: take over the database of the hand-written system that this one replaces.

`python -m api.adopt` moves the old tables from schema `public` to schema `legacy`, runs the
migrations, and takes over the bid team's work, all in one transaction. The old tables stay in
`legacy`; `legacy.not_adopted` has a reason for everything that was not taken over. A second call
changes nothing, and prints the report again.

A deal is marked as deleted until a sync finds it in the CRM; from then on the workflow rule decides
about its status. Users have no password.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb, set_json_loads

from api.assessments.criteria import Criteria
from api.auth import Role
from api.workflow import FROM_CRM, MOVES
from database import preflight
from database.address import database_url, url_for
from database.migrate import bring_up_to_date
from database.preflight import ADOPTABLE, Purpose, in_the_way
from declared.file import DeclarationError, declare, read_declared
from declared.store import CURRENT

Row = dict[str, Any]
Cursor = psycopg.Cursor[DictRow]

MOST_CHARACTERS, MOST_DIGITS = 10_000, 28
"""Of a text and of a number."""
TEXTS = (
    "name",
    "customer",
    "practice",
    "geo",
    "region",
    "sector",
    "currency",
    "sales_owner",
    "stage",
)
STATUSES = {*MOVES, *FROM_CRM}
OPEN, DECIDED = ("DRAFT", "SUBMITTED"), ("APPROVED", "REJECTED", "RETURNED")
RECOMMENDATIONS = {
    **dict.fromkeys(("BID", "GO", "YES", "APPROVED"), "BID"),
    **dict.fromkeys(("NO_BID", "NOBID", "NO_GO", "NO", "REJECTED"), "NO_BID"),
}
SUMMARIES = ("summary", "comments", "comment", "notes", "text")
AUTHORS = ("created_by", "assessor", "assessor_id", "assessed_by", "user_id")
DECIDERS = ("decided_by", "decided_by_id", "approved_by", "reviewer", "reviewer_id")
NAMES, FULL_NAMES = (
    ("name", "username", "user_name", "login", "email"),
    ("full_name", "display_name"),
)
ACTIVE = ("active", "is_active", "enabled", "status")
READ = {
    "opportunities": {
        *("id", "remote_id", "deal_value", "win_probability", "close_date", "workflow_status"),
        *("last_synced_at", *TEXTS),
    },
    "users": {"id", "role", *NAMES, *FULL_NAMES, *ACTIVE},
    "assessments": {
        *("id", "opportunity_id", "remote_id", "opportunity_remote_id", "status", "scores"),
        *("recommendation", "decision_comment", "created_at", "updated_at", "submitted_at"),
        *("decided_at", *SUMMARIES, *AUTHORS, *DECIDERS),
    },
}
"""The old columns that are taken over, and of assessments those named like a criterion."""
BLANK: tuple[Any, ...] = (None, "", [], {})
LONG_AGO = datetime.min.replace(tzinfo=UTC)
NO = {"false", "f", "no", "n", "0", "inactive", "disabled", "blocked", "deleted"}

# A deal that is here already, since a sync came first, gets the status if nobody has set one.
TAKE_DEAL: LiteralString = """
insert into opportunities (
    id, remote_id, name, customer, practice, geo, region, sector, currency, sales_owner, stage,
    deal_value, win_probability, close_date, workflow_status, workflow_status_before_close,
    crm_outcome, first_synced_at, last_synced_at, deleted_at
)
values (
    coalesce(%(id)s, nextval(pg_get_serial_sequence('opportunities', 'id'))), %(remote_id)s,
    %(name)s, %(customer)s, %(practice)s, %(geo)s, %(region)s, %(sector)s, %(currency)s,
    %(sales_owner)s, %(stage)s, %(deal_value)s, %(win_probability)s, %(close_date)s,
    %(workflow_status)s, case when %(crm_outcome)s::text is not null then 'NEW' end,
    %(crm_outcome)s, coalesce(%(synced_at)s, now()), coalesce(%(synced_at)s, now()), now()
)
on conflict (remote_id) do update
set
    workflow_status = case
        when opportunities.workflow_status_before_close is null then excluded.workflow_status
        else opportunities.workflow_status
    end,
    workflow_status_before_close = case
        when opportunities.workflow_status_before_close is not null then excluded.workflow_status
    end
where
    coalesce(opportunities.workflow_status_before_close, opportunities.workflow_status) = 'NEW'
    and excluded.workflow_status != 'NEW'
    and excluded.crm_outcome is null
"""
MOVE_SEQUENCE: LiteralString = """
select setval(pg_get_serial_sequence('opportunities', 'id'), max(id)) from opportunities
having max(id) is not null
"""
TAKE_USER: LiteralString = """
insert into users (name, full_name, email, role, active)
values (%(name)s, %(full_name)s, %(email)s, %(role)s, %(active)s)
on conflict (lower(name)) do nothing
"""
TAKE_ASSESSMENT: LiteralString = """
insert into assessments (
    opportunity_id, version, criteria_id, status, scores, weighted_score, summary, recommendation,
    created_by, created_at, updated_by, updated_at, submitted_by, submitted_at, decided_by,
    decided_at, decision_comment
)
values (
    %(opportunity_id)s, %(version)s, %(criteria_id)s, %(status)s, %(scores)s,
    %(weighted_score)s, %(summary)s, %(recommendation)s, %(created_by)s, %(created_at)s,
    %(created_by)s, %(updated_at)s,
    %(submitted_by)s, %(submitted_at)s, %(decided_by)s, %(decided_at)s, %(decision_comment)s
)
"""


def adopt(url: str) -> str:
    """Take over the old tables of a database, unless that was done, and return the report.

    Raises:
        SystemExit: there are none, or the database can't be used; nothing was changed.
    """
    preflight.require(url, Purpose.ADOPT)
    with psycopg.connect(url, row_factory=dict_row) as connection:
        if _is_there(connection, "adoption"):
            (done,) = connection.execute("select report from legacy.adoption")
            return f"Nothing is changed: it was done before.\n{done['report']}"
        found = set(in_the_way(connection)) & set(ADOPTABLE)
        if not found and not any(_is_there(connection, name) for name in ADOPTABLE):
            sys.exit(
                "There is nothing to adopt: schema public has none of the tables "
                f"{', '.join(ADOPTABLE)} of another system."
            )
    adoption = Adoption()
    try:
        bring_up_to_date(url, before=adoption.set_aside, after=adoption.take_over)
    except DeclarationError as error:
        sys.exit(str(error))
    return adoption.report()


class Adoption:
    """What is taken over, and what does not fit."""

    def __init__(self) -> None:
        self._moved: list[str] = []
        self._old: dict[str, list[Row]] = {}
        self._taken: dict[str, Counter[str]] = defaultdict(Counter)
        self._unfit: list[tuple[str, str | None, str]] = []

    def set_aside(self, connection: psycopg.Connection[Any]) -> None:
        """Move the tables whose names this system needs to schema `legacy`."""
        self._moved = in_the_way(connection)
        connection.execute("create schema if not exists legacy")
        for name in self._moved:
            move = sql.SQL("alter table public.{} set schema legacy").format(sql.Identifier(name))
            connection.execute(move)

    def take_over(self, connection: psycopg.Connection[Any]) -> None:
        """Copy the data of the tables in `legacy` into this system's tables.

        Raises:
            DeclarationError: crm.yml, which has the criteria of the assessments, has an error.
        """
        declare(connection, read_declared())
        # The CRM's keys are longer than a float is exact.
        set_json_loads(partial(json.loads, parse_float=Decimal), connection)
        with connection.cursor(row_factory=dict_row) as cursor:
            self._old = {name: _rows(cursor, name) for name in ADOPTABLE}
            (row,) = cursor.execute(CURRENT, ["assessment"]).fetchall()
            self._criteria_id, self._criteria = row["id"], Criteria.model_validate(row["content"])
            known = READ | {"assessments": READ["assessments"] | self._criteria.criteria.keys()}
            for table, read in known.items():
                held = {name for row in self._old[table] for name in row if row[name] not in BLANK}
                self._unfit += [(table, None, f"column {name}") for name in sorted(held - read)]
            cursor.execute("select set_config('app.changed_by', 'make adopt', true)")
            people = self._take_users(cursor)
            deals = self._take_deals(cursor)
            self._take_assessments(cursor, deals, people)
            cursor.execute("create table legacy.not_adopted (source text, id text, reason text)")
            cursor.executemany("insert into legacy.not_adopted values (%s, %s, %s)", self._unfit)
            cursor.execute(
                "create table legacy.adoption as select now() as at, %s::text as report",
                [self.report()],
            )

    def report(self) -> str:
        """Return what was moved, what was taken over, and what was not."""
        lines = [f"Moved to schema legacy, where they stay: {', '.join(self._moved) or 'none'}."]
        for table, old in self._old.items():
            counts = self._taken[table]
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
            if table != "sync_logs":
                lines.append(
                    f"{table}: {counts.total():,} of {len(old):,} taken over"
                    + (f" ({kinds})" if kinds else "")
                )
        reasons = Counter((table, reason) for table, _, reason in self._unfit)
        columns = {(table, reason) for table, row, reason in self._unfit if row is None}
        lines += ["Not taken over (each row is in legacy.not_adopted):"] if reasons else []
        lines += [
            f"  {table}: {reason}" + ("" if (table, reason) in columns else f" ({count:,})")
            for (table, reason), count in sorted(reasons.items())
        ]
        lines += [
            "Next: make sync. A deal is marked as deleted until a sync finds it in the CRM.",
            "Users have no password: an admin sets one in the console. To make the first admin:"
            " .venv/bin/python -m api.users NEW_NAME --role admin",
        ]
        return "\n".join(lines)

    def _misfit(self, table: str, row: Row, reason: str) -> None:
        self._unfit.append((table, _text(row, "id"), reason))

    def _take_users(self, cursor: Cursor) -> dict[str, int]:
        """Take over the users; returns the new ids by the `id` and by the name of old."""
        people: dict[str, int] = {}
        for row in sorted(self._old["users"], key=lambda row: not _is_active(row)):
            name = _text(row, *NAMES)
            if name is None or len(name) > 100 or not name.isprintable():
                self._misfit("users", row, "no name")
                continue
            role = (_text(row, "role") or "").lower()
            if role not in set(Role):
                self._misfit("users", row, f"role {role or 'null'}: made a viewer")
                role = Role.VIEWER
            email = _text(row, "email") or ""
            user = {
                "name": name,
                "full_name": (_text(row, *FULL_NAMES) or "")[:200] or None,
                "email": email if re.fullmatch(r"[^@\s]+@[^@\s]+", email) else None,
                "role": role,
                "active": _is_active(row),
            }
            if cursor.execute(TAKE_USER, user).rowcount:
                self._taken["users"][role] += 1
            else:
                self._misfit("users", row, "the name exists already")
            (found,) = cursor.execute("select id from users where lower(name) = lower(%s)", [name])
            people[str(row.get("id"))] = people[name.casefold()] = found["id"]
        return people

    def _take_deals(self, cursor: Cursor) -> dict[str, int]:
        """Take over the deals; returns the new ids by the `id` and by the key of old."""
        by_key: dict[str, list[Row]] = defaultdict(list)
        for row in self._old["opportunities"]:
            if (key := _crm_key(_text(row, "remote_id"))) is None:
                self._misfit("opportunities", row, "remote_id is not a key of the CRM")
            else:
                by_key[key].append(row)
        keeps_ids = not cursor.execute("select from opportunities limit 1").rowcount
        deals, used = [], set[int]()
        for key, rows in by_key.items():
            *others, row = sorted(rows, key=_rank)
            for other in others:
                self._misfit("opportunities", other, "another row has the same remote_id")
            deals.append(self._deal(key, row))
            # It may be in use: in addresses that people have kept, for one.
            if (
                keeps_ids
                and isinstance(old_id := row.get("id"), int)
                and 0 < old_id < 1 << 53
                and old_id not in used
            ):
                deals[-1]["id"] = old_id
                used.add(old_id)
        # Those that keep their id come first, so that it is not given to another.
        deals.sort(key=lambda deal: deal["id"] is None)
        cursor.executemany(TAKE_DEAL, [deal for deal in deals if deal["id"] is not None])
        cursor.execute(MOVE_SEQUENCE)
        cursor.executemany(TAKE_DEAL, [deal for deal in deals if deal["id"] is None])
        cursor.execute("select remote_id, id from opportunities")
        ids = {row["remote_id"]: row["id"] for row in cursor}
        return {key: ids[key] for key in by_key} | {
            str(row.get("id")): ids[key] for key, rows in by_key.items() for row in rows
        }

    def _deal(self, key: str, row: Row) -> Row:
        status = _word(row, "workflow_status", STATUSES) or "NEW"
        if status not in STATUSES:
            why = "is not in the workflow: it stays until a manager changes it"
            self._misfit("opportunities", row, f"status {status} {why}")
        self._taken["opportunities"][status] += 1
        return {name: _text(row, name) for name in TEXTS} | {
            "id": None,
            "remote_id": key,
            "deal_value": _number(row.get("deal_value")),
            "win_probability": _number(row.get("win_probability")),
            "close_date": _day(row.get("close_date")),
            "workflow_status": status,
            "crm_outcome": status if status in FROM_CRM else None,
            "synced_at": _moment(row, "last_synced_at"),
        }

    def _take_assessments(
        self, cursor: Cursor, deals: dict[str, int], people: dict[str, int]
    ) -> None:
        """Take over the assessments, the oldest first; of a deal's open ones, the newest."""
        by_deal: dict[int, list[Row]] = defaultdict(list)
        for row in sorted(self._old["assessments"], key=_age):
            key = _text(row, "opportunity_id", "remote_id", "opportunity_remote_id") or ""
            deal = deals.get(key, deals.get(_crm_key(key) or ""))
            if deal is None:
                self._misfit("assessments", row, "its opportunity was not taken over")
            else:
                by_deal[deal].append(row)
        cursor.execute(
            """
            select
                opportunity_id,
                max(version) as version,
                bool_or(status in ('DRAFT', 'SUBMITTED')) as is_open
            from assessments
            group by opportunity_id
            """
        )
        present = {row["opportunity_id"]: row for row in cursor}
        (now,) = [row["now"] for row in cursor.execute("select now() as now")]
        for deal, rows in by_deal.items():
            version = present[deal]["version"] if deal in present else 0
            is_open = deal in present and present[deal]["is_open"]
            taken = []
            for row in reversed(rows):
                assessment = self._assessment(row, people, now)
                if assessment["status"] in OPEN and is_open:
                    self._misfit("assessments", row, "a newer one of the deal is open")
                    continue
                is_open = is_open or assessment["status"] in OPEN
                taken.append(assessment)
            for number, assessment in enumerate(reversed(taken), version + 1):
                own = {"opportunity_id": deal, "version": number, "criteria_id": self._criteria_id}
                cursor.execute(TAKE_ASSESSMENT, assessment | own)
                self._taken["assessments"][assessment["status"]] += 1

    def _assessment(self, row: Row, people: dict[str, int], now: datetime) -> Row:
        status = _word(row, "status", {*OPEN, *DECIDED}) or "DRAFT"
        if status not in {*OPEN, *DECIDED}:
            self._misfit("assessments", row, f"status {status}: made a draft")
            status = "DRAFT"
        scores = _scores(row, self._criteria)
        summary = "\n\n".join(filter(None, (_text(row, name) for name in SUMMARIES)))
        if len(summary) > MOST_CHARACTERS:
            self._misfit("assessments", row, f"text cut to {MOST_CHARACTERS:,} characters")
        recommendation = RECOMMENDATIONS.get(_word(row, "recommendation") or "")
        if _text(row, "recommendation") and recommendation is None:
            self._misfit("assessments", row, "without recommendation")
        if isinstance(given := row.get("scores"), dict):
            for name in given.keys() - scores.keys():
                self._misfit("assessments", row, f"without the score {name}")
        for name in (*AUTHORS, *DECIDERS):
            if (person := _text(row, name)) and person.casefold() not in people:
                self._misfit("assessments", row, f"without {name} {person}: no such user")
        created = _moment(row, "created_at") or now
        updated = _moment(row, "updated_at") or created
        submitted = _moment(row, "submitted_at") or updated
        by = people.get((_text(row, *AUTHORS) or "").casefold())
        decided_by = people.get((_text(row, *DECIDERS) or "").casefold())
        return {
            "status": status,
            "scores": Jsonb(scores),
            "weighted_score": self._criteria.weighted_score(
                {key: one["score"] for key, one in scores.items()}
            ),
            "summary": summary[:MOST_CHARACTERS],
            "recommendation": recommendation,
            "created_by": by,
            "created_at": created,
            "updated_at": updated,
            "submitted_by": None if status == "DRAFT" else by,
            "submitted_at": None if status == "DRAFT" else submitted,
            "decided_by": decided_by if status in DECIDED else None,
            "decided_at": (_moment(row, "decided_at") or submitted) if status in DECIDED else None,
            "decision_comment": (_text(row, "decision_comment") or "")[:MOST_CHARACTERS] or None,
        }


def _rows(cursor: Cursor, name: str) -> list[Row]:
    """Return the rows of a table in schema `legacy`, whatever columns it has."""
    if not _is_there(cursor, name):
        return []
    rows = sql.SQL("select to_jsonb(old) as old from legacy.{} as old").format(sql.Identifier(name))
    return [row["old"] for row in cursor.execute(rows).fetchall()]


def _is_there(connection: psycopg.Connection[DictRow] | Cursor, name: str) -> bool:
    (found,) = connection.execute("select to_regclass(%s) as oid", [f"legacy.{name}"]).fetchall()
    return found["oid"] is not None


def _text(row: Row, *names: str) -> str | None:
    """Return the first of these columns that says anything."""
    for name in names:
        value = row.get(name)
        if (
            not isinstance(value, (dict, list))
            and (text := str(value).strip())
            and value is not None
        ):
            return text
    return None


def _word(row: Row, name: str, known: set[str] | None = None) -> str | None:
    """Return a word as constants are written; one that is not known, as it stands."""
    text = _text(row, name)
    word = re.sub(r"[\s-]+", "_", text.upper()) if text else None
    return text if known and word not in known else word


def _crm_key(text: str | None) -> str | None:
    """Return the CRM's key, a whole number of 64 bits, also where it was kept as another type."""
    found = re.fullmatch(r"0*([1-9]\d{0,18})(\.0+)?", text or "")
    return found[1] if found and int(found[1]) < 1 << 63 else None


def _rank(row: Row) -> tuple[bool, datetime, str]:
    """Order rows of one deal: last comes what the bid team has worked on, or else the newest."""
    status = _word(row, "workflow_status", STATUSES) or "NEW"
    return status != "NEW", _moment(row, "last_synced_at") or LONG_AGO, str(row.get("id")).zfill(20)


def _age(row: Row) -> tuple[datetime, str]:
    moment = _moment(row, "updated_at") or _moment(row, "created_at") or LONG_AGO
    return moment, str(row.get("id")).zfill(20)


def _number(value: object) -> Decimal | None:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number.normalize() if number.is_finite() and number.adjusted() < MOST_DIGITS else None


def _day(value: object) -> date | None:
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError:
        return None


def _moment(row: Row, name: str) -> datetime | None:
    """Return a time; one without an offset is taken for UTC."""
    try:
        moment = datetime.fromisoformat(str(row.get(name)))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_active(row: Row) -> bool:
    said = (_text(row, *ACTIVE) or "").lower()
    return said not in NO


def _scores(row: Row, criteria: Criteria) -> dict[str, dict[str, Any]]:
    """Return the scores of today's criteria, from a column `scores` or columns of their names."""
    given = row.get("scores")
    source = given if isinstance(given, dict) else row
    scores = {}
    for key in criteria.criteria.keys() & source.keys():
        one = source[key] if isinstance(source[key], dict) else {"score": source[key]}
        number = _number(one.get("score"))
        if number is not None and number in range(criteria.criteria[key].scale + 1):
            comment = (_text(one, "comment") or "")[:MOST_CHARACTERS]
            scores[key] = {"score": int(number), "comment": comment}
    return scores


def main() -> None:
    """Adopt the tables in the database of `DATABASE_URL`."""
    print(adopt(url_for("migrate", database_url())))


if __name__ == "__main__":
    main()
