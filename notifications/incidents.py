"""Incidents in the database, and which service was notified of them.

An incident is open as long as its condition holds. A message is sent when it opens, when it has a
new cause or has doubled, daily while it is open, and when it closes. Each service of NOTIFY_URLS
has a row of its own for each incident: a service that fails is tried again after growing pauses,
and the others get nothing twice. A process claims a message before it sends it, so that only one
of several processes does.
"""

from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow, dict_row

from database.address import url_for
from notifications.conditions import holding
from notifications.messages import NEWS, Message, message

Connection = psycopg.Connection[DictRow]

# Shorter than PostgreSQL's deadlock_timeout, so that no other session fails because of this one.
_LIMITS: LiteralString = """
select
    set_config('lock_timeout', '900ms', true),
    set_config('statement_timeout', '20s', true),
    set_config('timezone', 'UTC', true),
    pg_advisory_xact_lock(hashtext('oracle_crm_sync.incidents'))
"""
_OPEN: LiteralString = """
insert into incidents (kind, detail, causes, size)
values (%(kind)s, %(detail)s, %(causes)s, %(size)s)
on conflict (kind) where closed_at is null do update set detail = excluded.detail
where incidents.detail != excluded.detail
"""
_GROW: LiteralString = """
update incidents
set
    revision = revision + 1,
    causes = array(select unnest(causes) union select unnest(%(causes)s::text[])),
    size = greatest(size, %(size)s)
where
    kind = %(kind)s and closed_at is null
    and (not %(causes)s::text[] <@ causes or %(size)s >= 2 * size)
"""
_CLOSE: LiteralString = """
update incidents set closed_at = clock_timestamp()
where closed_at is null and not kind = any(%s)
"""
# An incident that is over before its first message needs no message.
_DUE: LiteralString = """
select
    incidents.id,
    incidents.kind,
    incidents.detail,
    incidents.revision,
    incidents.closed_at is not null as is_over,
    known.sent_revision,
    coalesce(known.attempts, 0) as attempts
from incidents
left join notifications as known
    on known.incident_id = incidents.id and known.service = %(service)s
where
    (known.next_attempt_at <= clock_timestamp()) is not false
    and case
        when incidents.closed_at is null
            then known.sent_revision is distinct from incidents.revision
                or (
                    known.sent_at < clock_timestamp() - interval '1 day'
                    and incidents.kind != all(%(news)s)
                )
        else known.sent_revision is not null and not known.end_sent
            and incidents.kind != all(%(news)s)
    end
order by incidents.id
limit 1
"""
# The slower of two processes finds that the number of attempts has changed.
_CLAIM: LiteralString = f"""
with due as ({_DUE}),
claimed as (
    insert into notifications as known (incident_id, service, attempts, failures, next_attempt_at)
    select id, %(service)s, attempts + 1, 1, clock_timestamp() + interval '1 minute'
    from due
    on conflict (incident_id, service) do update set
        attempts = excluded.attempts,
        failures = known.failures + 1,
        next_attempt_at
            = clock_timestamp() + interval '1 minute' * 2 ^ least(known.failures, 6)
    where known.attempts = excluded.attempts - 1
    returning incident_id
)
select due.* from due join claimed on claimed.incident_id = due.id
"""  # noqa: S608 - made of constants
_SENT: LiteralString = """
update notifications
set
    sent_revision = %(revision)s,
    sent_at = clock_timestamp(),
    end_sent = %(is_over)s,
    failures = 0,
    next_attempt_at = '-infinity'
where incident_id = %(id)s and service = %(service)s
"""


def connect(url: str) -> Connection:
    """Connect to the database; a pooler in between is fine.

    Raises:
        psycopg.Error: it cannot be reached.
    """
    return psycopg.connect(
        url_for("run", url),
        autocommit=True,
        row_factory=dict_row,
        connect_timeout=10,
        tcp_user_timeout=30_000,
        application_name="notifications",
        prepare_threshold=None,
    )


def update(connection: Connection, late_hours: int) -> None:
    """Open, extend and close incidents.

    Args:
        connection: in autocommit mode.
        late_hours: hours without a successful sync after which it is late.
    """
    with connection.transaction():
        connection.execute(_LIMITS)
        conditions = holding(connection, late_hours)
        for condition in conditions:
            values = vars(condition) | {"detail": condition.text}
            connection.execute(_OPEN, values)
            connection.execute(_GROW, values)
        connection.execute(_CLOSE, [[condition.kind for condition in conditions]])


def is_due(connection: Connection, services: int) -> bool:
    """Return whether a message is due to one of this many services."""
    return any(
        connection.execute(_DUE, {"service": service, "news": list(NEWS)}).fetchone() is not None
        for service in range(1, services + 1)
    )


def claim(connection: Connection, service: int) -> tuple[Message, dict[str, Any]] | None:
    """Claim the next message to a service.

    Without `mark_sent` it is due again after a minute, then after longer pauses, up to an hour.

    Returns:
        The message, and the claim for `mark_sent`; None if no message is due.
    """
    due = connection.execute(_CLAIM, {"service": service, "news": list(NEWS)}).fetchone()
    if due is None:
        return None
    text = message(
        due["kind"],
        due["detail"],
        revision=due["revision"],
        sent=due["sent_revision"],
        is_over=due["is_over"],
    )
    return text, due | {"service": service}


def mark_sent(connection: Connection, claimed: dict[str, Any]) -> None:
    """Record that the service accepted the message of a claim."""
    connection.execute(_SENT, claimed)
