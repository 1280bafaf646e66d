"""The nginx configuration: a real nginx in front of a real TLS server that notes what comes through."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from fedrec.deployment.certificates import new_ca, new_server

CONFIGURATION = Path(__file__).parents[2] / "server/nginx.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


class Front(NamedTuple):
    """A running nginx: its port, the authority that signed it, and the request lines that got through it."""

    port: int
    ca: Path
    passed: list[str]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def gateway(folder: Path, passed: list[str]) -> ThreadingHTTPServer:
    """A TLS server on loopback that answers 200 with the body it was sent."""

    class Noting(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            passed.append(self.requestline)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Noting)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder, now = tmp_path_factory.mktemp("nginx"), datetime.now(UTC)
    ca = new_ca("localhost", now)
    pair = new_server(ca, ["localhost", "127.0.0.1"], now)
    (folder / "ca.pem").write_bytes(ca.certificate)
    (folder / "server.pem").write_bytes(pair.certificate + pair.key)  # one file, as a server's folder has it
    passed: list[str] = []
    upstream, port = gateway(folder, passed), free_port()
    site = CONFIGURATION.read_text().replace("/etc/fedrec/", f"{folder}/").replace("9443", f"127.0.0.1:{port}")
    site = site.replace("server.example.org", "localhost").replace(
        "127.0.0.1:9444", f"127.0.0.1:{upstream.server_port}"
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    main = folder / "nginx.conf"
    before = f"user root; daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}"
    main.write_text(f"{before}\nhttp {{\n{temporary}\n{site}\n}}\n")
    assert NGINX is not None
    command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(main)]
    checked = subprocess.run([*command, "-t"], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    running = subprocess.Popen(command)
    try:
        wait_for(port)
        yield Front(port, folder / "ca.pem", passed)
    finally:
        running.terminate()
        running.wait(timeout=10)
        upstream.shutdown()
        upstream.server_close()


def wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nginx does not listen")


def connect(front: Front, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    context = context or ssl.create_default_context(cafile=front.ca)
    link = socket.create_connection(("127.0.0.1", front.port), timeout=10)
    return context.wrap_socket(link, server_hostname="localhost")


def ask(front: Front, line: str, body: bytes = b"", headers: str = "") -> int:
    """The status of one request whose first line is sent as it is."""
    with connect(front) as link:
        fields = f"Host: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}"
        link.sendall(f"{line} HTTP/1.1\r\n{fields}\r\n".encode("latin-1") + body)
        return int(link.makefile("rb").readline().split()[1])


FLEET = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "confirm-message-received",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
)
SERVED = ("publication", "roster", "experiment", "catalogue", "model", "ledger", "ledger-checkpoint", "seats")


def test_what_devices_need_passes_unchanged(front: Front) -> None:
    lines = [f"POST /v1/fleet/{name}" for name in FLEET] + [f"GET /fedrec/v1/{name}" for name in SERVED]
    front.passed.clear()
    assert [ask(front, line, b"a body") for line in lines] == [200] * len(lines)
    assert front.passed == [f"{line} HTTP/1.1" for line in lines]


@pytest.mark.parametrize(
    "line",
    [
        "GET /",
        "GET /v1/fleet/pull-messages",
        "PUT /v1/fleet/pull-messages",
        "POST /v1/fleet/register-node",
        "POST /v1/fleet/unregister-node",
        "POST /v1/fleet/pull-messages/",
        "POST /v1/fleet/pull-messages?x=1",
        "POST /v1/fleet/../control/start-run",
        "POST /v1/control/start-run",
        "POST /v1/control/..%2ffleet/pull-messages",
        "POST /v1/control/../fleet/pull-messages",
        "POST /v1/fleet/%70ull-messages",
        "POST //v1/fleet/pull-messages",
        "POST /v1//fleet/pull-messages",
        "POST /v1/./fleet/pull-messages",
        "POST /V1/FLEET/PULL-MESSAGES",
        "POST /v1/runtime/pull-task",
        "POST https://localhost/v1/control/start-run",
        "GET /health",
        "GET /docs",
        "GET /fedrec/v1/enrol",
        "POST /fedrec/v1/model",
        "GET /fedrec/v1/modelx",
        "GET /fedrec/v1/../v1/model",
        "GET /fedrec/v1/%65nrol",
        "POST /fedrec/v1/%65nrol",
        "POST /fedrec//v1/enrol",
    ],
)
def test_nothing_else_reaches_the_gateway(front: Front, line: str) -> None:
    front.passed.clear()
    assert ask(front, line) == 404
    assert front.passed == []


def test_a_request_hidden_behind_another_does_not_pass(front: Front) -> None:
    front.passed.clear()
    hidden = b"0\r\n\r\nPOST /v1/control/start-run HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert ask(front, "POST /v1/fleet/get-run", hidden, "Transfer-Encoding: chunked\r\n") == 400
    assert front.passed == []


def test_an_enrolment_is_small_and_a_burst_of_them_is_slowed(front: Front) -> None:
    assert ask(front, "POST /fedrec/v1/enrol", b"x" * 65_537) == 413
    assert 429 in [ask(front, "POST /fedrec/v1/enrol", b"{}") for _ in range(15)]


def test_only_tls_that_is_still_safe_is_spoken(front: Front) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=front.ca)
        context.minimum_version = context.maximum_version = version
        with connect(front, context) as link:
            assert link.version() == version.name.replace("_", ".")
    plain = socket.create_connection(("127.0.0.1", front.port), timeout=10)
    with plain:
        plain.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert b" 400 " in plain.makefile("rb").readline()
