"""Types of input that several resources share."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar

from fastapi import Path
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)


def _in_words(value: object) -> object:
    """Refuse numbers, which would be taken for seconds since 1970."""
    if isinstance(value, (int, float)) or (
        isinstance(value, str) and value.strip().replace(".", "", 1).lstrip("+-").isdigit()
    ):
        raise ValueError("write it as ISO 8601 says, 2026-01-31 or 2026-01-31T06:30:00Z")
    return value


def _in_utc(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _is_text(secret: SecretStr) -> SecretStr:
    try:
        secret.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("it has half a character") from None
    return secret


class Input(BaseModel):
    """What a client sends: a field that is not known is an error."""

    model_config = ConfigDict(extra="forbid")
    MOST_UNKNOWN: ClassVar[int] = 10

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, given: Any) -> Any:
        # Each unknown one would become an error of its own, which takes time and memory.
        if isinstance(given, dict) and len(given) > len(cls.model_fields) + cls.MOST_UNKNOWN:
            raise ValueError(
                f"there are {len(given)} fields, and {len(cls.model_fields)} are known"
            )
        return given


# Beyond this JavaScript's integers are not exact.
_MAX_ID = 2**53 - 1

Text = Annotated[str, Field(min_length=1, max_length=200, pattern="^[^\x00]*$")]
LongText = Annotated[str, Field(max_length=10_000, pattern="^[^\x00]*$")]
Secret = Annotated[SecretStr, AfterValidator(_is_text)]
AnyOf = Annotated[list[Text], Field(max_length=50)]
Money = Annotated[Decimal, Field(allow_inf_nan=False, max_digits=30)]
Day = Annotated[date, BeforeValidator(_in_words)]
Utc = Annotated[datetime, BeforeValidator(_in_words), AfterValidator(_in_utc)]
Id = Annotated[int, Field(ge=1, le=_MAX_ID)]
PathId = Annotated[int, Path(alias="id", ge=1, le=_MAX_ID)]
