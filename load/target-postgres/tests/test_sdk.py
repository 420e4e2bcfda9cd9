"""The SDK's standard tests of a target, on the fast path."""

from __future__ import annotations

from typing import Any

import pytest
from singer_sdk.testing import get_target_test_class
from target_postgres_copy.target import CopyTarget

_config: dict[str, Any] = {
    "default_target_schema": "standard_tests",
    "use_copy": True,
    "validate_records": False,
}


@pytest.fixture(autouse=True)
def _configured(database: str, request: pytest.FixtureRequest) -> None:
    _config["sqlalchemy_url"] = database.replace("postgresql://", "postgresql+psycopg://")
    # This test sends NUL, which PostgreSQL cannot store; the stock target needs the setting too.
    sends_nul = request.node.name == "test_target_encoded_string_data"
    _config["sanitize_null_text_characters"] = sends_nul


TestCopyTarget = get_target_test_class(CopyTarget, config=_config)
