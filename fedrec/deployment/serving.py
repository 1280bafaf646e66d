"""The gateway on its port: TLS, and limits that keep strangers from holding connections."""

from __future__ import annotations

import asyncio
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
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all good."""


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


def server(gateway: Gateway, certificate: Path, host: str, port: int) -> uvicorn.Server:
    """A server that is ready to ``run()``, or to ``serve()`` in a loop.

    Args:
        gateway: the application.
        certificate: a PEM file with the certificate (and those that lead to its authority) and its key.
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
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return uvicorn.Server(config)
