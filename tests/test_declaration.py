"""The project declares the tap's real settings, and uses only its public parts."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from typing import Any, cast

import msgspec.yaml
import pytest
from tap_oracle_crm.crm import BUILT_IN, ENVIRONMENT
from tap_oracle_crm.tap import TapOracleCRM

from database.environment import ROOT


@pytest.fixture
def extractors() -> dict[str, dict[str, Any]]:
    """The extractors by name."""
    project = msgspec.yaml.decode((ROOT / "meltano.yml").read_bytes())
    found = cast("list[dict[str, Any]]", project["plugins"]["extractors"])
    return {plugin["name"]: plugin for plugin in found}


def test_every_setting_of_the_tap_reaches_it(extractors: dict[str, dict[str, Any]]) -> None:
    # Meltano silently drops undeclared settings. Credentials come from the environment.
    declared = {item["name"]: item["kind"] for item in extractors["tap-oracle-crm"]["settings"]}
    builtin: dict[str, Any] = {}
    TapOracleCRM.append_builtin_config(builtin)
    own = set(TapOracleCRM.config_jsonschema["properties"]) - set(builtin["properties"])
    assert set(declared) == own - set(ENVIRONMENT) | set(builtin["properties"])
    # Strings, since the tap has clear errors for wrong numbers, dates and lists; Meltano has not.
    assert {kind for name, kind in declared.items() if name in own} == {"string", "boolean"}


def test_capabilities_are_those_of_the_tap(extractors: dict[str, dict[str, Any]]) -> None:
    declared = extractors["tap-oracle-crm"]["capabilities"]
    assert sorted(declared) == sorted(item.value for item in TapOracleCRM.capabilities)


def test_selected_attributes_are_built_in(extractors: dict[str, dict[str, Any]]) -> None:
    # All other selected attributes go into the extra property.
    selected = extractors["tap-oracle-crm"]["select"]
    attributes = {rule.partition(".")[2] for rule in selected if rule.startswith("opportunities.")}
    assert attributes <= set(BUILT_IN)
    assert extractors["tap-oracle-crm"]["config"]["extra_property"] == "custom"


def test_the_complete_read_is_of_the_same_opportunities(
    extractors: dict[str, dict[str, Any]],
) -> None:
    plugin = extractors["tap-oracle-crm-complete"]
    assert plugin == {
        "name": "tap-oracle-crm-complete",
        "inherit_from": "tap-oracle-crm",
        "config": {"account_fields": ""},
        "select_filter": ["opportunities", "rejected_records"],
        "metadata": {"opportunities": {"replication-method": "FULL_TABLE"}},
    }


PUBLIC = {"tap_oracle_crm.crm", "tap_oracle_crm.errors", "tap_oracle_crm.tap"}
"""The tap's public modules; the others may change with any release."""


def test_nothing_but_the_public_modules_of_the_tap_is_used() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", ":!extract/tap-oracle-crm"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    used = {
        (path, module)
        for path in listed
        if (ROOT / path).exists()
        for module in _modules_of_the_tap(ast.parse((ROOT / path).read_text()))
    }
    assert {module for _, module in used} >= PUBLIC
    assert {(path, module) for path, module in used if module not in PUBLIC} == set()


def _modules_of_the_tap(tree: ast.AST) -> Iterator[str]:
    """The tap's modules that a file imports, or names in a string, like a mock."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found = [name.name for name in names]
            case ast.ImportFrom(module="tap_oracle_crm", names=names):
                found = [f"tap_oracle_crm.{name.name}" for name in names]
            case ast.ImportFrom(module=str(module)):
                found = [module]
            case ast.Constant(value=str(text)):
                found = re.findall(r"\btap_oracle_crm\.\w+", text)
            case _:
                continue
        yield from (name for name in found if name.startswith("tap_oracle_crm"))


def test_the_tests_of_a_file_share_a_worker(request: pytest.FixtureRequest) -> None:
    # pytest-xdist writes the group into the id. A pytest that ignores it makes each worker set up
    # the shared fixtures of every file, and nothing fails.
    if request.config.getoption("loadgroup", default=False):
        assert request.node.nodeid.endswith("@tests/test_declaration.py")
