"""A PostgreSQL server for the tests."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from database.embedded import start_embedded, stop_embedded


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The URL of an empty database."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        cluster = Path(folder) / "postgres"
        yield start_embedded(cluster)
        stop_embedded(cluster)
