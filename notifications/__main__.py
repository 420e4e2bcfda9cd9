"""`python -m notifications [success] [check]`: call NOTIFY_SUCCESS_URL; send alerts.

Each run starts it at its end if there is something to send. It does not fail: errors are logged.
"""

import http.client
import logging
import sys
import urllib.error
import urllib.request

from database.address import database_url
from database.environment import setting
from notifications.conditions import late_hours

DEADLINE_SECONDS = 10

log = logging.getLogger("notifications")


def call_success_url() -> None:
    """Call NOTIFY_SUCCESS_URL once; log an error without the address, which is a secret."""
    url = setting("NOTIFY_SUCCESS_URL") or ""
    if not url.startswith(("https://", "http://")):
        log.error("NOTIFY_SUCCESS_URL must begin with https:// or http://")
        return
    request = urllib.request.Request(url, headers={"User-Agent": "oracle-crm-sync"})  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=DEADLINE_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        log.error("NOTIFY_SUCCESS_URL was called, and answered %d", error.code)
    except OSError as error:
        log.error("NOTIFY_SUCCESS_URL could not be called: %s", getattr(error, "reason", error))
    except (http.client.HTTPException, ValueError) as error:
        log.error("NOTIFY_SUCCESS_URL could not be called: %s", type(error).__name__)


def check() -> None:
    """Send the alerts that are due; an outage of the database is reported at once."""
    from notifications.services import Services
    from notifications.watcher import Watcher

    try:
        services = Services(setting("NOTIFY_URLS") or "")
    except ValueError as error:
        log.error("%s", error)
        return
    Watcher(database_url(), services, late_hours(), patience=0).check()


def main() -> None:
    """Do what the arguments say."""
    logging.basicConfig(level=logging.WARNING, format="notifications: %(message)s")
    if "success" in sys.argv[1:]:
        call_success_url()
    if "check" in sys.argv[1:]:
        check()


if __name__ == "__main__":
    main()
