"""The SQL of users and tokens. No hash leaves the database: only a sign-in reads a password's."""

# ruff: noqa: S608 - what is put into a statement stands in this file

from typing import LiteralString

USER: LiteralString = """
id, name, full_name, email, role, active, created_at, updated_at, last_signed_in_at,
password_hash is null as is_service
"""
TOKEN: LiteralString = "id, user_id, kind, name, created_at, expires_at, last_used_at, revoked_at"  # noqa: S105
LIST: LiteralString = f"select {USER} from users order by lower(name)"
GET: LiteralString = f"select {USER} from users where id = %s"
GET_FOR_CHANGE: LiteralString = f"select {USER} from users where id = %s for update"
CREATE: LiteralString = f"""
insert into users (name, full_name, email, role, password_hash)
values (%(name)s, %(full_name)s, %(email)s, %(role)s, %(password_hash)s)
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
SET_PASSWORD: LiteralString = (
    "update users set password_hash = %s, updated_at = now() where id = %s"  # noqa: S105
)
# Two admins who demote each other at the same moment would leave none.
LOCK_ADMINS: LiteralString = "select pg_advisory_xact_lock(hashtext('oracle_crm_sync.admins'))"
COUNT_ADMINS: LiteralString = "select count(*) from users where role = 'admin' and active"
END_SESSIONS: LiteralString = """
update tokens set revoked_at = now()
where user_id = %s and kind = 'session' and revoked_at is null
"""
FORGET_ATTEMPTS: LiteralString = "delete from sign_in_attempts where name = lower(%s)"

TOKENS: LiteralString = (
    f"select {TOKEN} from tokens where user_id = %s and kind = 'personal' order by id"
)
ONE_OF_TOKENS: LiteralString = f"select {TOKEN} from tokens where id = %s and kind = 'personal'"
REVOKE: LiteralString = """
update tokens set revoked_at = coalesce(revoked_at, now()) where id = %s
"""
