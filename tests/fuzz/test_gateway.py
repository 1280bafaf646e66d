"""Thousands of made-up requests at a server's door: nothing gets to Flower but what is meant to."""

from __future__ import annotations

import asyncio
import base64
import random
from pathlib import Path
from urllib.parse import unquote

from starlette.types import Message, Scope

from fedrec.agreements.enrolment import node_key_pem
from fedrec.deployment.gateway import FLEET, Gateway
from fedrec.deployment.published import Published
from tests.deployment.world import World, world

CASES = 3_000
PIECES = ("/", "//", "..", "%2e", "%2F", "v1", "fleet", "control", "runtime", "\\", ";", "?", "#", "\0", "get-run", "é")
METHODS = ("POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "CONNECT", "post", "")

Headers = list[tuple[bytes, bytes]]


def target(draw: random.Random) -> bytes:
    """A path of Flower's as it is, or with something wrong in it, or none at all."""
    path = draw.choice(sorted(FLEET))
    match draw.randrange(6):
        case 0 | 1:
            return path.encode()
        case 2:
            place = draw.randrange(len(path) + 1)
            return (path[:place] + draw.choice(PIECES) + path[place:]).encode()
        case 3:
            place = draw.randrange(len(path))
            return path[:place].encode() + b"%%%02x" % ord(path[place]) + path[place + 1 :].encode()
        case 4:
            return "".join(draw.choices(PIECES, k=draw.randrange(1, 12))).encode()
        case _:
            return draw.randbytes(draw.randrange(40))


def sent(draw: random.Random, key: bytes) -> Headers:
    """Headers with the right key, a broken one or none, among nonsense."""
    right = base64.b64encode(key)
    broken = draw.choice((b"", b"=", right[:-4], right[::-1], right + b"AAAA", draw.randbytes(20), b"%" * 9_000))
    headers = [(b"flwr-public-key", right if draw.random() < 0.5 else broken)] if draw.random() < 0.9 else []
    return headers + [(draw.randbytes(5).hex().encode(), draw.randbytes(8)) for _ in range(draw.randrange(4))]


async def answered(gateway: Gateway, method: str, path: bytes, query: bytes, headers: Headers, body: bytes) -> int:
    """The status with which a request is answered."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 1),
    }
    events: list[Message] = []
    bodies = [body]

    async def receive() -> Message:
        if not bodies:
            await asyncio.Event().wait()  # for ever: this client does not hang up
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(event: Message) -> None:
        events.append(event)

    await gateway(scope, receive, send)
    return int(events[0]["status"])


async def closed(gateway: Gateway) -> None:
    """Let a gateway end, with its connections."""

    async def receive() -> Message:
        return {"type": "lifespan.shutdown"}

    async def send(_: Message) -> None:
        pass

    await gateway({"type": "lifespan"}, receive, send)


async def flood(here: World, key: bytes, draw: random.Random) -> tuple[int, list[str]]:
    """How many good calls there were among all, and what was answered wrongly."""
    gateway = Gateway(
        here.registry,
        here.home.public("request"),
        Published(here.home, here.registry).document,
        here.register,
        lambda: here.upstream,
    )
    good, wrong = 0, []
    for _ in range(CASES):
        method, path, headers = draw.choice(METHODS), target(draw), sent(draw, key)
        query, before = draw.choice((b"", b"", b"", b"x=1", b"/../control")), len(here.echo.seen)
        status = await answered(gateway, method, path, query, headers, draw.randbytes(draw.randrange(50)))
        meant = path.decode("latin-1") in FLEET and not query
        passes = meant and method == "POST" and (b"flwr-public-key", base64.b64encode(key)) in headers
        expected = 200 if passes else 404 if not meant else 405 if method != "POST" else 401
        good += passes
        if status != expected or len(here.echo.seen) - before != passes:
            wrong.append(f"{method} {path!r} {query!r}: {status}, not {expected}")
    await closed(gateway)
    return good, wrong


def test_of_thousands_of_requests_only_the_good_ones_reach_flower(tmp_path: Path) -> None:
    with world(tmp_path / "world") as here:
        device = here.enrolled(tmp_path / "device")
        key = node_key_pem(device.node_public_key.read_bytes())
        good, wrong = asyncio.run(flood(here, key, random.Random(5)))  # noqa: S311 - cases, no secret
        assert not wrong, wrong[:5]
        assert good > 50
        assert {call["path"] for call in here.echo.seen} <= FLEET
