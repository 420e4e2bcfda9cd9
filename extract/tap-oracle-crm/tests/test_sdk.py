"""The SDK's standard tests, run against a sandbox."""

from __future__ import annotations

import atexit

from singer_sdk.testing import SuiteConfig, get_tap_test_class
from tap_oracle_crm.tap import TapOracleCRM

from tests.sandbox.client import PASSWORD, USER, Sandbox

# The SDK makes a tap while pytest collects, before any fixture: the sandbox has to run by then.
_crm = Sandbox(records=500).__enter__()
atexit.register(_crm.stop)

_config = {"base_url": _crm.url, "username": USER, "password": PASSWORD}
_tap = TapOracleCRM(config=_config, setup_mapper=False)
for _stream in _tap.streams.values():
    _stream.selected = True

TestTapOracleCRM = get_tap_test_class(
    TapOracleCRM,
    config=_config,
    catalog=_tap.catalog_dict,
    suite_config=SuiteConfig(ignore_no_records_for_streams=["rejected_records"]),
)
