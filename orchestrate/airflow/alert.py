"""`python -m orchestrate.airflow.alert TITLE TEXT` sends an alert to NOTIFY_URLS.

If NOTIFY_URLS is unset, it prints that, so that the task's log shows it.
"""

import logging
import sys

from database.environment import setting
from notifications.messages import Message
from notifications.services import Services


def main(title: str, text: str) -> None:
    """Send the alert; the exit code is 1 if a service did not accept it."""
    urls = setting("NOTIFY_URLS")
    if urls is None:
        print(f"NOTIFY_URLS is not set, so no alert is sent: {title}: {text}")
        return
    try:
        services = Services(urls)
    except ValueError as error:
        sys.exit(str(error))
    logging.basicConfig(format="%(message)s")
    message = Message(title, text, "failure")
    accepted = [services.deliver(number, message) for number in range(1, len(services) + 1)]
    if not all(accepted):
        sys.exit("A service in NOTIFY_URLS did not accept the alert")


if __name__ == "__main__":
    main(*sys.argv[1:])
