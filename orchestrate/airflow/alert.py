"""`python -m orchestrate.airflow.alert TITLE TEXT` tells those whom NOTIFY_URLS names.

Prints that nobody is named where it is unset, so that the task's log says so.
"""

import sys

from apprise import Apprise, NotifyType

from database.environment import setting


def main(title: str, text: str) -> None:
    """Send it; the exit code is 1 if a service did not take it."""
    urls = (setting("NOTIFY_URLS") or "").split()
    if not urls:
        print(f"NOTIFY_URLS is not set, so nobody is told: {title}: {text}")
        return
    services = Apprise()
    for number, url in enumerate(urls, 1):
        if not services.add(url):
            sys.exit(f"NOTIFY_URLS: Apprise does not know the {number}. of them")
    if not services.notify(title=title, body=text, notify_type=NotifyType.FAILURE):
        sys.exit("Not every service of NOTIFY_URLS took it")


if __name__ == "__main__":
    main(*sys.argv[1:])
