# ruff: noqa: S608  -- names in the SQL come from the schema, values are bound
"""The CRM behind the protocol: rows in an in-memory SQLite, read and changed.

A row is held as the CRM knows it. What the wire shows instead (poison, absent
attributes, numbers as strings) is kept apart, so that ``q`` keeps working on
poisoned rows and a row can be healed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

from . import children, generator
from .generator import ABSENT, Generator
from .poison import wire_values
from .query import Node, Predicate, Value, conjuncts, normal_stamp, to_sql
from .schema import (
    ATTRIBUTE_TYPES,
    CHILDREN,
    COLLECTIONS,
    STRUCTURED,
    Attribute,
    AttributeType,
    Resource,
    column,
)

Record = dict[str, object]
Order = Sequence[tuple[str, bool]]  # attribute, ascending
_Change = Callable[[int, object], Value]  # a row's number and value to its new value

# Below so many rows in a time range, reading by time and sorting beats seeking by key.
_FEW_ROWS = 2000
_FEW_ENOUGH_TO_KEEP = 10_000


class NotFoundError(LookupError):
    """No such row, attribute or resource."""


@dataclass(frozen=True)
class _Generated:
    """A generated database, kept because tests reset to it hundreds of times.

    Attributes:
        made_of: number of records, seed and moment.
        database: SQLite's file.
        oddities: the oddities that the generator gave to rows.
    """

    made_of: tuple[int, int, datetime]
    database: bytes
    oddities: Mapping[int, str]


class Crm:
    """All resources of one CRM. Not thread-safe: the server is one event loop."""

    def __init__(self, records: int = 1000, seed: int = 1, now: datetime | None = None) -> None:
        self.clock_offset = timedelta()
        self._frozen_at: datetime | None = None
        self._first: _Generated | None = None
        self.reset(records, seed, now)

    def reset(self, records: int, seed: int, now: datetime | None = None) -> None:
        """Generate the data again; ``now`` (default: the begun hour) is the limit of its dates."""
        now = now or self.now().replace(minute=0, second=0, microsecond=0)
        self.records, self.seed, self.generated_at = records, seed, now
        self.resources: dict[str, Resource] = {
            resource.name: resource.copy() for resource in (*COLLECTIONS, *CHILDREN)
        }
        self._poison: dict[int, dict[str, object]] = {}
        self._random = Random(seed)
        self._with_children: set[int] = set()
        self._disorder = 0
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "pragma journal_mode=off; pragma synchronous=off; pragma case_sensitive_like=on;"
            "pragma temp_store=memory"
        )
        self._db.create_function("upper", 1, _upper, deterministic=True)
        if self._first and self._first.made_of == (records, seed, now):
            self._db.deserialize(self._first.database)
            self._oddities = dict(self._first.oddities)
            return
        made = Generator(records, seed, now)
        self._create(made)
        self._oddities = dict(made.oddities)
        self._first = None
        if records <= _FEW_ENOUGH_TO_KEEP:
            self._first = _Generated((records, seed, now), self._db.serialize(), made.oddities)

    def _create(self, made: Generator) -> None:
        for resource in self.resources.values():
            if resource.view:
                self._db.execute(f'create view "{resource.name}" as {resource.view}')
                continue
            columns = ", ".join(
                f"{column(name)} integer primary key" if name == resource.key else column(name)
                for name in resource.attributes
            )
            self._db.execute(f'create table "{resource.name}" ({columns})')
        self._insert("opportunities", generator.OPPORTUNITY_COLUMNS, made.opportunity_rows())
        self._insert("accounts", generator.ACCOUNT_COLUMNS, made.account_rows())
        self._insert("resources", generator.RESOURCE_COLUMNS, made.resource_rows())
        self._db.executescript(
            'create unique index opportunities_number on opportunities ("OptyNumber");'
            'create index opportunities_updated on opportunities ("LastUpdateDate");'
            'create index accounts_updated on accounts ("LastUpdateDate");'
            'create index resources_updated on resources ("LastUpdateDate");'
            'create index revenue_parent on "ChildRevenue" ("OptyId");'
            'create index team_parent on "OpportunityResource" ("OptyId");'
        )

    def _insert(self, table: str, columns: Iterable[str], rows: Iterable[Sequence[object]]) -> None:
        names = ", ".join(column(name) for name in columns)
        marks = ", ".join("?" * (names.count(",") + 1))
        self._db.execute("begin")
        self._db.executemany(f'insert into "{table}" ({names}) values ({marks})', rows)
        self._db.execute("commit")

    # --- time ---------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the CRM's time: the machine's plus an offset, or the frozen time."""
        return self._frozen_at or datetime.now(UTC) + self.clock_offset

    @contextmanager
    def frozen(self, at: datetime) -> Iterator[None]:
        """Freeze the CRM's time; :meth:`set_clock` ends this, too."""
        self._frozen_at = at
        try:
            yield
        finally:
            self._frozen_at = None

    def set_clock(self, offset: timedelta) -> None:
        """Set the CRM's clock relative to the machine's."""
        self.clock_offset, self._frozen_at = offset, None

    def _stamp(self, at: str | None) -> str:
        return normal_stamp(at) if at else generator.stamp(self.now())

    # --- reading ------------------------------------------------------------------------

    def resource(self, name: str) -> Resource:
        """Return a resource; raises :class:`NotFoundError`."""
        if name not in self.resources:
            raise NotFoundError(f"no resource {name}")
        return self.resources[name]

    def page(
        self,
        resource: Resource,
        fields: Sequence[str],
        where: Node | None = None,
        order: Order = (),
        limit: int = -1,
        offset: int = 0,
    ) -> list[tuple[int, Record]]:
        """Return key and attributes of the rows from ``offset`` on, with poison.

        Without a unique attribute in ``order``, rows of equal rank come in a different
        order each time, as in a database.
        """
        condition, values = to_sql(where) if where else ("1", [])
        columns = ", ".join(column(name) for name in (*fields, resource.key))
        cursor = self._db.execute(
            f'select {columns} from "{resource.name}" {self._access_path(resource, where, order)} '
            f"where {condition} order by {self._order(resource, order)} limit ? offset ?",
            (*values, limit, offset),
        )
        decoders = _decoders(resource, fields)
        opportunities = resource.name == "opportunities"
        oddities, poisoned = (self._oddities, self._poison) if opportunities else ({}, {})
        rows = []
        for values_read in cursor:
            record = dict(zip(fields, values_read, strict=False))  # the key comes last
            for name, decode in decoders:
                if record[name] is not None:
                    record[name] = decode(record[name])
            key = values_read[-1]
            if (oddity := oddities.get(key)) or key in poisoned:
                _apply_oddities(record, oddity, poisoned.get(key, {}))
            rows.append((key, record))
        return rows

    def count(self, resource: Resource, where: Node | None = None) -> int:
        """Return the number of rows that match."""
        condition, values = to_sql(where) if where else ("1", [])
        path = self._access_path(resource, where, ())
        row = self._db.execute(
            f'select count(*) from "{resource.name}" {path} where {condition}', values
        ).fetchone()
        return int(row[0])

    def find(self, resource: Resource, attribute: str, value: Value) -> int:
        """Return the key of the row with this value; raises :class:`NotFoundError`."""
        row = self._db.execute(
            f'select "{resource.key}" from "{resource.name}" where "{attribute}" = ?', (value,)
        ).fetchone()
        if row is None:
            raise NotFoundError(f"no {resource.name} with {attribute} {value}")
        return int(row[0])

    def get(self, resource: Resource, key: int, fields: Sequence[str] | None = None) -> Record:
        """Return one row, without poison; raises :class:`NotFoundError`."""
        for record in self.dump(
            resource, fields, Predicate(resource.key, "=", f'"{resource.key}" = ?', (key,))
        ):
            return record
        raise NotFoundError(f"no {resource.name} with {resource.key} {key}")

    def dump(
        self, resource: Resource, fields: Sequence[str] | None = None, where: Node | None = None
    ) -> Iterable[Record]:
        """Return rows by key with all attributes, without poison."""
        names = list(fields or resource.attributes)
        condition, values = to_sql(where) if where else ("1", [])
        columns = ", ".join(column(name) for name in names)
        decoders = _decoders(resource, names)
        for row in self._db.execute(
            f'select {columns} from "{resource.name}" where {condition} order by "{resource.key}"',
            values,
        ):
            record = dict(zip(names, row, strict=True))
            for name, decode in decoders:
                if record[name] is not None:
                    record[name] = decode(record[name])
            yield record

    def _access_path(self, resource: Resource, where: Node | None, order: Order) -> str:
        """Choose the index, since SQLite does not know the selectivity of a time range."""
        if resource.name not in ("opportunities", "accounts", "resources"):
            return ""
        index = f"indexed by {resource.name}_updated"
        if order and order[0][0] == "LastUpdateDate":
            return index
        times = [
            part
            for part in conjuncts(where)
            if isinstance(part, Predicate)
            and part.attribute == "LastUpdateDate"
            and part.operator in ("=", "<", "<=", ">", ">=", "between")
            and not part.sql.startswith("upper")
        ]
        if not times:
            return ""
        condition = " and ".join(part.sql for part in times)
        values = [value for part in times for value in part.values]
        row = self._db.execute(
            f'select count(*) from (select 1 from "{resource.name}" {index} '
            f"where {condition} limit {_FEW_ROWS})",
            values,
        ).fetchone()
        return index if row[0] < _FEW_ROWS else "not indexed"

    def _order(self, resource: Resource, order: Order) -> str:
        terms = []
        for name, ascending in order:
            direction = "asc nulls last" if ascending else "desc nulls first"
            if resource.attributes[name].mandatory:
                direction = "asc" if ascending else "desc"
            terms.append(f"{column(name)} {direction}")
        if not {resource.key, resource.item_key} & {name for name, _ in order}:
            self._disorder += 1
            salt = self._disorder * 7919 % 65521
            terms.append(f'("{resource.key}" % 65521 * {salt}) % 65521')
        return ", ".join(terms)

    # --- changing rows ------------------------------------------------------------------

    def create(self, attributes: Mapping[str, object] | None = None, at: str | None = None) -> int:
        """Create an opportunity with ``attributes``; invent the others; return its OptyId."""
        opportunities = self.resources["opportunities"]
        newest = self._db.execute('select max("OptyId") from opportunities').fetchone()[0]
        made = Generator(1, self._random.randrange(1 << 30), self.now())
        row = dict(zip(generator.OPPORTUNITY_COLUMNS, next(made.opportunity_rows()), strict=True))
        owner = self._random_row(self.resources["resources"], self._random)
        account = self._random_row(self.resources["accounts"], self._random)
        identity = max(newest or 0, 300000048000000) + self._random.randrange(1, 60)
        open_stage = dict(zip(generator.STAGE_COLUMNS, generator.OPEN_STAGES[0], strict=True))
        stamp = self._stamp(at)
        row |= open_stage | {
            "OptyId": identity,
            "TargetPartyId": account["PartyId"],
            "TargetPartyName": account["OrganizationName"],
            "OwnerResourcePartyId": owner["PartyId"],
            "PartyName1": owner["PartyName"],
            "EmailAddress": owner["EmailAddress"],
            "StatusCode": "OPEN",
            "StageStatusCd": "OPEN",
            "ReasonWonLostCode": None,
            "CreationDate": stamp,
            "LastUpdateDate": stamp,
        }
        row["OptyNumber"] = f"CDRM_{(attributes or {}).get('OptyId', identity)}"
        stored = {
            name: _stored_or_null(opportunities.attributes[name], value)
            for name, value in row.items()
            if name in opportunities.attributes
        } | self._checked_row(opportunities, attributes or {})
        self._insert("opportunities", list(stored), [list(stored.values())])
        return int(str(stored["OptyId"]))

    def _random_row(self, resource: Resource, rng: Random) -> Record:
        keys = [
            int(row[0])
            for row in self._db.execute(
                f'select "{resource.key}" from "{resource.name}" order by "{resource.key}"'
            )
        ]
        return self.get(resource, rng.choice(keys))

    def update(
        self, name: str, key: int, attributes: Mapping[str, object], at: str | None = None
    ) -> None:
        """Change a row; LastUpdateDate becomes ``at``, the one in ``attributes``, or now."""
        resource = self.resource(name)
        self.get(resource, key, [resource.key])
        stored = self._checked_row(resource, {"LastUpdateDate": self._stamp(at)} | dict(attributes))
        if resource.key in stored:
            raise ValueError(f"{resource.key} is immutable")
        columns = ", ".join(f"{column(name)} = ?" for name in stored)
        self._db.execute(
            f'update "{resource.name}" set {columns} where "{resource.key}" = ?',
            (*stored.values(), key),
        )

    def touch(self, name: str, keys: Sequence[int], at: str | None = None) -> None:
        """Give rows the same LastUpdateDate."""
        resource = self.resource(name)
        stamp = self._stamp(at)
        self._db.executemany(
            f'update "{name}" set "LastUpdateDate" = ? where "{resource.key}" = ?',
            [(stamp, key) for key in keys],
        )

    def delete(self, name: str, key: int) -> None:
        """Delete a row without a trace; raises :class:`NotFoundError`."""
        resource = self.resource(name)
        cursor = self._db.execute(
            f'delete from "{resource.name}" where "{resource.key}" = ?', (key,)
        )
        if not cursor.rowcount:
            raise NotFoundError(f"no {name} with {resource.key} {key}")
        if name == "opportunities":
            self._with_children.discard(key)
            self._poison.pop(key, None)
            self._oddities.pop(key, None)
            for child in resource.children:
                if not self.resources[child].view:
                    self._db.execute(f'delete from "{child}" where "OptyId" = ?', (key,))

    def close(self, key: int, status: str, at: str | None = None) -> None:
        """Close an opportunity as WON, LOST, NO_SALE or CLOSED."""
        if status not in generator.CLOSINGS:
            raise ValueError(f"status is one of {', '.join(generator.CLOSINGS)}, not {status}")
        stage = dict(zip(generator.STAGE_COLUMNS, generator.CLOSINGS[status], strict=True))
        changes = stage | {
            "StatusCode": status,
            "StageStatusCd": "CLOSED",
            "ReasonWonLostCode": self._random.choice(generator.REASONS[status]),
            "EffectiveDate": self.now().date().isoformat(),
        }
        self.update("opportunities", key, changes, at)

    def reopen(self, key: int, at: str | None = None) -> None:
        """Reopen an opportunity."""
        stage = dict(zip(generator.STAGE_COLUMNS, generator.OPEN_STAGES[2], strict=True))
        changes = stage | {
            "StatusCode": "OPEN",
            "StageStatusCd": "OPEN",
            "ReasonWonLostCode": None,
        }
        self.update("opportunities", key, changes, at)

    def poison(self, key: int, kind: str) -> None:
        """Make answers show an opportunity as one of :data:`poison.KINDS`."""
        self.get(self.resources["opportunities"], key, ["OptyId"])
        self._poison.setdefault(key, {}).update(wire_values(kind))

    def heal(self, key: int) -> None:
        """Make answers show an opportunity as valid again."""
        if key not in self._poison:
            raise NotFoundError(f"opportunity {key} is not poisoned")
        del self._poison[key]

    def mutate(
        self,
        create: int = 0,
        update: int = 0,
        delete: int = 0,
        close: int = 0,
        reopen: int = 0,
        seed: int | None = None,
        at: str | None = None,
    ) -> dict[str, list[int]]:
        """Change random rows, each in one way; return the OptyIds by kind of change."""
        rng = Random(seed) if seed is not None else self._random
        opened, closed = self._by_openness()
        rng.shuffle(opened)
        rng.shuffle(closed)
        closing, opened = opened[:close], opened[close:]
        reopening, closed = closed[:reopen], closed[reopen:]
        others = sorted(opened + closed)
        if len(closing) < close or len(reopening) < reopen or len(others) < update + delete:
            raise ValueError("there are not so many rows to change")
        picked = rng.sample(others, update + delete)
        updating, deleting = picked[:update], picked[update:]
        for key in updating:
            revenue = round(rng.uniform(1_000, 5_000_000), 2)
            chance = rng.randrange(0, 101)
            self.update("opportunities", key, {"Revenue": revenue, "WinProb": chance}, at)
        for key in deleting:
            self.delete("opportunities", key)
        for key in closing:
            self.close(key, rng.choice(list(generator.CLOSINGS)), at)
        for key in reopening:
            self.reopen(key, at)
        created = [self.create(at=at) for _ in range(create)]
        return {
            "created": created,
            "updated": updating,
            "deleted": deleting,
            "closed": closing,
            "reopened": reopening,
        }

    def mass_update(self, count: int, at: str | None = None) -> list[int]:
        """Give ``count`` random rows one LastUpdateDate and another practice."""
        opened, closed = self._by_openness()
        keys = sorted(self._random.sample(sorted(opened + closed), count))
        stamp = self._stamp(at)
        self._db.execute("begin")
        self._db.executemany(
            'update opportunities set "LastUpdateDate" = ?, "RcmndWinProb" = ? where "OptyId" = ?',
            [(stamp, self._random.randrange(0, 101), key) for key in keys],
        )
        self._db.execute("commit")
        return keys

    def _by_openness(self) -> tuple[list[int], list[int]]:
        opened: list[int] = []
        closed: list[int] = []
        for key, status in self._db.execute(
            'select "OptyId", "StageStatusCd" from opportunities order by "OptyId"'
        ):
            (closed if status == "CLOSED" else opened).append(key)
        return opened, closed

    def _checked_row(self, resource: Resource, row: Mapping[str, object]) -> dict[str, Value]:
        """Check a row against the schema; raises ValueError that names the attribute."""
        stored: dict[str, Value] = {}
        for name, value in row.items():
            attribute = resource.attributes.get(name)
            if attribute is None:
                raise ValueError(f"{resource.name} has no attribute {name}")
            try:
                stored[name] = _stored(attribute, value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return stored

    # --- children -----------------------------------------------------------------------

    def make_children(self, keys: Sequence[int]) -> None:
        """Invent the revenue lines and teams of opportunities that have none yet."""
        missing = [key for key in keys if key not in self._with_children]
        if not missing:
            return
        self._with_children.update(missing)
        people = list(self.dump(self.resources["resources"]))
        for key in missing:
            parent = self.get(self.resources["opportunities"], key)
            self._add_children("ChildRevenue", children.revenue_lines(parent))
            self._add_children("OpportunityResource", children.team_members(parent, people))

    def make_all_children(self) -> None:
        """Invent the children of every opportunity."""
        keys = self._db.execute('select "OptyId" from opportunities').fetchall()
        self.make_children([row[0] for row in keys])

    def _add_children(self, name: str, rows: Sequence[Record]) -> None:
        child = self.resources[name]
        stored = [self._checked_row(child, row) for row in rows]
        self._insert(name, list(rows[0]), [list(row.values()) for row in stored])

    # --- the schema ---------------------------------------------------------------------

    def add_attribute(
        self, name: str, kind: str, values: Sequence[object] = (), resource: str = "opportunities"
    ) -> None:
        """Add a custom attribute; the rows get ``values`` in turn."""
        target = self.resource(resource)
        if name in target.attributes:
            raise ValueError(f"{resource} has an attribute {name} already")
        attribute = _attribute(name, kind)
        self._db.execute(f'alter table "{resource}" add column {column(name)}')
        target.attributes[name] = attribute
        if values:
            stored = [_stored(attribute, value) for value in values]
            self._rewrite(target, name, lambda number, _: stored[number % len(stored)])

    def remove_attribute(self, name: str, resource: str = "opportunities") -> None:
        """Delete an attribute; raises :class:`NotFoundError`."""
        target = self._with_attribute(name, resource)
        self._check_custom(name)
        self._db.execute(f'alter table "{resource}" drop column {column(name)}')
        del target.attributes[name]

    def change_attribute(
        self,
        name: str,
        kind: str | None = None,
        new_name: str | None = None,
        resource: str = "opportunities",
    ) -> None:
        """Change an attribute's type (values are converted if they can be) or its name."""
        target = self._with_attribute(name, resource)
        attribute = target.attributes[name]
        if kind:
            attribute = _attribute(attribute.name, kind)
            self._rewrite(target, name, lambda _, value: _converted(attribute, value))
            target.attributes[name] = attribute
        if new_name:
            self._check_custom(name)
            self._db.execute(
                f'alter table "{resource}" rename column {column(name)} to {column(new_name)}'
            )
            target.attributes = {
                new_name if old == name else old: replace(attribute, name=new_name)
                if old == name
                else other
                for old, other in target.attributes.items()
            }

    def _with_attribute(self, name: str, resource: str) -> Resource:
        target = self.resource(resource)
        if name not in target.attributes:
            raise NotFoundError(f"{resource} has no attribute {name}")
        return target

    @staticmethod
    def _check_custom(name: str) -> None:
        if not name.endswith("_c"):
            raise ValueError(f"{name} is Oracle's own attribute: only custom ones (_c) come and go")

    def _rewrite(self, resource: Resource, name: str, change: _Change) -> None:
        rows = self._db.execute(
            f'select "{resource.key}", {column(name)} from "{resource.name}" '
            f'order by "{resource.key}"'
        ).fetchall()
        self._db.execute("begin")
        self._db.executemany(
            f'update "{resource.name}" set {column(name)} = ? where "{resource.key}" = ?',
            [(change(number, value), key) for number, (key, value) in enumerate(rows)],
        )
        self._db.execute("commit")


def _decoders(
    resource: Resource, names: Iterable[str]
) -> list[tuple[str, Callable[[Any], object]]]:
    """Return decoders for the attributes that a column stores in another form."""
    types = ((name, resource.attributes[name].type) for name in names)
    return [
        (name, bool if kind == "boolean" else json.loads)
        for name, kind in types
        if kind in ("boolean", *STRUCTURED)
    ]


def _upper(value: Value) -> Value:
    return value.upper() if isinstance(value, str) else value


def _apply_oddities(record: Record, oddity: str | None, poison: Mapping[str, object]) -> None:
    """Apply oddity and poison to a record, for the answer."""
    if oddity == "omit_nulls":
        for name in [name for name, value in record.items() if value is None]:
            del record[name]
    elif oddity == "numbers_as_text":
        for name in ("Revenue", "WinProb"):
            if record.get(name) is not None:
                record[name] = str(record[name])
    for name, value in poison.items():
        if name in record and value is ABSENT:
            del record[name]
        elif name in record:
            record[name] = value


def _attribute(name: str, kind: str) -> Attribute:
    return Attribute(name, _attribute_type(kind), queryable=kind not in STRUCTURED)


def _attribute_type(kind: str) -> AttributeType:
    for known in ATTRIBUTE_TYPES:
        if kind == known:
            return known  # type: ignore[return-value]  # one of the literal's values
    raise ValueError(f"no attribute type {kind}: one of {', '.join(ATTRIBUTE_TYPES)}")


def _stored(attribute: Attribute, value: object) -> Value:
    """Convert a value for its column; raises ValueError if the type does not fit."""
    if value is None or value == "":
        return None  # Oracle stores empty strings as null
    match attribute.type, value:
        case "boolean", bool():
            return int(value)
        case _, bool():
            pass
        case "integer", int():
            return value
        case "number", int() | float():
            return value
        case "string", str():
            return value
        case "datetime", str():
            return normal_stamp(value)
        case "date", str():
            return date.fromisoformat(value).isoformat()
        case ("array", list()) | ("object", dict()):
            return json.dumps(value)
    raise ValueError(f"{value!r} is no {attribute.type}")


def _stored_or_null(attribute: Attribute, value: object) -> Value:
    """Convert an invented value; null if a test changed the attribute's type."""
    try:
        return _stored(attribute, value)
    except ValueError:
        return None


def _converted(attribute: Attribute, value: object) -> Value:
    """Convert a stored value to the attribute's new type; null if it does not fit."""
    if value is None:
        return None
    if attribute.type == "string":
        return str(value)
    try:
        if attribute.type in ("integer", "number", "boolean"):
            number = float(str(value))
            if attribute.type == "boolean":
                return int(bool(number))
            return int(number) if attribute.type == "integer" else number
        return _stored(attribute, value)
    except ValueError:
        return None
