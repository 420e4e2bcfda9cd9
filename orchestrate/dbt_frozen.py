"""dbt's command line, as Meltano calls it, with less work before it begins.

Imports leave no garbage; the search for it would take a fifth of a short run. dbt checks its files
by JSON schemas that it makes anew from its classes each time: here they are kept beside the parsed
project. To name the source of three warnings it reads the source of all its callers.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from database.environment import ROOT

SCHEMAS = "json_schemas.json"
"""The kept schemas, in dbt's target folder."""


def main() -> None:
    """Run dbt."""
    gc.disable()
    from dbt.adapters.postgres.impl import PostgresAdapter
    from dbt.cli.main import cli
    from dbt_common import behavior_flags, dataclass_schema

    from orchestrate.dbt_connections import KeptConnections

    target = Path(os.environ.get("DBT_TARGET_PATH") or ROOT / "transform" / "target")
    # Both are parts of dbt that it does not promise to keep.
    schemas: Any = dataclass_schema
    schemas.build_json_schema = kept(schemas.build_json_schema, target)
    flag: Any = behavior_flags.BehaviorFlagRendered
    flag._default_source = staticmethod(lambda: "dbt")
    PostgresAdapter.ConnectionManager = KeptConnections
    gc.freeze()
    gc.enable()
    sys.exit(cli())


def kept(build: Callable[[type], Any], target: Path) -> Callable[[type], Any]:
    """Return a function that builds the JSON schema of a class once for each release of dbt.

    Args:
        build: makes an object whose `to_dict` is the schema.
        target: the folder where the schemas are kept.
    """
    path = target / SCHEMAS
    release = " ".join(map(version, ("dbt-core", "dbt-common", "dbt-adapters", "dbt-postgres")))
    schemas: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        read = json.loads(path.read_text())
        schemas = read["schemas"] if read["release"] == release else {}

    def schema_of(cls: type) -> Any:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name not in schemas:
            schemas[name] = build(cls).to_dict()
            with suppress(OSError):  # it cannot be kept
                target.mkdir(parents=True, exist_ok=True)
                whole = path.with_suffix(f".{os.getpid()}")
                whole.write_text(json.dumps({"release": release, "schemas": schemas}))
                whole.replace(path)
        schema = schemas[name]
        return SimpleNamespace(to_dict=lambda: schema)

    return schema_of
