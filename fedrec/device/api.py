"""The loopback API: apps on the same device get recommendations, and tell what happens, over HTTP.

    GET  /v1/recommendations?k=20&diversity=0&novelty=0&reasons=3
    POST /v1/interactions      {"item": "i1", "at": 1700000000, "rating": 4.5}   (all but item may be left out)
    POST /v1/feedback          {"item": "i1", "kind": "liked"}                   (or skipped, or hidden)
    GET  /v1/budget?check=false
    GET  /v1/status

Every request carries ``Authorization: Bearer TOKEN``, the content of ``keys/api-token``. An error is one sentence:
``{"error": "…"}``.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from fedrec.data.home import put_new
from fedrec.device import history, received, telling
from fedrec.device.budget import look
from fedrec.device.home import DeviceHome
from fedrec.device.recommend import Adviser
from fedrec.device.store import Store, check_private
from fedrec.errors import DataError, DeviceError, FedrecError, Refusal, UsageError
from fedrec.sections import Section

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")
"""The names under which the API answers. A page of another site can make its own name mean this address (DNS
rebinding), but it cannot make a browser send another Host than that name."""

MAX_BODY = 16_384
"""Bytes of a request's body."""

_TOKEN_BYTES = 32
_LOG = logging.getLogger(__name__)


class Met(Section):
    """What the user has met: an item, and when and how it was liked where that is known."""

    item: str
    at: int | None = None
    rating: float | None = None


class Opinion(Section):
    """What the user thinks of an item."""

    item: str
    kind: history.Feedback
    at: int | None = None


Dial = Annotated[float, Query(ge=0, le=1)]


def api_token(home: DeviceHome) -> str:
    """The token of a device's API, made at first use (``keys/api-token``, mode 0600); remove the file for another.

    Raises:
        DeviceError: if the file does not hold one, or others can read it.
    """
    path = home.keys / "api-token"
    if not path.exists():
        put_new(path, secrets.token_urlsafe(_TOKEN_BYTES).encode())
    check_private(path, "600")
    token = path.read_text(encoding="ascii", errors="replace").strip()
    if len(token) < _TOKEN_BYTES:
        raise DeviceError(f"'{path}' does not hold a token; remove it and a new one is made.")
    return token


def create_app(home: DeviceHome, token: str) -> FastAPI:
    """The API of a device, to be served on the loopback address alone.

    Guarantees:
        Without the token nothing is answered or written. It is compared in constant time, and before anything else of
        a request is looked at but its Host, which must be one of `HOSTS`. There is no cross-origin access.
    """

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        with home.open_store() as store:
            app.state.home, app.state.store, app.state.adviser = home, store, Adviser(store)
            yield

    app = FastAPI(lifespan=opened, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, token=token)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(FedrecError, _said)
    app.add_exception_handler(Exception, _unforeseen)
    app.get("/v1/recommendations")(recommendations)
    app.post("/v1/interactions", status_code=201)(interactions)
    app.post("/v1/feedback", status_code=201)(feedback)
    app.get("/v1/budget")(budget)
    app.get("/v1/status")(status)
    return app


# All of them are coroutines, so that they run one after the other in one thread: an Adviser is not for several.


async def recommendations(
    request: Request,
    k: Annotated[int, Query(ge=1, le=1000)] = 20,
    diversity: Dial = 0.0,
    novelty: Dial = 0.0,
    reasons: Annotated[int, Query(ge=0, le=20)] = 3,
) -> JSONResponse:
    """The best items, as `fedrec.device.recommend.Adviser.top` has them."""
    adviser: Adviser = request.app.state.adviser
    found = adviser.top(k, diversity=diversity, novelty=novelty, most_reasons=reasons)
    return JSONResponse(telling.recommendations(found))


async def interactions(request: Request, met: Met) -> dict[str, bool]:
    """Write down that the user has met an item; told twice, it is one event."""
    return {"new": history.record(request.app.state.store, met.item, "seen", met.at, met.rating, source="api")}


async def feedback(request: Request, opinion: Opinion) -> dict[str, bool]:
    """Write down what the user thinks of an item; the latest word counts."""
    return {"new": history.feedback(request.app.state.store, opinion.item, opinion.kind, opinion.at)}


async def budget(request: Request, check: bool = False) -> JSONResponse:
    """What was spent, and if asked for, what the server's ledger says of it."""
    return JSONResponse(telling.budget(*look(request.app.state.home, request.app.state.store, check=check)))


async def status(request: Request) -> dict[str, Any]:
    """What the store holds."""
    store: Store = request.app.state.store
    about = received.about(store)
    return {"history": asdict(history.counts(store)), "model": about}


class Guard:
    """Lets a request in that is meant for this address, carries the token and has a small body; an ASGI middleware."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refused := self._refused(scope)) is not None:
            await refused(scope, receive, send)
        elif scope["type"] in ("http", "lifespan"):  # there are no websockets here
            await self._app(scope, receive, send)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host, _, port = headers.get("host", "").partition(":")
        if len(headers.getlist("host")) != 1 or host not in HOSTS or not (port.isdecimal() or not port):
            return _error(421, f"This API answers to the hosts {' and '.join(HOSTS)} alone.")
        if not hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), self._token):
            return _error(401, "Send the header 'Authorization: Bearer TOKEN' with the content of keys/api-token.")
        if scope["method"] == "POST":
            if "transfer-encoding" in headers:
                return _error(411, "A body comes with its Content-Length and no Transfer-Encoding.")
            length = headers.get("content-length", "")
            if not (length.isascii() and length.isdecimal()):
                return _error(411, "A body comes with its Content-Length.")
            if len(length) > 9 or int(length) > MAX_BODY:
                return _error(413, f"A body has at most {MAX_BODY} bytes.")
        return None


def serve(home: DeviceHome, port: int, say: Callable[[str], None]) -> None:
    """Serve a device's API on the loopback address until the process is told to stop.

    Args:
        home: the device.
        port: 0 takes a free one.
        say: told where the API is, once it can be reached.

    Raises:
        DeviceError: if the port is taken, or the store cannot be opened.
    """
    home.open_store().close()  # what is wrong with it is said here, and not in a server's log
    running = server(home)
    try:
        listening = socket.create_server((ADDRESS, port))
    except OSError as error:
        raise DeviceError(f"Cannot listen at {ADDRESS}:{port} ({error.strerror}); take another --port.") from error
    with listening:
        where = listening.getsockname()[1]
        say(f"http://{ADDRESS}:{where}/v1, for whoever can read {home.keys / 'api-token'}")
        running.run(sockets=[listening])


def server(home: DeviceHome) -> uvicorn.Server:
    """The server of a device's API, to be given a socket of the loopback address."""
    config = uvicorn.Config(
        create_app(home, api_token(home)),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=32,
    )
    return uvicorn.Server(config)


def _error(code: int, sentence: str) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if code == 401 else None
    return JSONResponse({"error": sentence}, code, headers)


def _not_valid(_: Request, error: Exception) -> JSONResponse:
    first: Mapping[str, Any] = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    if first.get("type") == "json_invalid":
        return _error(422, "The body is not JSON.")
    where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    return _error(422, f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}.")


def _http(request: Request, error: Exception) -> JSONResponse:
    code = error.status_code if isinstance(error, HTTPException) else 404
    if code in (404, 405):
        return _error(code, f"{request.method} {request.url.path} is nothing that this API does.")
    return _error(code, "The request cannot be read; send JSON in UTF-8.")


def _said(_: Request, error: Exception) -> JSONResponse:
    codes = ((Refusal, 409), (UsageError, 400), (DataError, 400), (DeviceError, 503))
    return _error(next((code for kind, code in codes if isinstance(error, kind)), 500), str(error))


def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    _LOG.error("an error of fedrec", exc_info=error)
    return _error(500, "Something unforeseen went wrong; what 'fedrec device serve' has printed says more.")
