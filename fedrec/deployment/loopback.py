"""A few answers over HTTP, to this machine alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from fedrec.errors import ServerError

Answer = Callable[[str, str, bytes], tuple[str, bytes] | None]
"""From method, path and body to content type and content; None is 404."""

_MAX_BODY = 2**16


class Loopback:
    """Serves from a thread of its own, on 127.0.0.1; a context manager.

    Args:
        answer: what is answered; any error in it is 404 too.
        port: 0 takes a free one.

    Raises:
        ServerError: if the port is taken.
    """

    def __init__(self, answer: Answer, port: int = 0) -> None:
        try:
            self._server = _Server(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ServerError(f"Cannot listen at 127.0.0.1:{port}: {error.strerror}; choose another port.") from error
        self._server.answer = answer
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Loopback:
        threading.Thread(target=self._server.serve_forever, name=f"loopback {self.url}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Answer


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        size = self.headers.get("Content-Length", "0")
        fits = size.isdecimal() and int(size) <= _MAX_BODY
        try:
            found = self.server.answer(self.command, self.path, self.rfile.read(int(size))) if fits else None
        except (ValueError, KeyError, TypeError):  # a body of another form, or a folder that cannot be read
            found = None
        kind, content = found or ("application/json", b"{}")
        self.send_response(HTTPStatus.NOT_FOUND if found is None else HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""
