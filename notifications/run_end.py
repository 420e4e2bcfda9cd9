"""The notifications at the end of a run, whoever started it.

The run checks for problems, since neither the scheduler nor the API may be running, and a
successful sync calls NOTIFY_SUCCESS_URL. A child process does the sending, and starts only if there
is something to send: its imports take half a second.
"""

import atexit
import logging
import os
import subprocess
import sys
from contextlib import closing

import psycopg

from database.environment import ROOT, setting
from notifications import incidents
from notifications.conditions import late_hours
from notifications.outage import Outage, describe

DEADLINE_SECONDS = 60
CHECK_THEMSELVES = frozenset({"schedule", "api", "webhook"})
"""The triggers of those who check at intervals themselves."""

log = logging.getLogger(__name__)


def prepare(url: str, run_id: str) -> None:
    """Register this for the end of the process, if NOTIFY_URLS or NOTIFY_SUCCESS_URL is set.

    Args:
        url: the database.
        run_id: the run of this process.
    """
    if setting("NOTIFY_URLS") or setting("NOTIFY_SUCCESS_URL"):
        atexit.register(_notify, url, run_id)


def _notify(url: str, run_id: str) -> None:
    arguments = [
        *(["success"] if setting("NOTIFY_SUCCESS_URL") and _has_succeeded(url, run_id) else []),
        *(["check"] if setting("NOTIFY_URLS") and _is_any_due(url) else []),
    ]
    if not arguments:
        return
    command = [sys.executable, "-m", "notifications", *arguments]
    try:
        subprocess.run(command, cwd=ROOT, check=False, timeout=DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("sending notifications took longer than %d s and was stopped", DEADLINE_SECONDS)


def _has_succeeded(url: str, run_id: str) -> bool:
    """Return whether the run was a sync and succeeded."""
    try:
        with closing(incidents.connect(url)) as connection:
            row = connection.execute(
                "select from sync_logs where run_id = %s and status = 'SUCCESS'", [run_id]
            ).fetchone()
    except psycopg.Error as error:
        log.warning("NOTIFY_SUCCESS_URL is not called: %s", describe(error))
        return False
    return row is not None


def _is_any_due(url: str) -> bool:
    """Return whether a message is due, or an outage of the database has to be reported."""
    if os.environ.get("MELTANO_JOB_TRIGGER") in CHECK_THEMSELVES:
        return False
    services = len((setting("NOTIFY_URLS") or "").split())
    try:
        with closing(incidents.connect(url)) as connection:
            incidents.update(connection, late_hours())
            return incidents.is_due(connection, services) or Outage.of(url).is_known()
    except psycopg.Error:
        return True  # the child process reports it
    except ValueError as error:
        log.error("no alerts are sent: %s", error)
        return False
