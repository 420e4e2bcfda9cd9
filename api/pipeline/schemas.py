"""Requests and answers of the pipeline over time."""

from datetime import date, datetime
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from api.exact import Number
from api.types import Day, Input, Text


class Step(StrEnum):
    """What became of the pipeline of a currency, in the order of the waterfall."""

    OPENING = "opening"
    NEW = "new"
    REOPENED = "reopened"
    RETURNED = "returned"
    VALUE_UP = "value_up"
    VALUE_DOWN = "value_down"
    CURRENCY_IN = "currency_in"
    CURRENCY_OUT = "currency_out"
    WON = "won"
    LOST = "lost"
    CLOSED = "closed"
    DELETED = "deleted"
    CLOSING = "closing"
    KEPT = "kept"


class CloseDate(StrEnum):
    """What became of the close date of a deal that was open on both days."""

    EARLIER = "earlier"
    LATER_30 = "later_30"
    LATER_90 = "later_90"
    LATER = "later"
    SET = "set"
    REMOVED = "removed"


class Period(Input):
    """From the start of a day to the end of a day, in UTC."""

    start: Day | None = Field(
        None,
        description="First day; by default 30 days before the last one, or the history's first",
    )
    end: Day | None = Field(None, description="Last day; by default today: until now")

    @model_validator(mode="after")
    def _has_an_order(self) -> Self:
        if self.start is not None and self.end is not None and self.start > self.end:
            raise ValueError("end is before start")
        return self


class Numbers(Period):
    """Of which number of the pipeline something is wanted."""

    currency: Text | None = Field(None, description="Of `missing` ones, none")
    converted: bool = Field(
        False, description="Deals of all currencies, with values in the reporting currency"
    )
    missing: list[Literal["currency", "stage_before", "stage_after"]] = Field(
        [], max_length=50, description="Those that have none of these values"
    )
    stage_before: Text | None = Field(None, description="Only those that were in this stage")
    stage_after: Text | None = Field(
        None, description="Only those that are in this stage at the end of the last day"
    )
    close_date: CloseDate | None = Field(None, description="Only those whose close date moved so")
    offset: int = Field(0, ge=0, le=10_000_000)


class DealsRequest(Numbers):
    """The deals of which number of the pipeline are wanted.

    It is of a currency, of `missing` ones, or of all with `converted` values.
    """

    step: Step = Field(description="See GET /api/pipeline; `kept`: they were open on both days")
    limit: int = Field(50, ge=1, le=1000)

    @model_validator(mode="after")
    def _has_a_currency(self) -> Self:
        given = [self.currency is not None, "currency" in self.missing, self.converted]
        if sum(given) != 1:
            raise ValueError("give currency, missing=currency or converted=true")
        return self


class Counted(BaseModel):
    """A number of deals, and what they are worth."""

    deals: int
    value: Number


class StepSum(Counted):
    """A step of the waterfall. What goes out is negative."""

    step: Step


class StageMove(Counted):
    """From where to where deals moved: in or out by a step, or from stage to stage.

    A deal that came or went has only one of the stages.
    """

    step: Step
    stage_before: str | None = Field(description="Null: none, or the deal was not open")
    stage_after: str | None = Field(description="Null: none, or the deal is not open any more")


class MovedDates(Counted):
    """Deals whose close date moved; `value` is that of the last day."""

    close_date: CloseDate = Field(
        description="`later_30`, `later_90`: later by up to so many days; `later`: by more"
    )
    average_days: float | None = Field(description="How much later, on average; null: no date")


class CurrencyPipeline(BaseModel):
    """The pipeline in a currency: `opening` and all steps together are `closing`."""

    currency: str | None
    opening: Counted
    steps: list[StepSum]
    closing: Counted
    moves: list[StageMove] = Field(
        description="Each deal once: those of `opening`, and those that came, by where they are "
        "on the last day"
    )
    close_dates: list[MovedDates]


class ConvertedPipeline(CurrencyPipeline):
    """The pipeline of all currencies in the reporting one: no step is from or to another."""

    without_rate: int = Field(
        description="Deals whose value before or after has no rate, so that it adds nothing"
    )


class Stay(BaseModel):
    """How long deals were in a stage that they left in this time; deals of all currencies."""

    stage: str | None
    stays: int
    median_days: float
    most_days: float


class Pipeline(BaseModel):
    """What became of the open deals in a time."""

    start: date
    end: date
    opening_at: datetime = Field(description="The start of the first day, or of the history")
    closing_at: datetime = Field(description="The end of the last day, or now")
    begin: datetime | None = Field(description="Of the history; null: no deal has come yet")
    currencies: list[CurrencyPipeline] = Field(description="That of most deals first")
    converted: ConvertedPipeline | None = Field(
        description="All of them in the reporting currency, by the rates of now; null: crm.yml"
        " declares none"
    )
    stays: list[Stay]


class PipelineDeal(BaseModel):
    """A deal that a number of the pipeline counts, as it was and as it became."""

    id: int
    remote_id: str
    name: str | None
    customer: str | None
    outcome_before: Literal["absent", "open", "won", "lost", "closed", "deleted"]
    outcome_after: Literal["open", "won", "lost", "closed", "deleted"]
    currency_before: str | None
    currency_after: str | None
    value_before: Number
    value_after: Number
    converted_before: Number = Field(
        description="In the reporting currency, by the rates of now; 0: there is none, or no rate"
    )
    converted_after: Number
    stage_before: str | None
    stage_after: str | None
    closes_before: date | None
    closes_after: date | None


class PipelineDeals(BaseModel):
    """Deals that a number of the pipeline counts, those of the greatest values first."""

    items: list[PipelineDeal]
    total: int
