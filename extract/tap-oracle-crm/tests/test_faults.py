"""What goes wrong on the way: retried where that helps, else one clear line."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import socketserver
import threading
import time
from typing import Any

import pytest
from tap_oracle_crm.crm import Crm
from tap_oracle_crm.errors import GaveUpError
from tap_user import TapUser

FIRST_PAGE = "orderBy=LastUpdateDate:desc"
SCAN = "orderBy=OptyId:asc"


PASSING = [
    {"kind": "throttle", "retry_after": 1},
    {"kind": "throttle", "retry_after": 1, "as_date": True},
    {"kind": "throttle", "status": 503, "retry_after": 0},
    {"kind": "throttle", "status": 503, "retry_after": None},
    {"kind": "error", "status": 500},
    {"kind": "error", "status": 502, "body": "html"},
    {"kind": "error", "status": 504, "body": "text"},
    {"kind": "html"},
    {"kind": "empty_body"},
    {"kind": "reset"},
    {"kind": "reset", "at": "middle"},
    {"kind": "truncate"},
    {"kind": "truncate", "framing": "chunked"},
    {"kind": "invalid_json"},
    {"kind": "stall", "seconds": 3},
    {"kind": "stall", "seconds": 3, "at": "middle"},
    {"kind": "drip"},
    {"kind": "error", "status": 400, "body": "empty"},
    {"kind": "error", "status": 400, "body": "structured", "detail": "Bad Request"},
]


@pytest.mark.parametrize(
    ("fault", "where"),
    [(fault, SCAN) for fault in PASSING] + [(fault, FIRST_PAGE) for fault in PASSING[4::3]],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_passing_trouble_costs_no_record(tap: TapUser, fault: dict[str, Any], where: str) -> None:
    catalog = tap.discover()
    tap.crm.fault(**fault, next=1, query=where)
    output = tap.sync(catalog=catalog, request_timeout=1, page_size=200)
    assert output.error is None
    assert set(output.by_key()) == set(tap.expected(["OptyId"]))
    assert tap.crm.faults()[0]["fired"] == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(tap: TapUser, as_date: bool) -> None:
    catalog = tap.discover()
    tap.crm.fault("throttle", retry_after=2, as_date=as_date, next=1)
    output = tap.sync(catalog=catalog)
    assert output.error is None
    assert "attempt 2" in output.log
    assert any(f"in {seconds}" in output.log for seconds in ("1.", "2."))


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "begin",
    [
        OK + b"X-Slow: ",
        b"HTTP/1.1 100 Continue\r\nX-Slow: ",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Slow: ",
        OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03",
        OK + b"Content-Length: 1000\r\n\r\n",
    ],
    ids=["header", "continue", "chunk size", "trailer", "gzip header", "body"],
)
def test_an_answer_that_drips_is_over_in_time(tap: TapUser, begin: bytes) -> None:
    class Dripping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(begin)
            with contextlib.suppress(OSError):
                for _ in range(200):
                    time.sleep(0.1)
                    self.request.sendall(b"0")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        settings = tap.config(base_url=address, request_timeout=1, max_retries=0)
        begun = time.monotonic()
        with Crm(settings) as crm, pytest.raises(GaveUpError, match="no full answer within 1 s"):
            crm.count()
        took = time.monotonic() - begun
        server.shutdown()
    assert took < 15, "it would drip for 20 s"


def test_retry_after_does_not_shorten_the_growing_pauses(
    tap: TapUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_oracle_crm.client.FIRST_PAUSE_SECONDS", 1.0)
    catalog = tap.discover()
    tap.crm.fault("throttle", retry_after=0)
    output = tap.sync(catalog=catalog, max_retries=6)
    pauses = [float(text) for text in re.findall(r"attempt \d+ of \d+ in ([\d.]+) s", output.log)]
    assert len(pauses) == 6
    assert max(pauses) > 0.3, "without growth they would end at a quarter of a second"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "error", "status": 500}, "HTTP 500"),
        ({"kind": "html"}, "HTML page"),
        ({"kind": "empty_body"}, "empty answer"),
        ({"kind": "invalid_json"}, "cut off"),
        ({"kind": "throttle", "retry_after": 0}, "HTTP 429"),
    ],
)
def test_lasting_trouble_ends_in_one_clear_line(
    tap: TapUser, fault: dict[str, Any], words: str
) -> None:
    catalog = tap.discover()
    tap.crm.fault(**fault)
    output = tap.sync(catalog=catalog, max_retries=2)
    assert output.error is not None
    assert words in output.error
    assert "3 attempts" in output.error
    assert "\n" not in output.error


def test_trouble_half_way_keeps_what_was_read_and_the_bookmark(tap: TapUser) -> None:
    catalog = tap.discover()
    first = tap.sync(catalog=catalog)
    tap.crm.clock(3600)
    tap.crm.mass_update(1000)
    tap.crm.fault("error", status=500, after=4)
    broken = tap.sync(first.state, catalog, page_size=100, max_retries=1)
    assert broken.error is not None
    assert 0 < len(broken.records()) < 1000
    assert broken.bookmark["replication_key_value"] == first.bookmark["replication_key_value"]
    tap.crm.clear_faults()
    rest = tap.sync(broken.state, catalog, page_size=100)
    assert broken.by_key() | rest.by_key() == tap.sync(catalog=catalog).by_key()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "ORACLE_PASS"),
        (403, "role"),
        (404, "api_version"),
        (400, "the reason why"),
        (406, "HTTP 406"),
    ],
)
def test_refusals_are_final(tap: TapUser, status: int, words: str) -> None:
    catalog = tap.discover()
    tap.crm.clear_requests()
    tap.crm.fault("error", status=status, body="structured", detail="the reason why")
    output = tap.sync(catalog=catalog)
    assert output.error is not None
    assert words in output.error
    assert str(status) in output.error
    # If a part of the request may be refused, the request without parts is refused too; if an
    # attribute may be gone, so is the request for the key alone.
    assert tap.crm.requests()["total"] == {400: 5, 406: 4}.get(status, 1)


def test_a_wordless_400_is_tried_once_more(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.clear_requests()
    tap.crm.fault("error", status=400, body="empty", path="/opportunities$")
    assert "without a word" in str(tap.sync(catalog=catalog).error)
    # So are the four requests that search for the refused part.
    assert tap.crm.requests()["by_kind"]["opportunities"] == 10


def test_an_unreachable_host_is_reported_soon(tap: TapUser) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = tap.sync(base_url=f"http://127.0.0.1:{port}")
    assert output.error is not None
    assert "ORACLE_BASE_URL" in output.error
    assert "refused" in output.error
    assert "3 attempts" in output.error


@pytest.mark.parametrize("address", ["https://crm..example.com", f"https://{'a' * 70}.example.com"])
def test_a_host_that_cannot_be_is_named(tap: TapUser, address: str) -> None:
    error = str(tap.sync(base_url=address).error)
    assert "Cannot ask" in error
    assert "ORACLE_BASE_URL" in error


def test_progress_is_told_while_pages_and_children_are_read(
    tap: TapUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_oracle_crm.progress.PROGRESS_SECONDS", 0.2)
    tap.crm.reset(records=100)
    tap.crm.fault("latency", ms=50)
    output = tap.sync(streams=("opportunities", "revenue_lines"), page_size=25)
    lines = [line for line in output.log.splitlines() if "rows/s" in line]
    of_deals = [line for line in lines if "% of 100, about" in line]
    assert len(of_deals) >= 2
    assert len(lines) - len(of_deals) >= 4, "children have lines of their own"


class Careless(http.server.BaseHTTPRequestHandler):
    """A server that ignores `q` and `orderBy`: each page is the same."""

    keys: list[int]

    def do_GET(self) -> None:
        stamp = "2026-01-01T00:00:00+00:00"
        items = [{"OptyId": key, "LastUpdateDate": stamp} for key in self.keys]
        body = json.dumps({"items": items, "limit": len(items), "hasMore": True}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("keys", "words"), [([1, 2, 3], "filter was ignored"), ([3, 1, 2], "not in the order")]
)
def test_a_server_that_ignores_filter_or_order_is_found_out(
    tap: TapUser, keys: list[int], words: str
) -> None:
    handler = type("Handler", (Careless,), {"keys": keys})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        output = tap.sync(base_url=f"http://127.0.0.1:{server.server_port}", catalog=tap.discover())
        server.shutdown()
    assert words in str(output.error)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "stall", "seconds": 3},
        {"kind": "stall", "seconds": 3, "at": "middle"},
        {"kind": "drip"},
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_pages_shrink_after_a_time_out(tap: TapUser, fault: dict[str, Any]) -> None:
    catalog = tap.discover()
    tap.crm.fault(**fault, next=1)
    output = tap.sync(catalog=catalog, page_size=400, request_timeout=1)
    assert len(output.by_key()) == 1000
    assert "pages of 200 rows" in output.log


def test_pages_shrink_after_a_gateway_time_out(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("error", status=504, next=1)
    tap.crm.fault("latency", ms=600, next=1)
    assert "pages of 200 rows" in tap.sync(catalog=catalog, page_size=400, request_timeout=1).log


def test_gateways_that_fail_at_once_make_no_page_smaller(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.clear_requests()
    tap.crm.fault("error", status=502, every=4)
    output = tap.sync(catalog=catalog, page_size=100)
    assert len(output.by_key()) == 1000
    assert "pages of" not in output.log
    assert tap.crm.requests()["total"] < 25


def test_pages_grow_again(tap: TapUser) -> None:
    tap.crm.reset(records=2000)
    catalog = tap.discover()
    tap.crm.fault("stall", seconds=3, next=1, after=2)
    output = tap.sync(catalog=catalog, page_size=100, concurrency=1, request_timeout=1)
    assert len(output.by_key()) == 2000
    assert "pages of 50 rows for now" in output.log
    assert "pages of 100 rows again" in output.log
