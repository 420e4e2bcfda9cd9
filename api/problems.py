"""Errors as problem documents (RFC 9457), which say what to do and leak nothing."""

import logging
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from database.locks import LockedError

log = logging.getLogger(__name__)

# Of the errors of one request, and of the name of each field.
MOST_ERRORS = 10
MOST_CHARACTERS = 100


class Problem(BaseModel):
    """A problem document: `detail` says what was wrong with this request."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None


class ProblemError(HTTPException):
    """Raise it to answer with a problem document; `members` extend the document."""

    def __init__(
        self, status: int, detail: str, *, headers: dict[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(status, detail, headers)
        self.members = members


class ProblemResponse(JSONResponse):
    """A problem document on its way."""

    media_type = "application/problem+json"


def problem(
    status: int, detail: str | None = None, headers: dict[str, str] | None = None, **members: Any
) -> ProblemResponse:
    """Return the response for a problem."""
    text = None if detail is None else _clean(detail)
    document = Problem(title=HTTPStatus(status).phrase, status=status, detail=text, **members)
    return ProblemResponse(
        document.model_dump(mode="json", exclude_none=True), status, headers=headers
    )


def _clean(text: str) -> str:
    """Return a text that may quote what a client sent as one that can be sent back."""
    return text.encode("utf-8", "replace").decode()


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of the problems that an operation can answer with."""
    return {status: {"model": Problem} for status in statuses}


def describe(openapi: dict[str, Any]) -> dict[str, Any]:
    """Complete an OpenAPI document: errors are problem documents, and some may always come."""
    schema = {"$ref": "#/components/schemas/Problem"}
    for path in openapi["paths"].values():
        for operation in path.values():
            anywhere = (400, 408, 413, 429, 503) if "requestBody" in operation else (429, 503)
            responses = operation["responses"]
            for status in anywhere:
                responses.setdefault(str(status), {"content": {"": {"schema": schema}}})
            for status, response in responses.items():
                if status >= "400":
                    (described,) = response["content"].values()
                    response["description"] = HTTPStatus(int(status)).phrase
                    response["content"] = {ProblemResponse.media_type: described}
    return openapi


def install(app: FastAPI) -> None:
    """Make the errors that are foreseen problem documents; `api.requests` sees to the others."""
    app.exception_handler(StarletteHTTPException)(_http)
    app.exception_handler(RequestValidationError)(_validation)
    app.exception_handler(psycopg.DataError)(_data)
    app.exception_handler(psycopg.errors.LockNotAvailable)(_locked)
    app.exception_handler(psycopg.errors.QueryCanceled)(_slow)
    app.exception_handler(psycopg.OperationalError)(_unavailable)
    app.exception_handler(PoolTimeout)(_unavailable)


async def _http(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - how it is registered
    members = error.members if isinstance(error, ProblemError) else {}
    headers = dict(error.headers) if error.headers else None
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": ", ".join(_methods(request))}
    return problem(error.status_code, error.detail, headers, **members)


def _methods(request: Request) -> list[str]:
    """Return the methods that a path has, be it by several routes: Starlette names the first's."""
    found = [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]
    return sorted({*found, "HEAD"}) if "GET" in found else found


async def _validation(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - how it is registered
    found_errors = error.errors()
    missing = {found["loc"] for found in found_errors if found["type"] == "missing"}
    if ("header", "if-match") in missing:
        return problem(428, "Say what you change: send its ETag as If-Match.")
    # What was sent is left out: it may hold a secret. So is what nobody would read.
    errors = [
        {
            "where": _clean(".".join(str(part)[:MOST_CHARACTERS] for part in found["loc"])),
            "message": _clean(found["msg"]),
        }
        for found in found_errors[:MOST_ERRORS]
    ]
    words = [f"{shown['where']}: {shown['message']}" for shown in errors]
    if (more := len(found_errors) - len(errors)) > 0:
        words.append(f"and {more} more")
    return problem(422, "; ".join(words), errors=errors, more=more)


async def _data(_: Request, error: Exception) -> ProblemResponse:
    return problem(422, "A value can't be stored or compared: it is out of range or has a NUL.")


async def _locked(_: Request, error: Exception) -> ProblemResponse:
    detail = "A sync is merging this row at the moment. Try again."
    if isinstance(error, LockedError):  # of the runs, not of a row
        log.error("%s", error)
        detail = "Another session locks the log of the runs: `make doctor` names it."
    return problem(503, detail, {"Retry-After": "5"})


async def _slow(_: Request, error: Exception) -> ProblemResponse:
    return problem(503, "The database took too long. Narrow the filters, or try again.")


async def _unavailable(_: Request, error: Exception) -> ProblemResponse:
    log.error("database unavailable", extra={"error": " ".join(str(error).split())})
    return problem(503, "The database can't be reached at the moment.", {"Retry-After": "5"})
