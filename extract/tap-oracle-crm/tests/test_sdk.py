"""The SDK's standard tests, run against a sandbox."""

from __future__ import annotations

import atexit

from oracle_crm_sandbox import PASSWORD, USER, Sandbox
from singer_sdk.testing import SuiteConfig, get_tap_test_class
from tap_oracle_crm.tap import TapOracleCRM

# The SDK makes a tap while pytest collects, before any fixture: the sandbox has to run by then.
_crm = Sandbox(records=500).__enter__()
atexit.register(_crm.stop)

_config = {"base_url": _crm.url, "username": USER, "password": PASSWORD}
_suite = SuiteConfig(ignore_no_records_for_streams=["rejected_records"])

TestTapOracleCRM = get_tap_test_class(TapOracleCRM, config=_config, suite_config=_suite)
TestWithExtraProperty = get_tap_test_class(
    TapOracleCRM,
    config={**_config, "extra_property": "custom", "custom_fields": ["Practice_c"]},
    suite_config=_suite,
)
