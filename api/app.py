"""The application: its resources, its errors, its life."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware

import api.assessments.page
import api.assessments.router
import api.changes.events
import api.changes.page
import api.changes.router
import api.dashboard.page
import api.erasure.page
import api.erasure.router
import api.oidc.page
import api.opportunities.board
import api.opportunities.deal
import api.opportunities.find
import api.opportunities.lineage
import api.opportunities.many
import api.opportunities.page
import api.opportunities.parts
import api.opportunities.router
import api.opportunities.views
import api.pipeline.page
import api.pipeline.router
import api.sync.events
import api.sync.page
import api.sync.router
import api.sync.webhook
import api.users.page
import api.users.router
import api.users.session
from api import (
    audit,
    docs,
    fields_page,
    health,
    health_page,
    metrics,
    problems,
    workflow,
)
from api.background import every
from api.changes.digest import send_due
from api.changes.live import Live
from api.console.pages import not_found, static_files
from api.database import Connections, make_pool
from api.fields import REFRESH_SECONDS, KeptFields
from api.limits import Limits
from api.oidc.provider import Provider
from api.opportunities.choices import Choices
from api.opportunities.export import EXPORTS_AT_ONCE
from api.opportunities.schemas import SortKey
from api.opportunities.turns import Turns
from api.opportunities.unchanged import Unchanged
from api.passwords import PASSWORDS_AT_ONCE
from api.public import PublicAddress
from api.requests import RequestMiddleware
from api.sync.webhook import WantedSyncs
from database.settings import Settings

# FastAPI prepares a route at its first request, once for each router that has it. So all
# applications share one router: the tests make hundreds, each for a few requests.
_ROUTES = APIRouter(generate_unique_id_function=lambda route: route.name)  # short for clients
for _router in (
    health.router,
    api.opportunities.router.router,
    api.opportunities.many.router,
    api.opportunities.parts.router,
    api.opportunities.views.router,
    api.opportunities.lineage.router,
    api.changes.router.router,
    api.pipeline.router.router,
    api.changes.events.router,
    workflow.router,
    api.assessments.router.router,
    api.sync.router.router,
    api.sync.events.router,
    api.sync.webhook.router,
    api.users.session.router,
    api.users.router.router,
    api.erasure.router.router,
    audit.router,
    metrics.router,
    docs.router,
    api.users.page.router,
    api.erasure.page.router,
    fields_page.router,
    health_page.router,
    api.oidc.page.router,
    api.changes.page.router,
    api.opportunities.page.router,
    api.opportunities.board.router,
    api.opportunities.deal.router,
    api.opportunities.lineage.pages,
    api.opportunities.find.router,
    api.assessments.page.router,
    api.dashboard.page.router,
    api.pipeline.page.router,
    api.sync.page.router,
):
    _ROUTES.include_router(_router)


def create_app(settings: Settings, database_url: str) -> FastAPI:
    """Return the application over the database at a URL, whose tables are up to date."""
    provider = None if settings.oidc_issuer is None else Provider(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.pool = pool = await stack.enter_async_context(
                make_pool(database_url, settings)
            )
            app.state.check = health.Once(partial(health.find_problem, pool))
            app.state.doctor = health.Once(partial(health_page.examine, database_url))
            wanted = WantedSyncs(pool, database_url, settings.webhook_quiet_seconds)
            await stack.enter_async_context(every(1, wanted.start))
            await stack.enter_async_context(every(1, partial(app.state.live.look, pool)))
            await stack.enter_async_context(every(60, partial(send_due, pool, settings)))
            refresh = partial(app.state.fields.refresh, pool)
            await stack.enter_async_context(every(REFRESH_SECONDS, refresh))
            if provider is not None:
                stack.push_async_callback(provider.close)
            yield

    app = FastAPI(
        title="Oracle CRM sync",
        summary="Every opportunity of the CRM, and what the bid team makes of it.",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,  # api.docs has one that loads nothing from elsewhere
        redoc_url=None,
        routes=_ROUTES.routes,
    )
    app.state.settings = settings
    app.state.database_url = database_url
    app.state.public = public = PublicAddress(settings.api_public_url)
    app.state.unchanged = Unchanged()
    app.state.fields = fields = KeptFields(partial(setattr, app, "openapi_schema", None))
    # Twice the cores: the database has work while answers are being written.
    app.state.turns = Turns(2 * (os.cpu_count() or 1))
    app.state.choices = Choices()
    app.state.live = Live()
    app.state.connections = connections = Connections(settings)
    half = max(1, connections.for_reading // 2)
    app.state.limits = limits = Limits(half, settings.api_pool_timeout)
    app.state.exports = asyncio.Semaphore(min(EXPORTS_AT_ONCE, half))
    app.state.provider = provider
    app.state.sign_ins = asyncio.Semaphore(PASSWORDS_AT_ONCE)
    problems.install(app)
    app.add_exception_handler(404, not_found)
    generate = app.openapi
    app.openapi = lambda: (  # type: ignore[method-assign]
        app.openapi_schema or fields.now.describe(problems.describe(generate()), SortKey)
    )
    app.mount("/static", static_files)
    app.mount("/docs/static", docs.swagger_ui)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=1)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=sorted(settings.api_cors_origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "If-Match",
            "If-None-Match",
            "Last-Event-ID",
        ],
        expose_headers=["ETag", "Retry-After", "X-Request-ID"],
    )
    app.add_middleware(
        RequestMiddleware,
        limits=limits,
        public=public,
        keeps_addresses=settings.api_keep_addresses,
    )
    return app
