"""Passwords: argon2id, with the parameters of RFC 9106 for servers that have little memory."""

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi.concurrency import run_in_threadpool
from pydantic import SecretStr

_hasher = PasswordHasher()
# Each hash takes 64 MB and a core for a moment: more at once would be an attack's gain.
PASSWORDS_AT_ONCE = 2
_at_once = asyncio.Semaphore(PASSWORDS_AT_ONCE)
_UNKNOWN = _hasher.hash("someone unknown")


async def hash_password(password: SecretStr | None) -> str | None:
    """Return the hash of a password; None if there is no password."""
    if password is None:
        return None
    async with _at_once:
        return await run_in_threadpool(_hasher.hash, password.get_secret_value())


async def verify_password(stored: str | None, password: str) -> bool:
    """Tell whether a password is right, in the same time where there is none to compare with."""
    async with _at_once:
        return await run_in_threadpool(_verify, stored or _UNKNOWN, password) and stored is not None


def _verify(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False
