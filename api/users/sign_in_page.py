"""The page with the ways to sign in, and why one of them did not work."""

from fastapi import Request, Response

from api.console.pages import page, wants_part
from api.problems import ProblemError


def sign_in_page(
    request: Request, after: str, error: ProblemError | None = None, name: str = ""
) -> Response:
    """Return the page.

    Args:
        request: The one that this answers.
        after: Our own path to go on to.
        error: Why a sign-in was refused.
        name: What was typed as the name.
    """
    state = request.app.state
    return page(
        request,
        "_sign_in_again.html" if wants_part(request, "sign-in-again") else "sign_in.html",
        200 if error is None else error.status_code,
        next=after,
        error=error and error.detail,
        name=name,
        has_provider=state.provider is not None,
        passwords=state.settings.password_sign_in,
    )
