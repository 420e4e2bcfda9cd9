"""Types of input that several resources share."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, Field

Text = Annotated[str, Field(min_length=1, max_length=200, pattern="^[^\x00]*$")]
LongText = Annotated[str, Field(max_length=10_000, pattern="^[^\x00]*$")]
AnyOf = Annotated[list[Text], Field(max_length=50)]
Money = Annotated[Decimal, Field(allow_inf_nan=False, max_digits=30)]
Utc = Annotated[datetime, AfterValidator(lambda at: at if at.tzinfo else at.replace(tzinfo=UTC))]
Id = Annotated[int, Field(ge=1, lt=2**63)]
PathId = Annotated[int, Path(alias="id", ge=1, lt=2**63)]
