"""Settings are declared once, and the documents match."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from database import environment
from database.environment import ROOT, setting
from database.settings import Settings, read_settings, secret_names
from database.settings_documents import documents

NAMES = {name.upper() for name in Settings.model_fields}
EXAMPLE = (ROOT / ".env.example").read_text()


@pytest.fixture(autouse=True)
def _without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_dotenv", dict)


def test_the_documents_are_current() -> None:
    for path, text in documents().items():
        assert path.read_text() == text, "run `make settings`"


def test_the_example_offers_each_setting_once_and_no_secret() -> None:
    offered = re.findall(r"^#? ?([A-Z][A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)
    assert sorted(name for name, _ in offered) == sorted(NAMES)
    secrets = dict(offered).keys() & set(secret_names()) - {"DATABASE_URL"}
    assert "ORACLE_PASS" in secrets
    assert not any(value for name, value in offered if name in secrets)


def test_all_settings_in_use_are_declared_and_all_declared_ones_are_used() -> None:
    packages = ("api", "database", "notifications", "orchestrate", "runs")
    folders = (*packages, "extract/tap-oracle-crm/tap_oracle_crm")
    sources = {path for folder in folders for path in ROOT.glob(f"{folder}/**/*.py")}
    sources -= {ROOT / "database" / "settings.py"}
    sources |= {ROOT / "meltano.yml", *ROOT.glob("transform/**/*.sql")}
    text = "\n".join(path.read_text() for path in sources)
    asked_for = set(re.findall(r'\bsetting\(\s*"([A-Z_]+)"', text))
    assert asked_for
    assert asked_for - {"MELTANO_RUN_ID", "MELTANO_STATE_BACKEND_URI"} <= NAMES
    for name in NAMES:
        of_the_tap = name.removeprefix("TAP_ORACLE_CRM_").lower()
        shapes = (name, f".{name.lower()}", f"{{name: {of_the_tap}, kind")
        assert any(shape in text for shape in shapes), name


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"OIDC_ISSUER": "https://login.example.com"}, "OIDC_CLIENT_ID, OIDC_ROLES and API_PUBLIC"),
        ({"OIDC_ISSUER": "http://login.example.com"}, "OIDC_ISSUER: .*https"),
        ({"OIDC_ROLES": "sales=owner"}, "OIDC_ROLES"),
        ({"OIDC_ROLES": "sales"}, "OIDC_ROLES"),
        ({"PASSWORD_SIGN_IN": "false"}, "PASSWORD_SIGN_IN"),
    ],
)
def test_ways_to_sign_in_that_nobody_could_use_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], named: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=named):
        read_settings()


def test_groups_are_mapped_to_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_ROLES", "CRM admins=admin, a=b=viewer,")
    assert read_settings().oidc_roles == {"CRM admins": "admin", "a=b": "viewer"}


def test_settings_come_from_the_environment_or_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    for name in ("METRICS_TOKEN", "API_PORT", "API_HOST"):
        monkeypatch.delenv(name, raising=False)
        (tmp_path / name.lower()).write_text("1234\n")
    monkeypatch.setenv("API_PORT", "4321")
    monkeypatch.setenv("API_HOST", "")  # as if it were not set
    settings = read_settings()
    assert settings.metrics_token is not None
    assert settings.metrics_token.get_secret_value() == setting("METRICS_TOKEN") == "1234"
    assert (settings.api_port, settings.api_host) == (4321, "1234")


def test_a_run_does_not_pay_for_pydantic() -> None:
    code = "import sys, orchestrate.meltano_addon; print([*sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"},
    ).stdout
    assert "'database.environment'" in loaded
    assert "'pydantic'" not in loaded


def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "s3cret")
    monkeypatch.setenv("SYNC_MAX_DELETED_SHARE", "2")
    with pytest.raises(SystemExit) as stopped:
        read_settings()
    assert re.search(
        r"API_PORT: .+; .*SYNC_MAX_DELETED_SHARE: |DELETED_SHARE: .+; API_PORT: ",
        str(stopped.value),
    )
    assert "s3cret" not in str(stopped.value)


def test_a_password_with_dollars_is_written_as_the_example_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rule,) = re.findall(r"write `(.+)` for `(.+)`", EXAMPLE)
    password = "p${HOME}x$y #z"
    monkeypatch.setenv("HOME", "/nobody")
    written = password.replace(rule[1], rule[0])
    (tmp_path / ".env").write_text(f"ORACLE_PASS='{written}'\nDATABASE_URL='{password}'\n")
    values = dotenv_values(tmp_path / ".env")
    assert values["ORACLE_PASS"] == password
    assert values["DATABASE_URL"] != password, "the rule is needed"
