"""ETags: what a client has already is not sent again, and what it has not seen it can't change."""

from hashlib import blake2b
from typing import Annotated

from fastapi import Header, Request, Response

from api.database import SAFE_METHODS
from api.problems import ProblemError

_IF_MATCH = Header(max_length=1000, description="The ETag of what is to be changed")
RequiredIfMatch = Annotated[str, _IF_MATCH]
IfMatch = Annotated[str | None, _IF_MATCH]


def etag_of(body: bytes) -> str:
    """Return the ETag of a body. It is weak: the same body may be sent compressed or plain."""
    return f'W/"{blake2b(body, digest_size=12).hexdigest()}"'


def json_response(request: Request, body: str) -> Response:
    """Answer with a JSON text, or with 304 to who only reads and has just that."""
    content = body.encode()
    etag = etag_of(content)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}
    # A change is made by now, and 304 would deny that: its condition is If-Match.
    known = request.headers.get("if-none-match", "") if request.method in SAFE_METHODS else ""
    if known == "*" or etag in (tag.strip() for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


def check_match(if_match: str, etag: str) -> None:
    """Refuse a change of something that has changed since the client read it.

    Raises:
        ProblemError: 412.
    """
    given = {tag.strip().removeprefix("W/") for tag in if_match.split(",")}
    if given.isdisjoint({"*", etag.removeprefix("W/")}):
        raise ProblemError(412, "It has changed since you read it: read it again.")
