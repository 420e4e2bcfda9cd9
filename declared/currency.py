"""The section `currency`: the one into which values are converted, to be sorted and added up."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from declared.model import Declaration


def _checked(code: str) -> str:
    if not re.fullmatch("[A-Z]{3}", code):
        raise ValueError(f"{code!r} is no currency's code: write it as the CRM does, such as USD")
    return code


Code = Annotated[str, AfterValidator(_checked)]
Rate = Annotated[Decimal, Field(gt=0, max_digits=30, decimal_places=15)]


class Currency(Declaration):
    """The section.

    Attributes:
        reporting: the currency into which values are converted; None: they are not.
        rates: the worth of one unit of other currencies in the reporting one.
    """

    reporting: Code | None = None
    rates: dict[Code, Rate] = Field(default={}, max_length=300)

    @field_validator("rates", mode="before")
    @classmethod
    def _empty_means_none(cls, given: Any) -> Any:
        return {} if given is None else given

    @field_validator("rates")
    @classmethod
    def _are_of_other_currencies(
        cls, given: dict[str, Decimal], info: ValidationInfo
    ) -> dict[str, Decimal]:
        reporting = info.data.get("reporting", "")
        if given and reporting is None:
            raise ValueError("say into which currency, in a line like 'reporting: EUR'")
        if reporting in given:
            raise ValueError(f"{reporting} is the reporting currency itself: remove its rate")
        return given
