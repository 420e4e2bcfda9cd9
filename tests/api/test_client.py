"""A client generated from the OpenAPI document works, with its types."""

import importlib
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from api.auth import Role
from api.token import make_token
from tests.api.conftest import fill


@pytest.fixture
def generated(server: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package that openapi-python-client makes of the document that the API serves."""
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(server.get("/openapi.json").json()))
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            "openapi_python_client",
            "generate",
            "--path",
            document,
            "--output-path",
            tmp_path / "crm_client",
            "--meta",
            "none",
            "--fail-on-warning",
        ],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
        # It formats what it makes with the ruff that lies beside this Python.
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("crm_client")


def test_a_generated_client(generated: ModuleType, server: httpx.Client, database: str) -> None:
    fill(database, 10)
    token = make_token(database, Role.ASSESSOR, timedelta(hours=1))
    client = generated.AuthenticatedClient(base_url=str(server.base_url), token=token)
    names = "opportunities.list_opportunities", "opportunities.patch_opportunity", "users.who_am_i"
    listing, patching, me = (importlib.import_module(f"crm_client.api.{name}") for name in names)
    models = importlib.import_module("crm_client.models")

    page = listing.sync(client=client, stage=["03 - Proposal"], sort="-deal_value")
    assert isinstance(page, models.Page)
    assert [item.deal_value for item in page.items] == [10002.5, 6001.5, 2000.5]
    assert me.sync(client=client).role == models.Role.ASSESSOR

    deal = page.items[0].id
    change = models.OpportunityChange(workflow_status="APPROVED")
    refused = patching.sync_detailed(deal, client=client, body=change)
    assert refused.status_code == 409
    assert isinstance(refused.parsed, models.MoveRefused)
    assert refused.parsed.allowed
    change = models.OpportunityChange(workflow_status=refused.parsed.allowed[0])
    assert patching.sync(deal, client=client, body=change).workflow_status == change.workflow_status
