"""JSON with all digits of decimals: other encoders make them floats or texts."""

from decimal import Decimal
from typing import Annotated, Any

from fastapi import Response
from pydantic import Field, WithJsonSchema
from pydantic_core import to_json

# In an answer, as `exact_response` writes it.
Number = Annotated[Decimal, Field(allow_inf_nan=True), WithJsonSchema({"type": "number"})]


def exact_json(value: Any, line: str | None = None) -> str:
    """Return a value as JSON.

    Args:
        value: of the types that JSON has, or that pydantic makes one of them.
        line: how a line begins; None: all is one line.

    >>> exact_json({"a": [Decimal("24691357802469134.56"), None, "é"]})
    '{"a":[24691357802469134.56,null,"é"]}'
    """
    inner = None if line is None else f"{line}  "
    match value:
        case dict() if value:
            colon = ":" if line is None else ": "
            begin, end = "{", "}"
            parts = [f"{exact_json(k)}{colon}{exact_json(v, inner)}" for k, v in value.items()]
        case list() if value:
            begin, end = "[", "]"
            parts = [exact_json(one, inner) for one in value]
        case Decimal() if value.is_finite():
            return f"{value:f}"
        case Decimal():
            return "null"
        case _:
            return to_json(value, inf_nan_mode="null").decode()
    return begin + (inner or "") + f",{inner or ''}".join(parts) + (line or "") + end


def exact_response(value: Any) -> Response:
    """Answer with a value as JSON."""
    return Response(exact_json(value).encode(), media_type="application/json")
