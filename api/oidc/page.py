"""Signing in by the identity provider: to there, and back."""

import logging

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from api.auth import client_of
from api.console.pages import console_router, page
from api.database import connection_in_turn
from api.oidc import service
from api.oidc.attempt import LIFE_SECONDS, Attempt
from api.oidc.provider import Provider
from api.problems import ProblemError
from api.users.session import set_session_cookie
from api.users.sign_in import NewSession
from api.users.sign_in_page import sign_in_page

log = logging.getLogger(__name__)

router = console_router()


@router.get("/oidc/sign-in")
async def start(request: Request, next: str = "/") -> Response:  # noqa: A002 - the address
    """Send the browser to the identity provider."""
    attempt = Attempt.begin(next)
    try:
        url = await _provider(request).authorization_url(attempt, _callback(request))
    except ProblemError as error:
        return sign_in_page(request, attempt.next, error)
    response = RedirectResponse(url, 303)
    response.set_cookie(
        _cookie(request),
        attempt.cookie,
        max_age=LIFE_SECONDS,
        httponly=True,
        samesite="lax",  # the provider's page leads back here
        secure=request.url.scheme == "https",
    )
    return response


@router.get("/oidc/callback")
async def come_back(
    request: Request,
    state: str = "",
    code: str = "",
    error: str = "",
    iss: str | None = None,
) -> Response:
    """Take the browser back from the identity provider, and begin a session."""
    attempt = Attempt.of_cookie(request.cookies.get(_cookie(request), ""))
    try:
        provider = _provider(request)
        if attempt is None or not attempt.has_state(state):
            raise ProblemError(400, "This sign-in is over, or was begun elsewhere. Start again.")
        session = await _finish(request, provider, attempt, code, error, iss)
    except ProblemError as refusal:
        log.warning("no sign-in by the identity provider", extra={"reason": refusal.detail})
        response = sign_in_page(request, "/" if attempt is None else attempt.next, refusal)
    else:
        response = RedirectResponse(attempt.next, 303)
        set_session_cookie(request, response, session)
    response.delete_cookie(_cookie(request), secure=request.url.scheme == "https")
    return response


async def _finish(
    request: Request,
    provider: Provider,
    attempt: Attempt,
    code: str,
    error: str,
    issuer: str | None,
) -> NewSession:
    if error or not code:
        log.warning("the identity provider refused", extra={"error": error[:100]})
        raise ProblemError(403, "The identity provider did not sign you in. Start again.")
    identity = await provider.identify(attempt, code, issuer, _callback(request))
    settings = request.app.state.settings
    role = service.role_of(identity.claims.get(settings.oidc_groups_claim), settings.oidc_roles)
    name = identity.claims.get(settings.oidc_name_claim)
    # Only now: no connection waits for the provider, and only what it says is written down.
    async with connection_in_turn(request) as connection:
        return await service.sign_in(
            connection, identity, role, name, client_of(request), attempt.state
        )


def _provider(request: Request) -> Provider:
    provider: Provider | None = request.app.state.provider
    if provider is None:
        raise ProblemError(404, "There is no identity provider: OIDC_ISSUER is not set.")
    return provider


def _cookie(request: Request) -> str:
    name: str = request.app.state.public.cookie("oidc")
    return name


def _callback(request: Request) -> str:
    return f"{request.base_url}oidc/callback"


async def sign_out_elsewhere(request: Request, id_token: str | None) -> Response | None:
    """Lead the browser to where it signs out of the provider.

    Args:
        request: The sign-out.
        id_token: What the session began with.

    Returns:
        None if there is nowhere to go: no such session, or the provider offers none or is down.
    """
    if id_token is None or request.app.state.provider is None:
        return None
    try:
        url = await _provider(request).sign_out_url(id_token, f"{request.base_url}sign-in")
    except ProblemError:
        return None
    if url is None:
        return None
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": url})
    # Our pages let no form lead to another site, so this one goes on by itself.
    response = page(request, "signed_out.html", address=url)
    response.headers["Refresh"] = f"0; url={url}"
    return response
