"""The section `assessment`: what a deal is scored for, and what a score suggests."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from declared.model import Declaration, Key, Label

Percent = Annotated[float, Field(ge=0, le=100)]
Text = Annotated[str, Field(max_length=2000)]


class Criterion(Declaration):
    """Something that a deal is scored for, from 0 (against bidding) to `scale` (for it).

    Attributes:
        title: as people read it.
        question: what the score answers.
        guidance: what the scores mean.
        weight: its share of the weighted score, in relation to the other weights.
        scale: the best score.
        mandatory: whether nothing is submitted without it.
    """

    title: Label
    question: Text = ""
    guidance: Text = ""
    weight: int = Field(ge=1, le=1000)
    scale: int = Field(default=5, ge=1, le=10)
    mandatory: bool = True


class Suggest(Declaration):
    """The weighted scores, in percent, that suggest to bid or not to.

    Attributes:
        bid: from this score on: bid.
        no_bid: below this score: no bid.
    """

    bid: Percent
    no_bid: Percent

    @model_validator(mode="after")
    def _leaves_room_between(self) -> Self:
        if self.no_bid > self.bid:
            raise ValueError("no_bid can't be above bid")
        return self


SEVEN = {
    "strategic_fit": Criterion(
        title="Strategic fit", question="Does it lead where we want to go?", weight=20
    ),
    "win_chance": Criterion(
        title="Chance to win", question="How well do we know the customer and the need?", weight=20
    ),
    "competition": Criterion(
        title="Competition", question="How do we stand against the others?", weight=15
    ),
    "financial_value": Criterion(
        title="Financial value", question="Is it worth it: revenue, margin, cash?", weight=15
    ),
    "delivery_capability": Criterion(
        title="Delivery", question="Do we have the people, skills and time?", weight=15
    ),
    "risk": Criterion(
        title="Risk", question="Are the risks few, known and borne by the right side?", weight=10
    ),
    "compliance": Criterion(
        title="Compliance", question="Can we meet every mandatory requirement?", weight=5
    ),
}
"""The criteria where the file declares none."""


class Assessment(Declaration):
    """The section.

    Attributes:
        criteria: by key, in the order of the form.
        suggest: None: no score suggests anything.
    """

    criteria: dict[Key, Criterion] = Field(default=SEVEN, min_length=1, max_length=50)
    suggest: Suggest | None = None

    @field_validator("criteria", mode="before")
    @classmethod
    def _empty_means_the_default(cls, given: Any) -> Any:
        return SEVEN if given is None else given

    def weighted_score(self, scores: Mapping[str, int]) -> float | None:
        """Return the weighted mean of scores in percent of the best, of the criteria with a score.

        >>> Assessment().weighted_score({key: 5 for key in SEVEN})
        100.0
        >>> Assessment().weighted_score({"strategic_fit": 5, "win_chance": 0})
        50.0
        """
        scored = {key: item for key, item in self.criteria.items() if key in scores}
        weights = sum(item.weight for item in scored.values())
        if not weights:
            return None
        points = sum(item.weight * scores[key] / item.scale for key, item in scored.items())
        return round(100 * points / weights, 1)

    def missing(self, scores: Mapping[str, object]) -> dict[str, str]:
        """Return the titles, by key, of the mandatory criteria without a score."""
        return {
            key: item.title
            for key, item in self.criteria.items()
            if item.mandatory and key not in scores
        }

    def suggestion(self, scores: Mapping[str, int]) -> Literal["BID", "NO_BID"] | None:
        """Return what the scores suggest; None: nothing, or a mandatory one is missing."""
        score = self.weighted_score(scores)
        if self.suggest is None or score is None or self.missing(scores):
            return None
        if score >= self.suggest.bid:
            return "BID"
        return "NO_BID" if score < self.suggest.no_bid else None
