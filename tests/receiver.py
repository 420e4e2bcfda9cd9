"""An HTTP server for notifications and for the calls of a dead man's switch."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Receiver:
    """Several services, each with its own path.

    Attributes:
        received: the accepted messages: the path of the service, and what Apprise's `json://` sent.
        called: the paths of GET requests.
        refusing: the services that accept nothing, with the status of their answer.
        delay: seconds before an answer.
    """

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.called: list[str] = []
        self.refusing: dict[str, int] = {}
        self.delay = 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = self.path.strip("/")
                time.sleep(receiver.delay)
                if name not in receiver.refusing:
                    receiver.received.append((name, message))
                self._answer(receiver.refusing.get(name, 200))

            def do_GET(self) -> None:
                receiver.called.append(self.path)
                time.sleep(receiver.delay)
                self._answer(receiver.refusing.get(self.path.strip("/"), 200))

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def url(self, name: str = "ops", user: str = "") -> str:
        """Return the address of a service for NOTIFY_URLS."""
        return f"json://{user}{'@' if user else ''}{self.address}/{name}"

    def titles(self, name: str = "ops") -> list[str]:
        """Return the titles of the messages to a service."""
        return [message["title"] for service, message in self.received if service == name]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
