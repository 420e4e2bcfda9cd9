"""How a page is made: templates, the headers of a page, and refusals that people can read."""

import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from hashlib import blake2b
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.types import Scope

from api.audit import differences
from api.auth import Role, session_cookie
from api.exact import pretty_json
from api.fields import Fields
from api.problems import problem
from api.workflow import FROM_CRM, MOVES

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

templates = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class _StaticFiles(StaticFiles):
    """Files whose addresses change when they do, so that a browser may keep them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


static_files = _StaticFiles(directory=FOLDER / "static")


@cache
def _asset(name: str) -> str:
    content = (FOLDER / "static" / name).read_bytes()
    return f"/static/{name}?{blake2b(content, digest_size=6).hexdigest()}"


def _words(name: str) -> str:
    """Return a state or a column as people read it.

    >>> _words("UNDER_ASSESSMENT")
    'Under assessment'
    """
    return name.replace("_", " ").capitalize()


def _plain(value: object) -> str:
    """Return a value of JSON as people read it.

    >>> _plain("viewer"), _plain(None), _plain(True)
    ('viewer', 'none', 'true')
    """
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _own_filters(fields: Fields, given: Mapping[str, Any]) -> Markup:
    """Return the inputs of the filters by own fields, with what is given in them."""
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return _made_own_filters(fields, tuple(values.items()))


@lru_cache(maxsize=64)  # there can be hundreds, which are the same on most pages
def _made_own_filters(fields: Fields, given: tuple[tuple[str, Any], ...]) -> Markup:
    template = templates.get_template("_own_filters.html")
    return Markup(template.render(fields=fields, given=dict(given)))  # noqa: S704 - it escapes


templates.globals |= {
    "own_filters": _own_filters,
    "asset": _asset,
    "Role": Role,
    "states": list(MOVES),
    "from_crm": list(FROM_CRM),
    "differences": differences,
}
templates.filters["words"] = _words
templates.filters["pretty_json"] = pretty_json
templates.filters["plain"] = _plain


def wants_part(request: Request, target: str) -> bool:
    """Tell whether htmx asks for one element of a page alone."""
    return request.headers.get("hx-target") == target


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a template as a page, or as a part of one."""
    user = getattr(request.state, "user", None)
    text = templates.get_template(template).render(
        user=user, path=request.url.path, read_at=datetime.now(UTC), **context
    )
    headers = {"Content-Security-Policy": POLICY, "Vary": "HX-Request, HX-Target"}
    if user is not None:
        headers["X-As-Of"] = user.as_of
    return HTMLResponse(text, status, headers)


def back_to(request: Request, path: str) -> Response:
    """Go to a page after a form was sent."""
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": path})
    return RedirectResponse(path, 303)


def changed(
    request: Request, path: str, words: str, *events: str, undo: dict[str, Any] | None = None
) -> Response:
    """Say that a form's change is made; `events` tell which parts of the page to read again.

    `undo` takes it back: the `path` to post to, the `values`, and the `target` of the answer.
    Without a script the browser goes to `path`.
    """
    if "hx-request" not in request.headers:
        return back_to(request, path)
    message = {"text": words} | ({"undo": undo} if undo else {})
    trigger = {"message": message} | {event: {} for event in events}
    return Response(status_code=204, headers={"HX-Trigger": json.dumps(trigger)})


class PageRoute(APIRoute):
    """A route whose errors are the API's, shown as a page; a script shows them as a message."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of this route."""
        handle = super().get_route_handler()

        async def handle_as_page(request: Request) -> Response:
            # A field of a form that was left empty sets no filter.
            given = parse_qsl(request.scope["query_string"].decode("latin-1"))
            request.scope["query_string"] = urlencode(given).encode()
            try:
                return await handle(request)
            except Exception as error:
                refusal = await _refusal(request, error)
            if "hx-request" in request.headers:
                return refusal  # also if the session has ended: then one signs in on the page
            if refusal.status_code == HTTPStatus.UNAUTHORIZED and request.method == "GET":
                return RedirectResponse(_sign_in_path(request.url.path, request.url.query), 303)
            return _refused(request, refusal)

        return handle_as_page


def _refused(request: Request, refusal: Response) -> Response:
    """Show a problem as a page. Its navigation is there even if nobody knows who asks."""
    response = page(
        request,
        "refusal.html",
        refusal.status_code,
        problem=json.loads(bytes(refusal.body)),
        has_session=session_cookie(request) in request.cookies,
        is_retried=refusal.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        and request.method == "GET",
    )
    for name in ("retry-after", "allow"):
        if name in refusal.headers:
            response.headers[name] = refusal.headers[name]
    return response


async def not_found(request: Request, error: Exception) -> Response:
    """Answer a browser that goes to an address which is not there by a page, others as the API."""
    refusal = await _refusal(request, error)
    is_browser = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    if is_browser and not request.url.path.startswith("/api/"):
        return _refused(request, refusal)
    return refusal


async def _refusal(request: Request, error: Exception) -> Response:
    for type_ in type(error).__mro__:
        handler = request.app.exception_handlers.get(type_)
        if handler is not None:
            answer: Response = await handler(request, error)
            return answer
    log.exception("failed", exc_info=error)
    return problem(500, "Something went wrong. The log has it under the request's id.")


def _sign_in_path(path: str, query: str) -> str:
    here = path + (f"?{query}" if query else "")
    return "/sign-in" if here in ("", "/") else f"/sign-in?next={quote(here, safe='/')}"


def console_router() -> APIRouter:
    """Return a router for pages, which the API's description leaves out."""
    return APIRouter(include_in_schema=False, route_class=PageRoute)
