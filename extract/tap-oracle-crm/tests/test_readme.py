"""The README is what the code says."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import msgspec.yaml
import pytest
from tap_oracle_crm.settings import ENVIRONMENT
from tap_oracle_crm.streams import Opportunities
from tap_oracle_crm.tap import TapOracleCRM

FOLDER = Path(__file__).parents[1]


def test_settings_and_capabilities_in_the_readme_are_current() -> None:
    about = subprocess.run(
        [sys.executable, "-m", "tap_oracle_crm", "--about", "--format=markdown"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    begin, end = about.index("## Capabilities"), about.index("A full list of supported")
    generated = (FOLDER / "README.md").read_text().split("<!-- from --about -->")[1]
    assert generated.strip() == about[begin:end].strip(), (
        "run: python -m tap_oracle_crm --about --format=markdown"
    )


@pytest.fixture
def extractor() -> dict[str, Any]:
    """What the tap's own Meltano project says of it."""
    project = msgspec.yaml.decode((FOLDER / "meltano.yml").read_bytes())
    (found,) = project["plugins"]["extractors"]
    return cast("dict[str, Any]", found)


def test_meltano_selects_what_the_tap_does(extractor: dict[str, Any]) -> None:
    known = {f"opportunities.{name}" for name in Opportunities.attributes}
    assert set(extractor["select"]) == known | {"rejected_records.*"}


def _kind(declared: dict[str, Any]) -> str:
    """Meltano's word for the kind of a setting."""
    if declared.get("format") == "date-time":
        return "date_iso8601"
    return cast("str", next(kind for kind in declared["type"] if kind != "null"))


def test_meltano_knows_every_setting(extractor: dict[str, Any]) -> None:
    schema = copy.deepcopy(TapOracleCRM.config_jsonschema)
    TapOracleCRM.append_builtin_config(schema)
    assert extractor["settings"] == [
        {
            "name": name,
            **({"env": ENVIRONMENT[name]} if name in ENVIRONMENT else {}),
            "kind": _kind(declared),
            **({"sensitive": True} if declared.get("secret") else {}),
        }
        for name, declared in schema["properties"].items()
    ]
    assert sorted(extractor["capabilities"]) == sorted(
        item.value for item in TapOracleCRM.capabilities
    )
