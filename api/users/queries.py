"""The SQL of users and tokens. What their answers leave out, such as hashes, stays here."""

from typing import LiteralString

LIST: LiteralString = "select * from users order by lower(name)"
GET: LiteralString = "select * from users where id = %s"
GET_FOR_CHANGE: LiteralString = "select * from users where id = %s for update"
CREATE: LiteralString = """
insert into users (name, full_name, email, role, password_hash)
values (%(name)s, %(full_name)s, %(email)s, %(role)s, %(password_hash)s)
returning *
"""
CHANGE: LiteralString = """
update users
set
    full_name = %(full_name)s, email = %(email)s, role = %(role)s, active = %(active)s,
    password_hash = %(password_hash)s, updated_at = now()
where id = %(id)s
returning *
"""
# Two admins who demote each other at the same moment would leave none.
LOCK_ADMINS: LiteralString = "select pg_advisory_xact_lock(hashtext('oracle_crm_sync.admins'))"
COUNT_ADMINS: LiteralString = "select count(*) from users where role = 'admin' and active"
END_SESSIONS: LiteralString = """
update tokens set revoked_at = now()
where user_id = %s and kind = 'session' and revoked_at is null
"""
FORGET_ATTEMPTS: LiteralString = "delete from sign_in_attempts where name = lower(%s)"

TOKENS: LiteralString = "select * from tokens where user_id = %s and kind = 'personal' order by id"
ONE_OF_TOKENS: LiteralString = "select * from tokens where id = %s and kind = 'personal'"
REVOKE: LiteralString = """
update tokens set revoked_at = coalesce(revoked_at, now()) where id = %s
"""
