"""The API behind the proxies of orchestrate/deploy/proxy, over TLS: `make test-edge`."""

import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from api.auth import Role
from api.token import make_token
from database.environment import ROOT
from tests.api.conftest import DefaultSettings, serving
from tests.conftest import free_port
from tests.runs import add_run

pytestmark = pytest.mark.edge

PROXY = ROOT / "orchestrate/deploy/proxy"
SEARCHED = f"{os.environ['PATH']}:/usr/sbin"
CADDY, NGINX = shutil.which("caddy", path=SEARCHED), shutil.which("nginx", path=SEARCHED)
needs_caddy = pytest.mark.skipif(CADDY is None, reason="caddy is not installed: make test-edge")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: make test-edge")

Proxy = Callable[[str, str, Path], AbstractContextManager[ssl.SSLContext]]


@contextmanager
def running(
    command: list[str], address: str, verify: ssl.SSLContext | bool, **env: str
) -> Iterator[None]:
    process = subprocess.Popen(command, env=os.environ | env)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"{address}/health/live", verify=verify).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, "the proxy ended"
                assert time.monotonic() < end, "the proxy does not answer"
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def caddy(upstream: str, public: str, folder: Path) -> Iterator[ssl.SSLContext]:
    """Run Caddy with a CA of its own, and give who trusts that."""
    assert CADDY is not None
    root = folder / "caddy/pki/authorities/local/root.crt"
    command = [CADDY, "run", "--adapter", "caddyfile", "--config", str(PROXY / "Caddyfile")]
    settings = {
        "API_PUBLIC_URL": public,
        "API_UPSTREAM": upstream,
        "CADDY_TLS": "tls internal",
        "CADDY_HTTP_PORT": free_port(),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    with running(command, public, verify=False, **settings):
        yield ssl.create_default_context(cafile=root)


@contextmanager
def nginx(upstream: str, public: str, folder: Path) -> Iterator[ssl.SSLContext]:
    """Run nginx with the example, whose names and files are the test's."""
    certificate, key = folder / "site.pem", folder / "site.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subject = ["-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *subject, *files], check=True, capture_output=True)
    text = (PROXY / "nginx.conf").read_text()
    for example, ours in (
        ("127.0.0.1:8000", upstream),
        ("listen 443", f"listen {public.rpartition(':')[2]}"),
        ("listen 80", f"listen {free_port()}"),
        ("/etc/ssl/certs/crm.example.com.pem", str(certificate)),
        ("/etc/ssl/private/crm.example.com.key", str(key)),
        ("server_name crm.example.com", "server_name localhost"),
    ):
        assert example in text
        text = text.replace(example, ours)
    context = ssl.create_default_context(cafile=certificate)
    with running(nginx_command(folder, text), public, context):
        yield context


def nginx_command(folder: Path, servers: str) -> list[str]:
    assert NGINX is not None
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in paths)
    main = f"pid {folder}/pid; daemon off; error_log stderr; events {{}}"
    configuration = folder / "nginx.conf"
    configuration.write_text(f"{main} http {{ access_log off; {temporary} {servers} }}")
    return [NGINX, "-c", str(configuration)]


@pytest.mark.parametrize(
    "proxy", [pytest.param(caddy, marks=needs_caddy), pytest.param(nginx, marks=needs_nginx)]
)
def test_people_sign_in_through_the_proxy_and_others_do_not(
    proxy: Proxy, database: str, tmp_path: Path
) -> None:
    public = f"https://localhost:{free_port()}"
    settings = DefaultSettings.model_validate({"api_public_url": public})
    token = make_token(database, Role.ADMIN, timedelta(hours=1))
    with (
        serving(database, settings) as address,
        proxy(address.removeprefix("http://"), public, tmp_path) as trust,
        httpx.Client(base_url=public, verify=trust, timeout=30) as browser,
    ):
        forged = {"Origin": public, "Sec-Fetch-Site": "same-origin", "X-Forwarded-For": "192.0.2.9"}
        signed_in = browser.post("/sign-in", data={"token": token}, headers=forged)
        assert signed_in.status_code == 303
        assert re.match("__Host-session=.*; Secure", signed_in.headers["set-cookie"])
        assert "max-age" in signed_in.headers["strict-transport-security"]
        assert browser.get("/opportunities").status_code == 200
        (entry,) = browser.get("/api/audit", params={"action": "sign in"}).json()
        assert entry["address"] == "127.0.0.1", "not what the client says of itself"

        slashed = browser.get("/api/opportunities/")
        assert slashed.headers["location"] == "/api/opportunities"
        for other in ("https://evil.example", "null"):
            refused = browser.post("/sign-out", headers={"Origin": other})
            assert refused.status_code == 403
        assert browser.post("/score", content=b" " * 2_000_000).status_code == 413

        run_id = add_run(database, lasted=None)
        with browser.stream("GET", f"/api/sync-runs/{run_id}/events") as events:
            assert next(events.iter_lines()), "it arrives as it is sent"


@needs_nginx
def test_forms_work_behind_a_plain_nginx(database: str, tmp_path: Path) -> None:
    port = free_port()
    token = make_token(database, Role.ADMIN, timedelta(hours=1))
    # As browsers write it at the address that the proxy has for them.
    headers = {"Origin": "https://crm.example.com", "Sec-Fetch-Site": "same-origin"}
    with serving(database, DefaultSettings()) as address:
        servers = f"server {{ listen {port}; location / {{ proxy_pass {address}; }} }}"
        at = f"http://127.0.0.1:{port}"
        with running(nginx_command(tmp_path, servers), at, verify=False):
            answer = httpx.post(f"{at}/sign-in", data={"token": token}, headers=headers)
            assert answer.status_code == 303
            headers["Sec-Fetch-Site"] = "cross-site"
            answer = httpx.post(f"{at}/sign-in", data={"token": token}, headers=headers)
            assert answer.status_code == 403
