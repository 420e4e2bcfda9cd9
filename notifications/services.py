"""The services of NOTIFY_URLS, through Apprise.

Import it only to send a message or to check the addresses: importing Apprise takes half a second.
"""

import logging
import re
from urllib.parse import unquote

from apprise import Apprise, LogCapture, NotifyFormat, NotifyType

from database.environment import setting
from notifications.messages import Message

log = logging.getLogger(__name__)
# Its log may show secrets of the addresses; `_problem` removes them.
_apprise = logging.getLogger("apprise")
_apprise.propagate = False
_apprise.addHandler(logging.NullHandler())


class Services:
    """The services, numbered from 1 in the order of NOTIFY_URLS."""

    def __init__(self, urls: str) -> None:
        """Read addresses, separated by spaces.

        Raises:
            ValueError: Apprise does not know one of them; the error does not show it.
        """
        self._urls = urls.split()
        self._services = [Apprise() for _ in self._urls]
        for number, (service, url) in enumerate(zip(self._services, self._urls, strict=True), 1):
            if not service.add(url):
                raise ValueError(f"NOTIFY_URLS: Apprise does not know address {number}")
            if url.lower().startswith("mailto"):
                for mail in service:
                    mail.notify_format = NotifyFormat.TEXT

    def __len__(self) -> int:
        return len(self._services)

    def name(self, service: int) -> str:
        """Return the number and the type of a service."""
        return f"{service} ({self._urls[service - 1].partition('://')[0]})"

    def send(self, service: int, message: Message) -> str | None:
        """Send a message; return why it was not accepted, or None."""
        with LogCapture(level=logging.WARNING, fmt="%(message)s") as said:  # type: ignore[no-untyped-call]
            is_accepted = self._services[service - 1].notify(
                title=message.title,
                body=message.body,
                notify_type=NotifyType(message.tone),
                # It quotes what others entered in the CRM, which may look like markup.
                body_format=NotifyFormat.TEXT,
            )
        return None if is_accepted else _problem(said.getvalue(), self._urls[service - 1])

    def deliver(self, service: int, message: Message) -> bool:
        """Send a message; log and return whether it was accepted."""
        problem = self.send(service, message)
        if problem is not None:
            log.error(
                "service %s of NOTIFY_URLS did not accept a message: %s",
                self.name(service),
                problem,
            )
        return problem is None


def send_test() -> dict[str, str | None]:
    """Send a test message to each service of NOTIFY_URLS.

    Returns:
        For each service, by number and type, why it did not accept the message, or None. Empty if
        NOTIFY_URLS is not set.

    Raises:
        ValueError: Apprise does not know one of the addresses; the error does not show it.
    """
    services = Services(setting("NOTIFY_URLS") or "")
    text = Message("Test", "This is only a test of NOTIFY_URLS.", "info")
    return {
        services.name(number): services.send(number, text) for number in range(1, len(services) + 1)
    }


def _problem(said: str, url: str) -> str:
    """Return Apprise's log in one line, without any part of the address.

    Many services have a token in the place of a host.
    """
    text = " ".join(said.split()) or "unknown reason"
    _, _, address = url.partition("://")
    forms = (address, unquote(address))
    parts = {part for form in forms for part in re.split(r"[/:@?&=#,;+]+", form)}
    for part in sorted(parts, key=len, reverse=True):
        # Shorter parts are no secrets, but occur in other words.
        if len(part) >= 4:
            text = text.replace(part, "***")
    return text[:500]
