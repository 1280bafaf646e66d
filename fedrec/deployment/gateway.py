"""The one door to a server: TLS, enrolment, what devices may fetch, and Flower's Fleet interface behind it.

Flower serves its Fleet, Control and Runtime interfaces on one port and authenticates only the first, so its SuperLink
listens on loopback, and this passes on exactly the calls that an enrolled device makes. Hop-by-hop headers (RFC 9110,
section 7.6.1) never pass, and both sides' messages are framed anew, so that no two readers disagree where one ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from base64 import b64decode
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fedrec.agreements.access import check_access
from fedrec.agreements.enrolment import read_enrolment
from fedrec.deployment.published import Document
from fedrec.deployment.registry import Device, Registry
from fedrec.errors import AgreementError, FedrecError, Refusal

FLEET = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
"""What a SuperNode with a key of its own calls. Registering nodes is not among it: that is what enrolment does."""

OWN = "/fedrec/v1/"
DOCUMENTS = ("publication", "roster", "experiment", "catalogue", "model", "ledger", "ledger-checkpoint", "seats")
_SERVED = {OWN + name: name for name in DOCUMENTS}

MAX_FLEET = 2**26
"""Bytes of a call; Flower sends larger values in parts of 5 MiB."""
MAX_ENROLMENT = 2**14
_SECONDS = 300.0
"""For a request to come whole, and again for its answer to go."""
_ENROLMENT_SECONDS = 10.0
_FAILURES = 10
"""Failed enrolments of one address in a minute, after which it waits."""

_ADDRESS = 45
"""Characters of the longest IP address."""

_log = logging.getLogger("fedrec.gateway")


@dataclass(frozen=True)
class Upstream:
    """Where the SuperLink listens: its URL, and the certificate (PEM file) that it must show; None without TLS."""

    url: str
    ca: Path | None


@dataclass
class Failures:
    """Counts failed enrolments by address, of the last minute and of at most 10,000 in all."""

    recent: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=10_000))

    def too_many(self, address: str, now: float) -> bool:
        while self.recent and self.recent[0][0] < now - 60:
            self.recent.popleft()
        return sum(other == address for _, other in self.recent) >= _FAILURES

    def add(self, address: str, now: float) -> None:
        self.recent.append((now, address))


class Gateway:
    """The ASGI application.

    Guarantees:
        A path is compared as it was sent, byte by byte: an escaped, doubled, absolute or queried one is another path,
        and every path but those of `FLEET`, enrolment and `DOCUMENTS` is answered 404. A call of `FLEET` passes only
        with the node key of a device that is enrolled and not revoked (Flower checks that it is also signed with it).
        A document is given only to such a device, by its signature. Nothing of an error but a code leaves the server.

    Args:
        registry: who is enrolled.
        server: the public half of the request key, 32 bytes, which devices name in what they sign.
        document: a document of `DOCUMENTS` for a device; None while there is none.
        register_node: makes a node key (PEM) known to Flower, as often as it is called, and returns the node's id.
        upstream: where the SuperLink is now; None while it is down.
        clock: unix seconds.
        proxy: the address of a proxy in front, whose X-Real-IP is believed; nobody else's is.
    """

    def __init__(
        self,
        registry: Registry,
        server: bytes,
        document: Callable[[str, Device], Document | None],
        register_node: Callable[[bytes], str],
        upstream: Callable[[], Upstream | None],
        clock: Callable[[], float] = time.time,
        proxy: str | None = None,
    ) -> None:
        self._registry, self._server, self._document = registry, server, document
        self._register_node, self._upstream, self._clock = register_node, upstream, clock
        self._proxy = proxy
        self._client: tuple[Upstream, httpx.AsyncClient] | None = None
        self._failures = Failures()
        self._heavy = asyncio.Semaphore(8)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            response = await self._answer(Request(scope, receive))
            try:
                async with asyncio.timeout(_SECONDS):
                    await response(scope, receive, send)
            except (TimeoutError, httpx.HTTPError, asyncio.CancelledError) as error:
                _log.warning("answer broken off: %s", type(error).__name__)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            over = message["type"] == "lifespan.shutdown"
            if over and self._client is not None:
                await self._client[1].aclose()
            await send({"type": f"{message['type']}.complete"})  # after which the loop may end
            if over:
                return

    async def _answer(self, request: Request) -> Response:  # noqa: PLR0911 - a status each
        path = request.scope["raw_path"].decode("latin-1")
        if request.scope["query_string"]:
            return Response(status_code=404)
        if path in FLEET:
            method, work = "POST", self._fleet
        elif path == OWN + "enrol":
            method, work = "POST", self._enrol
        elif path in _SERVED:
            method, work = "GET", self._serve
        else:
            return Response(status_code=404)
        if request.method != method:
            return Response(status_code=405)
        try:
            async with asyncio.timeout(_SECONDS):
                return await work(request, path)
        except (TimeoutError, ClientDisconnect):
            return Response(status_code=408)
        except asyncio.CancelledError:  # uvicorn ends and has waited long enough; the device asks again
            return Response(status_code=503)
        except FedrecError as error:
            _log.error("%s: %s", path, error)
            return Response(status_code=503)

    # Flower

    async def _fleet(self, request: Request, path: str) -> Response:
        try:
            key = b64decode(request.headers.get("flwr-public-key", ""), validate=True)
        except ValueError:
            key = b""
        if await run_in_threadpool(self._registry.of_node, key) is None:
            return Response(status_code=401)
        upstream = self._upstream()
        if upstream is None:
            return Response(status_code=503)
        client = await self._client_of(upstream)
        headers = _passed(request.headers) | {"accept-encoding": "identity"}
        try:
            call = client.build_request("POST", path, headers=headers, content=_limited(request.stream()))
            answer = await client.send(call, stream=True)
        except _TooLargeError:
            return Response(status_code=413)
        except httpx.HTTPError as error:
            _log.warning("%s: the SuperLink does not answer (%s)", path, type(error).__name__)
            return Response(status_code=503)
        return StreamingResponse(_whole(answer), answer.status_code, _passed(answer.headers))

    async def _client_of(self, upstream: Upstream) -> httpx.AsyncClient:
        """A client for the SuperLink as it is now; it has another certificate when it is started again."""
        if self._client is None or self._client[0] != upstream:
            if self._client is not None:
                await self._client[1].aclose()
            trust = ssl.create_default_context(cafile=upstream.ca) if upstream.ca else False
            limits = httpx.Limits(max_connections=256, max_keepalive_connections=32)
            client = httpx.AsyncClient(
                base_url=upstream.url,
                verify=trust,
                limits=limits,
                timeout=60.0,
                trust_env=False,
                cookies=CookieJar(
                    DefaultCookiePolicy(allowed_domains=[])
                ),  # nothing of one device's calls for another's
            )
            self._client = upstream, client
        return self._client[1]

    # Devices

    async def _enrol(self, request: Request, path: str) -> Response:
        address, now = self._address(request), self._clock()
        if self._failures.too_many(address, now):
            return _refused(429, "busy")
        try:
            async with asyncio.timeout(_ENROLMENT_SECONDS):
                text = b"".join([part async for part in _limited(request.stream(), MAX_ENROLMENT)])
            enrolment = await run_in_threadpool(read_enrolment, text)
            device = await run_in_threadpool(self._registry.enrol, enrolment, int(now))
        except _TooLargeError:
            return Response(status_code=413)
        except (AgreementError, Refusal) as error:
            self._failures.add(address, now)
            code = error.code if isinstance(error, Refusal) else "malformed"
            _log.warning("%s: refused (%s) to %s: %s", path, code, address, error)
            return _refused(403 if isinstance(error, Refusal) else 400, code)
        node_id = device.node_id
        if node_id is None:  # the keys are kept, and the device asks again if this fails
            node_id = await run_in_threadpool(self._register_node, device.node_key)
            await run_in_threadpool(self._registry.note_node, device.number, node_id)
        _log.info("device %d enrolled from %s", device.number, address)
        return _json(200, {"number": device.number, "node_id": node_id})

    def _address(self, request: Request) -> str:
        """Whom a request comes from: its connection's other end, or whom the proxy says that it speaks for."""
        address = request.client.host if request.client else ""
        return request.headers.get("x-real-ip", address)[:_ADDRESS] if address == self._proxy else address

    async def _serve(self, request: Request, path: str) -> Response:
        found: list[Device] = []

        def identity_of(number: int) -> bytes | None:
            device = self._registry.device(number)
            found.extend([] if device is None else [device])
            return None if device is None else device.identity

        def document() -> Document | None:
            check_access(request.headers, self._server, path, self._clock(), identity_of)
            return self._document(_SERVED[path], found[0])

        try:
            async with self._heavy:
                asked = await run_in_threadpool(document)
        except AgreementError as error:
            _log.warning("%s: %s", path, error)
            return Response(status_code=401)
        if asked is None:
            return Response(status_code=404)
        tag = {"etag": f'"{asked.digest}"', "cache-control": "no-store"}
        if request.headers.get("if-none-match") == tag["etag"]:
            return Response(status_code=304, headers=tag)
        return Response(asked.content, media_type="application/octet-stream", headers=tag)


class _TooLargeError(Exception):
    """A body that is larger than any that is meant well."""


async def _limited(stream: AsyncIterator[bytes], most: int = MAX_FLEET) -> AsyncIterator[bytes]:
    size = 0
    async for part in stream:
        size += len(part)
        if size > most:
            raise _TooLargeError
        yield part


async def _whole(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that mean something to Flower; all others stay here."""
    return {name: value for name, value in headers.items() if name.startswith("flwr-") or name == "content-type"}


def _refused(status: int, code: str) -> Response:
    return _json(status, {"refused": code})


def _json(status: int, value: Mapping[str, str | int]) -> Response:
    return Response(json.dumps(value), status, media_type="application/json")
