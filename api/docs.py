"""Pages about the system: its API and the lineage of its data; all they load is served here."""

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

from api.auth import CurrentUser
from api.problems import ProblemError
from database.environment import ROOT

router = APIRouter(include_in_schema=False)

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
    return FileResponse(LINEAGE, headers={"Content-Security-Policy": LINEAGE_POLICY})
