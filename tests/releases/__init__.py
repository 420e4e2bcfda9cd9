"""Databases as releases left them, for the test of upgrades.

    python -m tests.releases CHECKOUT VERSION

lets a release, checked out and set up in the folder CHECKOUT, work on a database of its own for
some days of a CRM, and keeps that database as `tests/releases/VERSION.sql.xz`. It works through
what every release has: `meltano run`, the API and SQL.
"""
