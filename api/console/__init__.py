"""The console: the pages that bid managers and operators keep open.

Each page lies in its feature's folder and calls the same service as the endpoints do, so that
what the API refuses, the console refuses. htmx swaps parts of a page; nothing is loaded from
elsewhere, and no script or style stands in a page.
"""

from fastapi import FastAPI

from api.assessments.page import router as assessments
from api.console.pages import static_files
from api.dashboard.page import router as dashboard
from api.opportunities.board import router as board
from api.opportunities.choices import Choices
from api.opportunities.deal import router as deal
from api.opportunities.page import router as opportunities
from api.sync.page import router as sync
from api.users.page import router as users


def install(app: FastAPI) -> None:
    """Serve the console at `/`."""
    app.state.choices = Choices()
    for router in (users, opportunities, board, deal, assessments, dashboard, sync):
        app.include_router(router)
    app.mount("/static", static_files)
