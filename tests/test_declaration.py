"""What meltano.yml declares of the tap is what the tap has."""

from __future__ import annotations

import copy
from typing import Any, cast

import msgspec.yaml
import pytest
from tap_oracle_crm.settings import ENVIRONMENT
from tap_oracle_crm.streams import Opportunities
from tap_oracle_crm.tap import TapOracleCRM

from orchestrate.settings import ROOT


@pytest.fixture
def extractors() -> dict[str, dict[str, Any]]:
    """The extractors by name."""
    project = msgspec.yaml.decode((ROOT / "meltano.yml").read_bytes())
    found = cast("list[dict[str, Any]]", project["plugins"]["extractors"])
    return {plugin["name"]: plugin for plugin in found}


def test_every_setting_of_the_tap_reaches_it(extractors: dict[str, dict[str, Any]]) -> None:
    # Meltano drops what is not declared, without a word. Credentials come by the environment.
    declared = {setting["name"] for setting in extractors["tap-oracle-crm"]["settings"]}
    schema = copy.deepcopy(TapOracleCRM.config_jsonschema)
    TapOracleCRM.append_builtin_config(schema)
    assert declared == set(schema["properties"]) - set(ENVIRONMENT)


def test_capabilities_are_those_of_the_tap(extractors: dict[str, dict[str, Any]]) -> None:
    declared = extractors["tap-oracle-crm"]["capabilities"]
    assert sorted(declared) == sorted(item.value for item in TapOracleCRM.capabilities)


def test_what_is_selected_is_built_in(extractors: dict[str, dict[str, Any]]) -> None:
    # Whatever else is selected goes into the extra property.
    selected = extractors["tap-oracle-crm"]["select"]
    attributes = {rule.partition(".")[2] for rule in selected if rule.startswith("opportunities.")}
    assert attributes <= set(Opportunities.attributes)
    assert extractors["tap-oracle-crm"]["config"]["extra_property"] == "custom"


def test_the_complete_read_is_of_the_same_opportunities(
    extractors: dict[str, dict[str, Any]],
) -> None:
    plugin = extractors["tap-oracle-crm-complete"]
    assert plugin == {
        "name": "tap-oracle-crm-complete",
        "inherit_from": "tap-oracle-crm",
        "select_filter": ["opportunities", "rejected_records"],
        "metadata": {"opportunities": {"replication-method": "FULL_TABLE"}},
    }
