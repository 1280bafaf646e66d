"""A real server behind its gateway on loopback, devices to enrol with it, and a small server in Flower's place."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from fedrec.config import Experiment, resolve
from fedrec.data.interactions import Catalogue
from fedrec.deployment import serving
from fedrec.deployment.gateway import Gateway, Upstream
from fedrec.deployment.home import ServerConfig, ServerHome
from fedrec.deployment.published import Published
from fedrec.deployment.registry import Registry
from fedrec.device.gateway import enrol
from fedrec.device.home import DeviceHome
from fedrec.errors import ServerError


def catalogue() -> Catalogue:
    return Catalogue(np.array([f"i{number}" for number in range(30)]), np.array([f"Title {n}" for n in range(30)]))


def experiment(**sections: object) -> Experiment:
    """One that costs no time to calibrate."""
    plain = {
        "data": {"name": "synthetic"},
        "model": {"name": "gram"},
        "federation": {"cohort": 5, "min_cohort": 3},
        "privacy": {"noise_multiplier": 1.0},
    }
    return resolve({**plain, **sections})


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def new_server(root: Path, **config: object) -> ServerHome:
    port = free_port()
    settings = {"public_name": "localhost", "public_port": port, "host": "127.0.0.1", "port": port, **config}
    return ServerHome.create(root, ServerConfig.model_validate(settings), experiment(), catalogue())


def new_device(root: Path) -> DeviceHome:
    return DeviceHome.create(root)


@contextmanager
def running(server: uvicorn.Server) -> Iterator[None]:
    """The server in a thread, until the block ends."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Echo:
    """Stands where the SuperLink stands: answers what it was sent, after a pause in seconds, and remembers it."""

    seen: list[dict[str, object]] = field(default_factory=list)
    pause: float = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        call = {"method": request.method, "path": request.url.path, "headers": dict(request.headers), "size": len(body)}
        self.seen.append(call)
        await asyncio.sleep(self.pause)
        response: Response = JSONResponse(call)
        response.headers.update({"flwr-said": "yes", "set-cookie": "no=1", "x-internal": "secret"})
        await response(scope, receive, send)


@dataclass
class World:
    """A server that runs.

    Attributes:
        home: its folder.
        registry: its devices.
        echo: what stands in Flower's place.
        registered: node keys that enrolment made known to it.
        up: whether the SuperLink is there.
        ahead: seconds by which the server's clock is ahead.
        fails: whether making a node known to Flower fails.
    """

    home: ServerHome
    registry: Registry
    echo: Echo
    upstream: Upstream
    registered: list[bytes] = field(default_factory=list)
    up: bool = True
    ahead: float = 0.0
    fails: bool = False

    @property
    def port(self) -> int:
        return self.home.config.port

    def clock(self) -> float:
        return time.time() + self.ahead

    def register(self, key: bytes) -> str:
        if self.fails:
            raise ServerError("Flower does not answer.")
        self.registered.append(key)
        return str(1000 + len(self.registered))

    def invite(self, hours: float = 1.0) -> str:
        return self.registry.new_token(int(time.time()), hours)

    def enrolled(self, root: Path) -> DeviceHome:
        """A new device, enrolled."""
        device = new_device(root)
        enrol(device, self.home.invitation(self.invite()))
        return device

    def trust(self) -> ssl.SSLContext:
        """What anybody has who was given the authority's certificate."""
        return ssl.create_default_context(cafile=self.home.ca)

    def raw(self, text: bytes) -> bytes:
        """The answer to some bytes, until the connection closes or is idle."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=2) as plain,
            self.trust().wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(text)
            answer = b""
            try:
                while part := secure.recv(65536):
                    answer += part
            except TimeoutError:
                pass
            return answer

    def status(self, target: str, method: str = "POST", headers: str = "", body: bytes = b"") -> int:
        """The status of a request whose target is sent as it is."""
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}"
        answer = self.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return int(answer.split(b" ", 2)[1])

    def write_cohorts(self, *cohorts: tuple[int, ...]) -> None:
        """As if these devices had been asked in the rounds from 1 on."""
        self.home.run.mkdir(exist_ok=True)
        lines = [
            json.dumps({"round": number, "attempt": 0, "numbers": who}) for number, who in enumerate(cohorts, start=1)
        ]
        (self.home.run / "cohorts.jsonl").write_text("".join(line + "\n" for line in lines))


@contextmanager
def world(folder: Path, proxy: str | None = None) -> Iterator[World]:
    """A server with its gateway on a free port of loopback."""
    home = new_server(folder / "server")
    echo, port = Echo(), free_port()
    inner = uvicorn.Server(uvicorn.Config(echo, "127.0.0.1", port, log_config=None, lifespan="off", ws="none"))
    registry = home.registry()
    here = World(home, registry, echo, Upstream(f"http://127.0.0.1:{port}", None))
    gateway = Gateway(
        registry,
        home.public("request"),
        Published(home, registry).document,
        here.register,
        lambda: here.upstream if here.up else None,
        here.clock,
        proxy,
    )
    outer = serving.server(gateway, home.certificate, "127.0.0.1", home.config.port)
    with running(inner), running(outer):
        yield here
