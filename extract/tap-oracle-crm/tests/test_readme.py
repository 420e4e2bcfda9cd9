"""The README, the Meltano project and the hub's definition are what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from plugin_definition import FILE, plugin_definition

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


def test_the_hub_is_told_what_the_tap_has() -> None:
    assert yaml.safe_load(FILE.read_text()) == plugin_definition(), (
        "run: python tests/plugin_definition.py"
    )


@pytest.fixture
def extractor() -> dict[str, Any]:
    """What the tap's own Meltano project says of it."""
    project = yaml.safe_load((FOLDER / "meltano.yml").read_text())
    (found,) = project["plugins"]["extractors"]
    return cast("dict[str, Any]", found)


def test_the_meltano_project_says_what_the_hub_would(extractor: dict[str, Any]) -> None:
    definition = plugin_definition()
    for name in ("name", "namespace", "capabilities", "select"):
        assert extractor[name] == definition[name]
    # Defaults and descriptions are the tap's own.
    assert extractor["settings"] == [
        {key: setting[key] for key in ("name", "env", "kind", "sensitive") if key in setting}
        for setting in definition["settings"]
    ]


@pytest.mark.parametrize(("kind", "is_valid"), [("integer", True), ("number", False)])
def test_the_hub_takes_the_definition(tmp_path: Path, kind: str, is_valid: bool) -> None:
    file = tmp_path / "definition.yml"
    file.write_text(FILE.read_text().replace("kind: integer", f"kind: {kind}"))
    schemas = Path(__file__).parent / "meltanohub" / "plugin_definitions"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--base-uri", f"{schemas.as_uri()}/"),
            *("--schemafile", schemas / "extractors.schema.json"),
            file,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == is_valid, done.stdout
    assert is_valid or "'number' is not one of" in done.stdout
