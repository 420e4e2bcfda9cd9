"""The console: the pages that bid managers and operators keep open.

Each page is rendered here and works on the functions behind the API's endpoints, so that what
the API refuses, the console refuses. htmx swaps parts of a page; nothing is loaded from
elsewhere, and no script or style stands in a page.
"""

from fastapi import FastAPI

from api.console import account, board, opportunities, sync
from api.console.choices import Choices
from api.console.pages import static_files


def install(app: FastAPI) -> None:
    """Serve the console at `/`."""
    app.state.choices = Choices()
    for router in (
        account.router,
        opportunities.router,
        board.router,
        sync.router,
    ):
        app.include_router(router)
    app.mount("/static", static_files)
