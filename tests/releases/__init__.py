"""Databases of releases, for the test of upgrades.

    python -m tests.releases CHECKOUT VERSION

runs a release, checked out and set up in the folder CHECKOUT, on its own database for some days of
a CRM, and saves that database as `tests/releases/VERSION.sql.xz`. It uses only parts of every
release: `meltano run`, the API and SQL.
"""
