"""The SQL of users and tokens. No hash leaves the database: only a sign-in reads a password's."""

# ruff: noqa: S608 - what is put into a statement stands in this file

from typing import LiteralString

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from api.auth import IS_LIVE
from declared.fields import BUILT_IN

USER: LiteralString = """
id, name, full_name, email, role, active, created_at, updated_at, last_signed_in_at,
is_service, oidc_subject, password_hash is not null as has_password
"""
TOKEN: LiteralString = """
id, user_id, kind, name, scopes, created_at, expires_at, last_used_at, address, revoked_at
"""  # noqa: S105
LIST: LiteralString = f"select {USER} from users where erased_at is null order by lower(name)"
# Those of a quarter of an hour, which slow down who tries.
RECENT_FAILURES: LiteralString = """
select users.id, count(*) as count
from users
join sign_in_attempts on sign_in_attempts.name = lower(users.name)
where sign_in_attempts.at > now() - interval '15 minutes' and not sign_in_attempts.is_forgiven
group by users.id
"""
FAILURES: LiteralString = """
select sign_in_attempts.client, count(*) as count, max(sign_in_attempts.at) as last_at
from users
join sign_in_attempts on sign_in_attempts.name = lower(users.name)
where users.id = %s and sign_in_attempts.at > now() - interval '30 days'
group by sign_in_attempts.client
order by last_at desc
limit 20
"""
# For administration, who was erased is no longer there.
GET: LiteralString = f"select {USER} from users where id = %s and erased_at is null"
CREATE: LiteralString = f"""
insert into users (name, full_name, email, role, is_service, password_hash, is_break_glass)
values (
    %(name)s, %(full_name)s, %(email)s, %(role)s, %(is_service)s, %(password_hash)s,
    %(is_break_glass)s
)
returning {USER}
"""
CHANGE: LiteralString = f"""
update users
set
    full_name = %(full_name)s, email = %(email)s, role = %(role)s, active = %(active)s,
    updated_at = now()
where id = %(id)s
returning {USER}
"""
# A link from before is good no more.
SET_PASSWORD: LiteralString = """
with links as (
    delete from password_links where user_id = %(user_id)s
)
update users
set password_hash = %(password_hash)s, updated_at = now()
where id = %(user_id)s
"""  # noqa: S105
# Two admins who demote each other at the same moment would leave none.
LOCK_ADMINS: LiteralString = "select pg_advisory_xact_lock(hashtext('oracle_crm_sync.admins'))"
# By the ways to sign in that are on.
HAS_ADMIN: LiteralString = """
select exists (
    select
    from users
    where role = 'admin'
        and active
        and (
            oidc_issuer = %(oidc_issuer)s
            or password_hash is not null and (%(password_sign_in)s or is_break_glass)
        )
) as has_admin
"""
END_SESSIONS: LiteralString = """
update tokens set revoked_at = now()
where user_id = %s and kind = 'session' and revoked_at is null
"""
END_ACCESS: LiteralString = """
with links as (
    delete from password_links where user_id = %(user_id)s
)
update tokens set revoked_at = now()
where user_id = %(user_id)s and revoked_at is null and expires_at > now()
returning kind
"""
# No new access comes into being before the transaction ends.
LOCK_USER: LiteralString = (
    f"select {USER} from users where id = %s and erased_at is null for update"
)
SHARE_USER: LiteralString = "select from users where id = %s for share"
UNLOCK: LiteralString = """
update sign_in_attempts
set is_forgiven = true
where name = (select lower(name) from users where id = %s) and not is_forgiven
"""
FUNCTIONS: LiteralString = """
select function, nullif(value, '') as value
from user_functions
where user_id = %s
order by function, user_functions.value
"""
REMOVE_FUNCTIONS: LiteralString = "delete from user_functions where user_id = %s"
ADD_FUNCTION: LiteralString = """
insert into user_functions (user_id, function, value) values (%s, %s, %s) on conflict do nothing
"""
# What deals have in the field that routes them, to choose from.
_ROUTES = SQL("""
select distinct left({field}, 200) as value
from opportunities
where deleted_at is null and {field} <> ''
order by 1
limit 200
""")


def routes(name: str) -> Composed:
    """Return the query of the values that deals have in a field, to choose from."""
    field: Composable = SQL("custom ->> {}").format(Literal(name))
    return _ROUTES.format(field=Identifier(name) if name in BUILT_IN else field)


SESSION: LiteralString = """
tokens.id, tokens.user_id, tokens.created_at, tokens.last_used_at, tokens.expires_at,
tokens.address, tokens.browser, parent.name as token_name
"""
SESSIONS: LiteralString = f"""
select {SESSION}
from tokens
join users on users.id = tokens.user_id
left join tokens as parent on parent.id = tokens.parent_id
where tokens.user_id = %s and tokens.kind = 'session' and {IS_LIVE}
order by tokens.id
"""
ONE_OF_SESSIONS: LiteralString = f"""
select {SESSION}
from tokens
left join tokens as parent on parent.id = tokens.parent_id
where tokens.id = %s and tokens.kind = 'session'
"""
ALL_ACCESS: LiteralString = f"""
select
    tokens.id, tokens.kind, tokens.name, tokens.scopes, tokens.created_at, tokens.last_used_at,
    tokens.expires_at, tokens.address, tokens.browser, tokens.user_id, users.name as user_name
from tokens
join users on users.id = tokens.user_id
where {IS_LIVE}
order by tokens.last_used_at desc nulls last, tokens.id desc
limit %s
"""
CONFIRM: LiteralString = "update tokens set confirmed_at = now() where id = %s"

TOKENS: LiteralString = (
    f"select {TOKEN} from tokens where user_id = %s and kind = 'personal' order by id"
)
ONE_OF_TOKENS: LiteralString = f"select {TOKEN} from tokens where id = %s and kind = 'personal'"
REVOKE: LiteralString = """
update tokens set revoked_at = coalesce(revoked_at, now()) where id = %s
"""
