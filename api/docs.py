"""Pages about the system: its API and the lineage of its data; all they load is served here."""

from functools import lru_cache
from pathlib import Path

from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from api.auth import CurrentUser
from api.console.pages import console_router
from api.problems import ProblemError
from database.environment import ROOT

router = console_router()

# Only the files of Swagger UI are of use here.
swagger_ui = StaticFiles(packages=[("fastapi_offline", "static")])

LINEAGE = ROOT / "transform" / "target" / "static_index.html"

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Oracle CRM sync: API</title>
<link rel="stylesheet" href="/docs/static/swagger-ui.css">
<link rel="icon" href="data:,">
<div id="api"></div>
<script src="/docs/static/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
START = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#api", deepLinking: true, persistAuthorization: false,
  validatorUrl: null,
});
"""
# Swagger UI writes styles into its elements.
POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
# dbt's page is one file with all its scripts in it. It gets no origin of ours to act in.
# It has templates in its text that no browser can load, and no way back.
LINEAGE_CHANGES = {
    b'<use xlink:href="{{': b'<use ng-attr-href="{{',
    b"${require('./assets/favicons/favicon.ico')}": b"data:,",
    b"</body>": b'<a href="/sync" style="position: fixed; bottom: 0; left: 0; padding: 8px 16px; '
    b'background: #1a1e26; color: #fff; z-index: 9">Back to the console</a></body>',
}
LINEAGE_POLICY = (
    "sandbox allow-scripts allow-downloads allow-popups; default-src 'unsafe-inline' "
    "'unsafe-eval' data: blob:; connect-src 'none'; frame-ancestors 'none'"
)


@router.get("/docs")
async def docs() -> Response:
    """Show the API, to try it out."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/start.js")
async def start() -> Response:
    """Start Swagger UI."""
    return Response(START, media_type="text/javascript")


@router.get("/lineage")
async def lineage(_: CurrentUser) -> Response:
    """Show where each column comes from: dbt's documentation."""
    if not LINEAGE.is_file():
        raise ProblemError(404, "The page of the lineage is not built: `make docs` builds it.")
    text = await run_in_threadpool(_lineage, LINEAGE, LINEAGE.stat().st_mtime_ns)
    return HTMLResponse(text, headers={"Content-Security-Policy": LINEAGE_POLICY})


@lru_cache(maxsize=1)
def _lineage(file: Path, _: int) -> bytes:
    """Return dbt's page with our changes; kept until the file is another."""
    page = file.read_bytes()
    for theirs, ours in LINEAGE_CHANGES.items():
        page = page.replace(theirs, ours)
    return page
