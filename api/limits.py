"""What one caller may have at once, so that others get their share.

A caller is a user, or else an address. Whose a token is that was good lately, this process
remembers: nobody is let in by that, it only says whose limits a request counts for.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from ipaddress import IPv6Address, IPv6Network, ip_address
from weakref import WeakValueDictionary

from api.problems import ProblemError

log = logging.getLogger(__name__)

REQUESTS = 50
EXPORTS = 2
STREAMS = 5


class Callers:
    """Who sends a request, as far as one can tell without asking the database."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def find(self, credentials: bytes, address: str | None) -> str:
        """Return the caller in words: `user ada`, or `address 192.0.2.7`."""
        return self._known.get(_digest(credentials)) or f"address {network_of(address)}"

    def know(self, credentials: bytes, name: str) -> None:
        """Remember that a request with these credentials was found to be a user's."""
        key = _digest(credentials)
        self._known[key] = f"user {name}"
        self._known.move_to_end(key)
        if len(self._known) > self._size:
            self._known.popitem(last=False)


def _digest(credentials: bytes) -> bytes:
    return blake2b(credentials, digest_size=16).digest()


def network_of(address: str | None) -> str:
    """Return an address; of IPv6 the network, of which one client has all addresses."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return address or "unknown"
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Network((parsed, 64), strict=False))
    return str(parsed)


class Limit:
    """So many of something at once for each caller."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._present: Counter[str] = Counter()

    @contextmanager
    def count(self, caller: str) -> Iterator[None]:
        """Count one more while the context lasts.

        Raises:
            ProblemError: 429, the caller has as many as one may have.
        """
        if self._present[caller] >= self._most:
            raise _too_many(caller, self._most, self._what)
        self._present[caller] += 1
        try:
            yield
        finally:
            self._present[caller] -= 1
            if not self._present[caller]:
                del self._present[caller]


class Shares:
    """So many requests of each caller at the database at once; the caller's others wait."""

    def __init__(self, at_once: int, patience: float) -> None:
        self._at_once, self._patience = at_once, patience
        self._free: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def take(self, caller: str) -> "Place":
        """Return a part of the caller's share; 429 if the caller's others keep it too long."""
        free = self._free.get(caller)
        if free is None:
            free = self._free[caller] = asyncio.Semaphore(self._at_once)
        what = "requests at the database"
        return Place(free, self._patience, lambda: _too_many(caller, self._at_once, what))


class Limits:
    """The limits of all callers."""

    def __init__(self, at_once: int = 1, patience: float = 5) -> None:
        self.callers = Callers()
        self.requests = Limit(REQUESTS, "requests at work")
        self.exports = Limit(EXPORTS, "exports under way")
        self.streams = Limit(STREAMS, "event streams open")
        self.shares = Shares(at_once, patience)


class Place:
    """One of few places: whoever enters waits for `patience` seconds at most.

    Not a generator, which would cost each request three times as much.
    """

    __slots__ = ("_free", "_patience", "_refusal")

    def __init__(
        self, free: asyncio.Semaphore, patience: float, refusal: Callable[[], ProblemError]
    ) -> None:
        self._free, self._patience, self._refusal = free, patience, refusal

    async def __aenter__(self) -> None:
        """Wait for the place; raises the refusal if none became free."""
        if not self._free.locked():
            await self._free.acquire()  # does not wait
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            refusal = self._refusal()
            log.warning("no place became free", extra={"detail": refusal.detail})
            raise refusal from None

    async def __aexit__(self, *_: object) -> None:
        """Give the place back."""
        self._free.release()


def busy(detail: str) -> ProblemError:
    """Return the error that says that the API has too much to do for all."""
    return ProblemError(503, f"The API is busy: {detail}", headers={"Retry-After": "5"})


def _too_many(caller: str, most: int, what: str) -> ProblemError:
    detail = f"The {caller} has as many {what} as one may have: {most}. Let one of them end."
    return ProblemError(429, detail, headers={"Retry-After": "5"})
