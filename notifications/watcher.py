"""Check for problems, and send the alerts."""

import logging
import threading
from contextlib import AbstractContextManager, closing, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Self

import psycopg

from database.settings import Settings
from notifications import incidents
from notifications.outage import Outage, describe

if TYPE_CHECKING:
    from notifications.services import Services

INTERVAL_SECONDS = 15
PATIENCE_SECONDS = 30
"""A restart of the database is no outage."""
LOCK_PATIENCE_SECONDS = 15 * 60
"""A migration may hold locks for long."""

log = logging.getLogger(__name__)


def watching(url: str, settings: Settings) -> AbstractContextManager[object]:
    """Return a context that checks at intervals if NOTIFY_URLS is set.

    Raises:
        ValueError: Apprise does not know an address in NOTIFY_URLS.
    """
    if settings.notify_urls is None:
        return nullcontext()
    from notifications.services import Services  # only now: it takes half a second

    services = Services(settings.notify_urls.get_secret_value())
    return Watcher(url, services, settings.notify_late_hours)


class Watcher:
    """Checks for problems and sends the alerts, once or at intervals.

    As a context manager, it checks at intervals in a thread.
    """

    def __init__(
        self,
        url: str,
        services: "Services",
        late_hours: int,
        *,
        interval: float = INTERVAL_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Prepare the checks.

        Args:
            url: the database.
            services: where the alerts go.
            late_hours: hours without a successful sync after which it is late.
            interval: seconds between two checks.
            patience: seconds that an outage of the database must last before an alert is sent.
        """
        self._url, self._services, self._late_hours = url, services, late_hours
        self._interval, self._patience = interval, patience
        self._outage = Outage.of(url)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._check_on, name="notifications", daemon=True)

    def check(self) -> None:
        """Check once, and send what is due."""
        deliver = self._services.deliver
        try:
            with closing(incidents.connect(self._url)) as connection:
                incidents.update(connection, self._late_hours)
                self._outage.end(len(self._services), deliver)
                for service in range(1, len(self._services) + 1):
                    # After a failure, the service's other messages wait for the next check.
                    while claimed := incidents.claim(connection, service):
                        if not deliver(service, claimed[0]):
                            break
                        incidents.mark_sent(connection, claimed[1])
        except psycopg.Error as error:
            why = describe(error)
            log.warning("the database cannot be used: %s", why)
            is_locked = isinstance(
                error, psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled
            )
            patience = max(self._patience, LOCK_PATIENCE_SECONDS if is_locked else 0)
            self._outage.report(why, len(self._services), deliver, patience)

    def _check_on(self) -> None:
        while True:
            try:
                self.check()
            except Exception:
                log.exception("the check for problems failed")
            if self._stopped.wait(self._interval):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        # If it is still sending then, the next process sends the message again.
        self._thread.join(timeout=5)
