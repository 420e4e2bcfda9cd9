"""Writes `meltanohub.yml`, what MeltanoHub is told of the tap: `python tests/plugin_definition.py`.

It is generated from the tap's settings, so that nothing is written twice.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from tap_oracle_crm.settings import ENVIRONMENT
from tap_oracle_crm.streams import Opportunities
from tap_oracle_crm.tap import TapOracleCRM

FILE = Path(__file__).parents[1] / "meltanohub.yml"
HEADER = """\
# What MeltanoHub is told of this tap: for its folder _data/meltano/extractors/tap-oracle-crm.
# Written by tests/plugin_definition.py, where whoever publishes the tap sets `repo` and `variant`.
"""


def plugin_definition() -> dict[str, Any]:
    """Return the definition, by the names of the hub's schema."""
    schema = copy.deepcopy(TapOracleCRM.config_jsonschema)
    TapOracleCRM.append_builtin_config(schema)
    return {
        "capabilities": sorted(item.value for item in TapOracleCRM.capabilities),
        "description": "CRM and sales automation (CX Sales) of Oracle's Fusion applications",
        "keywords": ["api", "crm", "meltano_sdk"],
        "label": "Oracle Fusion CRM",
        "log_parser": "singer-sdk",
        "maintenance_status": "active",
        "name": TapOracleCRM.name,
        "namespace": "tap_oracle_crm",
        "pip_url": TapOracleCRM.package_name,
        "quality": "unknown",
        "repo": "https://example.com/tap-oracle-crm",
        # Meltano selects every stream and attribute otherwise, children with a request for each.
        "select": [
            *(f"{Opportunities.name}.{name}" for name in Opportunities.attributes),
            "rejected_records.*",
        ],
        "settings": [_setting(name, declared) for name, declared in schema["properties"].items()],
        "settings_group_validation": [
            ["base_url", "username", "password"],
            ["base_url", "token_url", "client_id", "client_secret"],
        ],
        "supported_python_versions": ["3.11", "3.12", "3.13"],
        "variant": "example",
    }


def _setting(name: str, declared: dict[str, Any]) -> dict[str, Any]:
    is_date = declared.get("format") == "date-time"
    kinds = (kind for kind in declared["type"] if kind != "null")
    known = {
        "description": " ".join(declared.get("description", "").split()),
        "env": ENVIRONMENT.get(name),
        "kind": "date_iso8601" if is_date else next(kinds),
        "label": declared.get("title"),
        "name": name,
        "sensitive": declared.get("secret"),
        "value": declared.get("default"),
    }
    return {key: value for key, value in known.items() if value is not None}


if __name__ == "__main__":
    text = yaml.safe_dump(plugin_definition(), sort_keys=True, width=100, allow_unicode=True)
    FILE.write_text(HEADER + text, encoding="utf-8")
