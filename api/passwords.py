"""Passwords: argon2id, with the parameters of RFC 9106 for servers that have little memory."""

import asyncio
import re

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi.concurrency import run_in_threadpool
from pydantic import SecretStr
from zxcvbn import zxcvbn

from api.problems import ProblemError

_hasher = PasswordHasher()
# Each hash takes 64 MB and a core for a moment: more at once would be an attack's gain.
PASSWORDS_AT_ONCE = 2
_at_once = asyncio.Semaphore(PASSWORDS_AT_ONCE)
_UNKNOWN = _hasher.hash("someone unknown")

# zxcvbn rates from 0 to 4, and reads no more than this. From 3 on, guesses over a network are
# hopeless (10^8 and more).
LEAST_SCORE = 3
CHARACTERS_RATED = 72


async def hash_password(password: SecretStr | None, name: str, *about: str | None) -> str | None:
    """Return the hash of a new password; None if there is no password.

    Args:
        password: What the user wants.
        name: The user's name.
        about: What else people know of the user.

    Raises:
        ProblemError: 422, the password is easy to guess.
    """
    if password is None:
        return None
    async with _at_once:
        return await run_in_threadpool(
            _hash, password.get_secret_value(), name, [text for text in about if text]
        )


def _hash(password: str, name: str, about: list[str]) -> str:
    # The name adds nothing, wherever it stands; zxcvbn takes no empty text.
    secret_part = re.sub(re.escape(name), "", password, flags=re.IGNORECASE) or " "
    rating = zxcvbn(secret_part[:CHARACTERS_RATED], user_inputs=[name, *about])
    if rating["score"] < LEAST_SCORE:
        reason = rating["feedback"]["warning"] or "Use a few words that have nothing in common."
        raise ProblemError(422, f"This password is easy to guess. {reason}")
    return _hasher.hash(password)


async def renew_hash(stored: str, password: str) -> str | None:
    """Return a new hash of a right password; None if the stored one is as strong as new ones."""
    if not _hasher.check_needs_rehash(stored):
        return None
    async with _at_once:
        return await run_in_threadpool(_hasher.hash, password)


async def verify_password(stored: str | None, password: str) -> bool:
    """Tell whether a password is right, in the same time where there is none to compare with."""
    async with _at_once:
        return await run_in_threadpool(_verify, stored or _UNKNOWN, password) and stored is not None


def _verify(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False
