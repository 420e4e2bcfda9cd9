"""Shares the limits of an account with the other processes that read with it.

The calls in an hour and the requests at once belong to the account, whoever sends them. Every few
seconds, each process tells a PostgreSQL function how many calls it sent, and learns of the others.
No request waits for that. A process that is killed is forgotten after half a minute.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tap_oracle_crm.errors import ConfigError

log = logging.getLogger("tap-oracle-crm")

SHARE_SECONDS = 5.0
"""Seconds between two exchanges."""
WORTH_SHARING = 20
"""A run that sends fewer calls, such as one that finds no change, does not need the database."""
SHARE = """
    select processes, others, found
    from share_crm_calls(%(account)s, %(process)s, %(calls)s, %(served)s)
"""


@dataclass(frozen=True)
class Shared:
    """What is known of all processes with an account.

    Attributes:
        processes: their number, with this one.
        others: the calls of the others in this minute, the one before it and so on.
        found: how many requests at once the CRM serves to all; None if it never refused one.
    """

    processes: int
    others: Sequence[int]
    found: int | None


class Sharing:
    """Exchanges with the other processes, in a thread of its own.

    Args:
        settings: as `config.resolve` returns them, with `limits_database_url`.
        account: what the limits belong to.

    Raises:
        ConfigError: psycopg is not installed.
    """

    def __init__(self, settings: Mapping[str, Any], account: str) -> None:
        try:
            import psycopg
        except ImportError:
            msg = "limits_database_url needs the package psycopg: install tap-oracle-crm[limits]."
            raise ConfigError(msg) from None
        self._psycopg = psycopg
        self._url: str = settings["limits_database_url"]
        self._ended = threading.Event()
        self._known = {"account": account, "process": uuid.uuid4().hex}

    def start(
        self, tell: Callable[[], tuple[int, int | None]], learn: Callable[[Shared], None]
    ) -> None:
        """Exchange until the process ends or closes this.

        Args:
            tell: returns the calls since the last exchange, and the `found` of this process.
            learn: takes what is known of all.
        """

        def work() -> None:
            try:
                with self._psycopg.connect(self._url, autocommit=True, connect_timeout=10) as link:
                    link.execute("set statement_timeout = '10s'")
                    while not self._ended.is_set():
                        calls, served = tell()
                        values = {**self._known, "calls": calls, "served": served}
                        row = link.execute(SHARE, values).fetchone()
                        if row:
                            learn(Shared(*row))
                        self._ended.wait(SHARE_SECONDS)
            except self._psycopg.Error as error:
                # The limits still hold for this process.
                log.warning(
                    "The limits of the CRM's account can't be shared with other runs (%s)",
                    " ".join(str(error).split()),
                )

        threading.Thread(target=work, name="sharing", daemon=True).start()

    def close(self) -> None:
        """Exchange no more."""
        self._ended.set()
