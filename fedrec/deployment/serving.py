"""The gateway on its port: TLS with the certificate of the day, and limits on how long a connection may be held."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedrec.deployment.gateway import Gateway

CONNECTIONS = 1024
"""At once; further ones are answered 503. What one address may open is for a firewall or a proxy in front to say."""
HEAD_SECONDS = 10.0
"""Within which the next request's head must come, from its first byte on or from the connection's start."""
_HEAD_BYTES = 16_384
ENDING_SECONDS = 5
"""For the answers that are under way when the server ends."""
CERTIFICATE_TICKS = 10
"""Tenths of a second between two looks at the certificate's file."""
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all good."""

_log = logging.getLogger("fedrec.gateway")


class _Prompt(H11Protocol):
    """Closes a connection on which a request's head does not come in time; uvicorn itself would wait forever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the base class
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _expect(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Renewing(uvicorn.Server):
    """Takes up a renewed certificate for the connections to come; one that cannot be used leaves the old in force."""

    def __init__(self, config: uvicorn.Config, certificate: Path) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._seen = _version(certificate)

    async def on_tick(self, counter: int) -> bool:
        if counter % CERTIFICATE_TICKS == 0:
            self._renew()
        return await super().on_tick(counter)

    def _renew(self) -> None:
        now, live = _version(self._certificate), self.config.ssl
        if live is None or now is None or now == self._seen:
            return
        self._seen = now
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate)  # a bad one would spoil the live
            live.load_cert_chain(self._certificate)
        except OSError as error:  # an SSLError is one
            _log.error("the new certificate cannot be used, and the old one stays in force: %s", error)
        else:
            _log.info("the new certificate is in force")


def _version(file: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None while there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def server(gateway: Gateway, certificate: Path, host: str, port: int) -> uvicorn.Server:
    """A server that is ready to ``run()``, or to ``serve()`` in a loop.

    Args:
        gateway: the application.
        certificate: a PEM file with the certificate (and those that lead to its authority) and its key; when it is
            replaced, the new one is taken up within a second or so.
        host: the address to listen at.
        port: the port to listen at; 0 takes a free one.
    """
    config = uvicorn.Config(
        gateway,
        host,
        port,
        http=_Prompt,
        ws="none",
        lifespan="on",
        interface="asgi3",
        loop="asyncio",
        ssl_certfile=certificate,
        ssl_ciphers=_CIPHERS,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=ENDING_SECONDS,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return _Renewing(config, certificate)
