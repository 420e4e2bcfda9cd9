"""Give other programs the settings with which a sync reads the CRM.

`make probe`, which is `python -m orchestrate.crm [FILE]`, runs the tap's probe with them.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tap_oracle_crm.tap import TapOracleCRM

from database.environment import ROOT, export_settings, setting
from runs.control import MELTANO


def tap_settings(*, meltano: bool = True, **overrides: object) -> dict[str, Any]:
    """Return the tap's settings for `tap_oracle_crm.crm.Crm`.

    Args:
        meltano: ask Meltano, which also knows the settings in `meltano.yml`; it needs the
            database. If it fails, use the settings from the environment.
        overrides: settings that have priority over all others.
    """
    export_settings()
    names = TapOracleCRM.config_jsonschema["properties"]
    config = {name: setting(f"TAP_ORACLE_CRM_{name.upper()}") for name in names}
    if meltano:
        dumped = subprocess.run(
            [MELTANO, "invoke", "--dump=config", "tap-oracle-crm"],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        if dumped.returncode == 0:
            config = json.loads(dumped.stdout)
    return config | overrides


if __name__ == "__main__":
    export_settings()
    probe = Path(sys.executable).with_name("tap-oracle-crm-probe")
    sys.exit(subprocess.run([probe, *sys.argv[1:]], check=False).returncode)
