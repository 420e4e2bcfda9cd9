"""The SDK's standard tests, run against a sandbox."""

from __future__ import annotations

import atexit

from oracle_crm_sandbox import PASSWORD, USER, Sandbox
from singer_sdk import Stream
from singer_sdk.testing import SuiteConfig, get_tap_test_class
from tap_oracle_crm.tap import TapOracleCRM

# The SDK makes a tap while pytest collects, before any fixture: the sandbox must already run.
_crm = Sandbox(records=SuiteConfig().max_records_limit or 0).__enter__()
atexit.register(_crm.stop)
# The tests read all records, and one of them is rejected.
_crm.poison(_crm.rows(fields=["OptyId"])[0]["OptyId"], "overflow_1e400")

_config = {"base_url": _crm.url, "username": USER, "password": PASSWORD}


class DefaultSelection(TapOracleCRM):
    """The tap with none but the streams that it selects by default: the suite selects all."""

    def discover_streams(self) -> list[Stream]:
        """Return opportunities and rejected records."""
        return [stream for stream in super().discover_streams() if stream.selected_by_default]


TestAllStreams = get_tap_test_class(TapOracleCRM, config=_config)
TestDefaultSelection = get_tap_test_class(DefaultSelection, config=_config)
TestWithExtraProperty = get_tap_test_class(
    TapOracleCRM,
    config={**_config, "extra_property": "custom", "custom_fields": ["Practice_c"]},
)
