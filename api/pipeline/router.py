"""The endpoints of the pipeline over time."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.auth import CurrentUser
from api.database import Connection
from api.exact import exact_response
from api.opportunities.turns import given_up_in_time
from api.opportunities.unchanged import unchanged_for
from api.pipeline import service
from api.pipeline.schemas import DealsRequest, Period, Pipeline, PipelineDeals
from api.problems import answers

router = APIRouter(prefix="/api", tags=["opportunities"])


@router.get("/pipeline", response_model=Pipeline, responses=answers(401, 422, 503))
async def get_pipeline(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    wanted: Annotated[Period, Query()],
) -> Response:
    """Tell what became of the open deals between two days, in each currency.

    `opening` and the steps add up to `closing`, in deals without the changes of value, and in
    value. A deal whose value changed before it was won takes both steps.
    """
    async with given_up_in_time(request, service.TOO_LONG):
        found = await service.read_pipeline(
            connection, user, unchanged_for(request, user.seen), wanted
        )
    return exact_response(Pipeline.model_validate(found).model_dump())


@router.get("/pipeline/deals", response_model=PipelineDeals, responses=answers(401, 422, 503))
async def list_pipeline_deals(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    wanted: Annotated[DealsRequest, Query()],
) -> Response:
    """List the deals that a number of the pipeline counts."""
    async with given_up_in_time(request, service.TOO_LONG):
        found = await service.list_deals(
            connection, user, unchanged_for(request, user.seen), wanted
        )
    return exact_response(PipelineDeals.model_validate(found).model_dump())
