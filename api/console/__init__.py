"""The console: the pages that bid managers and operators keep open.

Each page is rendered here and works on the functions behind the API's endpoints, so that what
the API refuses, the console refuses. htmx swaps parts of a page; nothing is loaded from
elsewhere, and no script or style stands in a page.
"""

from fastapi import FastAPI

from api.console.account import router as account
from api.console.admin import router as admin
from api.console.board import router as board
from api.console.choices import Choices
from api.console.dashboard import router as dashboard
from api.console.deal import router as deal
from api.console.opportunities import router as opportunities
from api.console.pages import static_files
from api.console.sync import router as sync


def install(app: FastAPI) -> None:
    """Serve the console at `/`."""
    app.state.choices = Choices()
    for router in (account, opportunities, board, deal, dashboard, sync, admin):
        app.include_router(router)
    app.mount("/static", static_files)
