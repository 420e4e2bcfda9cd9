"""Where a page of a list ended: what `next_cursor` holds."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Any, NamedTuple

from api.problems import ProblemError


class Cursor(NamedTuple):
    """The last row of a page, the total of its list, and which list that was."""

    list_digest: str
    total: int
    key: str
    id: int

    def encode(self) -> str:
        """Return the cursor as a text that is of no use but to be sent back."""
        text = json.dumps(self, ensure_ascii=False, separators=(",", ":"))
        return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(text: str, list_digest: str) -> Cursor:
    """Return the cursor that a client sent back.

    Raises:
        ProblemError: 422, it is no cursor, or one of a list with other filters or sort.
    """
    try:
        match json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4))):
            case [str(digest), int(total), str(key), int(id_)] if (
                total >= 0 and 0 <= id_ < 2**63 and "\0" not in key
            ):
                key.encode()  # as the database will: half a surrogate pair is no text
                cursor = Cursor(digest, total, key, id_)
            case _:
                raise ValueError("not a cursor's parts")
    except (ValueError, RecursionError) as error:
        raise ProblemError(422, "cursor: this is not a cursor that a list has given") from error
    if cursor.list_digest != list_digest:
        raise ProblemError(422, "cursor: it belongs to a list with other filters or another sort")
    return cursor


def digest(*parts: Any) -> str:
    """Return a short name for a list, from its conditions and its order."""
    return blake2b(repr(parts).encode(), digest_size=6).hexdigest()
