"""Counters of the requests to the CRM, for tests."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass

from .rest import ROOT, TOKEN_PATH

_REMEMBERED = 500


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer; ``bytes`` as sent, after compression."""

    kind: str
    method: str
    path: str
    query: str
    status: int
    rows: int
    bytes: int
    gzip: bool
    milliseconds: float


def kind_of(path: str) -> str:
    """``opportunities``, ``opportunities/describe``, ``opportunities/item``, ``token``..."""
    if path == TOKEN_PATH:
        return "token"
    if not path.startswith(ROOT):
        return "other"
    match path.removeprefix(ROOT).strip("/").split("/"):
        case [""]:
            return "versions"
        case [_, name]:
            return name
        case [_, name, "describe"]:
            return f"{name}/describe"
        case [_, name, _]:
            return f"{name}/item"
        case [_, name, _, "child", child]:
            return f"{name}/child/{child}"
    return "other"


class Traffic:
    """Counters since the start or the last :meth:`clear`."""

    def __init__(self) -> None:
        self.open = 0
        self.clear()

    def clear(self) -> None:
        """Reset the counters to zero."""
        self.kinds: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.bytes = self.rows = 0
        self._connections: set[int] = set()
        self.most_at_once = self.open
        self.last: deque[Exchange] = deque(maxlen=_REMEMBERED)

    def begin(self, connection: int) -> None:
        """Count a request on the connection with this number."""
        self._connections.add(connection)
        self.open += 1
        self.most_at_once = max(self.most_at_once, self.open)

    def end(self) -> None:
        """Count a request as ended, with or without an answer."""
        self.open -= 1

    def record(self, exchange: Exchange) -> None:
        """Count an exchange; status 0 means that the connection was cut before an answer."""
        self.kinds[exchange.kind] += 1
        self.statuses[str(exchange.status)] += 1
        self.bytes += exchange.bytes
        self.rows += exchange.rows
        self.last.append(exchange)

    def report(self) -> dict[str, object]:
        """Return the answer to ``GET /_sandbox/requests``."""
        return {
            "total": sum(self.kinds.values()),
            "by_kind": dict(self.kinds),
            "by_status": dict(self.statuses),
            "bytes": self.bytes,
            "rows": self.rows,
            "connections": len(self._connections),
            "max_concurrent": self.most_at_once,
            "last": [asdict(exchange) for exchange in self.last],
        }
