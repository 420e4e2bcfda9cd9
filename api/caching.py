"""ETags: a client that has an answer already is told so, and is not sent it again."""

from hashlib import blake2b

from fastapi import Request, Response


def etag_of(body: bytes) -> str:
    """Return the ETag of a body. It is weak: the same body may be sent compressed or plain."""
    return f'W/"{blake2b(body, digest_size=12).hexdigest()}"'


def json_response(request: Request, body: str) -> Response:
    """Answer with a JSON text, or with 304 where the client has just that."""
    content = body.encode()
    etag = etag_of(content)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}
    known = request.headers.get("if-none-match", "")
    if known == "*" or etag in (tag.strip() for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)
