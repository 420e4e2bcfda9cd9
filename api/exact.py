"""JSON with all digits of decimals, of which pydantic's encoder makes texts or floats."""

from decimal import Decimal
from typing import Annotated

from fastapi import Response
from msgspec import json
from pydantic import Field, PlainSerializer, WithJsonSchema

_encoder = json.Encoder(decimal_format="number")

# In an answer, as `exact_response` writes it; JSON has no number for NaN.
Number = Annotated[
    Decimal,
    Field(allow_inf_nan=True),
    PlainSerializer(lambda number: number if number.is_finite() else None),
    WithJsonSchema({"type": "number"}),
]


def exact_response(value: object) -> Response:
    """Answer with a value of the types that JSON has, and decimals, times and UUIDs."""
    return Response(_encoder.encode(value), media_type="application/json")


def pretty_json(value: object) -> str:
    """Return such a value as JSON in lines, to read."""
    return json.format(_encoder.encode(value), indent=2).decode()
