"""`python -m orchestrate.airflow.alert TITLE TEXT` sends an alert to NOTIFY_URLS.

If NOTIFY_URLS is unset, it prints that, so that the task's log shows it.
"""

import sys

from apprise import Apprise, NotifyType

from database.environment import setting


def main(title: str, text: str) -> None:
    """Send the alert; the exit code is 1 if a service did not accept it."""
    urls = (setting("NOTIFY_URLS") or "").split()
    if not urls:
        print(f"NOTIFY_URLS is not set, so no alert is sent: {title}: {text}")
        return
    services = Apprise()
    for number, url in enumerate(urls, 1):
        if not services.add(url):
            sys.exit(f"NOTIFY_URLS: Apprise does not know address {number}")
    if not services.notify(title=title, body=text, notify_type=NotifyType.FAILURE):
        sys.exit("A service in NOTIFY_URLS did not accept the alert")


if __name__ == "__main__":
    main(*sys.argv[1:])
