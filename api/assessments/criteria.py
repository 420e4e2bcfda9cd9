"""What a deal is assessed by, and what each criterion weighs."""

from typing import NamedTuple

MAX_SCORE = 5


class Criterion(NamedTuple):
    """Something that a deal is scored for, from 0 (against bidding) to 5 (for it)."""

    key: str
    title: str
    question: str
    weight: int


CRITERIA = (
    Criterion("strategic_fit", "Strategic fit", "Does it lead where we want to go?", 20),
    Criterion("win_chance", "Chance to win", "How well do we know the customer and the need?", 20),
    Criterion("competition", "Competition", "How do we stand against the others?", 15),
    Criterion("financial_value", "Financial value", "Is it worth it: revenue, margin, cash?", 15),
    Criterion("delivery_capability", "Delivery", "Do we have the people, skills and time?", 15),
    Criterion("risk", "Risk", "Are the risks few, known and borne by the right side?", 10),
    Criterion("compliance", "Compliance", "Can we meet every mandatory requirement?", 5),
)


def weighted_score(scores: dict[str, int]) -> float | None:
    """Return the weighted mean of scores in percent of the best, of those criteria that have one.

    >>> weighted_score({criterion.key: 5 for criterion in CRITERIA})
    100.0
    >>> weighted_score({"strategic_fit": 5, "win_chance": 0})
    50.0
    """
    scored = [criterion for criterion in CRITERIA if criterion.key in scores]
    weights = sum(criterion.weight for criterion in scored)
    if not weights:
        return None
    points = sum(criterion.weight * scores[criterion.key] for criterion in scored)
    return round(100 * points / (MAX_SCORE * weights), 1)
