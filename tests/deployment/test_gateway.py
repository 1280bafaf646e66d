"""The door: what passes to Flower, what does not, and who may fetch what."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fedrec.agreements.access import access_headers
from fedrec.agreements.enrolment import node_key_pem
from fedrec.deployment import serving
from fedrec.deployment.certificates import new_ca, new_server, today
from fedrec.deployment.gateway import FLEET, MAX_FLEET, Gateway, Upstream
from fedrec.device.home import DeviceHome
from tests.deployment.world import World, world


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def device(here: World, tmp_path_factory: pytest.TempPathFactory) -> DeviceHome:
    return here.enrolled(tmp_path_factory.mktemp("devices") / "one")


@pytest.fixture
def client(here: World) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"https://localhost:{here.port}", verify=here.trust(), timeout=30) as made:
        yield made


def node_headers(device: DeviceHome) -> dict[str, str]:
    key = node_key_pem(device.node_public_key.read_bytes())
    return {"flwr-public-key": base64.b64encode(key).decode(), "content-type": "application/x-protobuf"}


# What passes to Flower


@pytest.mark.parametrize(
    "target",
    [
        "/v1/control/start-run",
        "/v1/control/stop-run",
        "/v1/control/list-runs",
        "/v1/control/stream-logs",
        "/v1/control/register-node",
        "/v1/runtime/pull-task",
        "/v1/runtime/request-token",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/",
        "/v1/fleet/get-run/",
        "/v1/fleet/get-run?x=1",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/get-run/../../control/start-run",
        "//v1/fleet/get-run",
        "/v1//fleet/get-run",
        "/v1/fleet%2fget-run",
        "/v1/fleet/get%2drun",
        "/V1/fleet/get-run",
        "/v1\\fleet\\get-run",
        "https://localhost/v1/fleet/get-run",
        "http://127.0.0.1/v1/control/start-run",
        "/health",
        "/docs",
        "/openapi.json",
        "/",
        "*",
    ],
)
def test_every_other_path_ends_at_the_door(here: World, device: DeviceHome, target: str) -> None:
    """With the authority's certificate, and even with a node's key, nobody gets at Flower's other interfaces."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in node_headers(device).items())
    before = len(here.echo.seen)
    assert here.status(target, headers=headers) == 404
    assert len(here.echo.seen) == before


@pytest.mark.parametrize("path", sorted(FLEET))
def test_a_stranger_gets_no_further_than_the_door(here: World, client: httpx.Client, path: str) -> None:
    before = len(here.echo.seen)
    assert client.post(path, content=b"x").status_code == 401
    strange = {"flwr-public-key": base64.b64encode(b"another key").decode()}
    assert client.post(path, content=b"x", headers=strange).status_code == 401
    assert client.post(path, content=b"x", headers={"flwr-public-key": "%%%"}).status_code == 401
    assert len(here.echo.seen) == before


@pytest.mark.parametrize("path", sorted(FLEET))
def test_an_enrolled_device_s_calls_pass(client: httpx.Client, device: DeviceHome, path: str) -> None:
    answer = client.post(path, content=b"seven bytes"[:7], headers=node_headers(device))
    assert answer.status_code == 200
    assert (answer.json()["path"], answer.json()["size"]) == (path, 7)


def test_only_headers_that_mean_something_to_flower_pass(client: httpx.Client, device: DeviceHome) -> None:
    extra = {
        "flwr-timestamp": "now",
        "authorization": "Bearer x",
        "cookie": "a=b",
        "x-forwarded-for": "10.0.0.1",
        "connection": "keep-alive, x-private",
        "x-private": "1",
        "te": "trailers",
    }
    answer = client.post("/v1/fleet/get-run", content=b"x", headers={**node_headers(device), **extra})
    passed = set(answer.json()["headers"])
    assert {"flwr-timestamp", "flwr-public-key", "content-type"} <= passed
    assert not passed & {"authorization", "cookie", "x-forwarded-for", "x-private", "te"}
    assert answer.headers["flwr-said"] == "yes"
    assert not {"set-cookie", "x-internal", "server"} & set(answer.headers)


def test_a_large_body_passes_and_a_larger_one_does_not(client: httpx.Client, device: DeviceHome) -> None:
    path = "/v1/fleet/push-object"
    answer = client.post(path, content=bytes(2**23), headers=node_headers(device))
    assert answer.json()["size"] == 2**23
    assert client.post(path, content=bytes(MAX_FLEET + 1), headers=node_headers(device)).status_code == 413


def test_two_lengths_of_one_body_smuggle_no_second_request(here: World, device: DeviceHome) -> None:
    headers = "".join(f"{name}: {value}\r\n" for name, value in node_headers(device).items())
    hidden = b"POST /v1/control/stop-run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    head = f"POST /v1/fleet/get-run HTTP/1.1\r\nHost: localhost\r\n{headers}"
    before = len(here.echo.seen)
    lengths = f"Content-Length: {5 + len(hidden)}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    here.raw(f"{head}{lengths}0\r\n\r\n".encode() + hidden)
    here.raw(f"{head}Content-Length: 4\r\nContent-Length: 5\r\n\r\n".encode() + hidden)
    assert {str(call["path"]) for call in here.echo.seen[before:]} <= {"/v1/fleet/get-run"}
    assert len(here.echo.seen) <= before + 1


def test_a_superlink_that_is_down_is_said_to_be(here: World, client: httpx.Client, device: DeviceHome) -> None:
    here.up = False
    try:
        assert client.post("/v1/fleet/get-run", headers=node_headers(device)).status_code == 503
    finally:
        here.up = True
    there, here.upstream = here.upstream, Upstream("http://127.0.0.1:9", None)
    try:
        assert client.post("/v1/fleet/get-run", headers=node_headers(device)).status_code == 503
    finally:
        here.upstream = there
    assert client.post("/v1/fleet/get-run", headers=node_headers(device)).status_code == 200


def test_a_superlink_with_another_certificate_gets_nothing(
    here: World, client: httpx.Client, device: DeviceHome
) -> None:
    there, here.upstream = here.upstream, Upstream(f"https://localhost:{here.port}", _another_authority(here))
    try:
        assert client.post("/v1/fleet/get-run", headers=node_headers(device)).status_code == 503
    finally:
        here.upstream = there


def test_other_methods_are_refused(here: World) -> None:
    assert here.status("/v1/fleet/get-run", "GET") == 405
    assert here.status("/fedrec/v1/model", "PUT") == 405
    assert here.status("/fedrec/v1/enrol", "GET") == 405


# TLS and connections


def test_plain_http_gets_no_answer(here: World) -> None:
    with socket.create_connection(("127.0.0.1", here.port), timeout=2) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in plain.recv(1000)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_tls_versions_are_spoken_with_forward_secrecy(here: World, version: ssl.TLSVersion) -> None:
    context = here.trust()
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", here.port), timeout=2) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        chosen = secure.cipher()
        assert chosen is not None
        assert chosen[0].startswith(("ECDHE-", "TLS_"))


def test_a_head_that_does_not_come_in_time_closes_the_connection(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
    began = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", here.port), timeout=5) as plain,
        here.trust().wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        for _ in range(3):
            secure.sendall(b"G")
            time.sleep(0.05)
        assert secure.recv(100) == b""
    assert time.monotonic() - began < 3


def test_a_head_without_end_is_refused(here: World) -> None:
    answer = here.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000)
    assert b" 400 " in answer[:20]


# What devices fetch


def get(
    client: httpx.Client, here: World, device: DeviceHome, name: str, *, number: int | None = None, skew: float = 0.0
) -> httpx.Response:
    path, trust = f"/fedrec/v1/{name}", device.trust()
    assert trust is not None
    who = trust.number if number is None else number
    headers = access_headers(device.identity().signing, here.home.public("request"), who, path, time.time() + skew)
    return client.get(path, headers=headers)


def test_an_enrolled_device_fetches_what_is_there(client: httpx.Client, here: World, device: DeviceHome) -> None:
    assert get(client, here, device, "catalogue").content == here.home.catalogue_bytes()
    assert get(client, here, device, "experiment").text == here.home.experiment_text()
    assert get(client, here, device, "roster").content == here.registry.roster().text
    assert get(client, here, device, "model").status_code == 404  # not yet


def test_a_document_that_is_known_is_not_sent_again(client: httpx.Client, here: World, device: DeviceHome) -> None:
    first = get(client, here, device, "catalogue")
    headers = dict(first.request.headers) | {"if-none-match": first.headers["etag"]}
    again = client.get("/fedrec/v1/catalogue", headers=headers)
    assert (again.status_code, again.content) == (304, b"")


def test_nobody_else_fetches_anything(client: httpx.Client, here: World, device: DeviceHome, tmp_path: Path) -> None:
    other = here.enrolled(tmp_path / "other")
    trust = other.trust()
    assert trust is not None
    assert client.get("/fedrec/v1/catalogue").status_code == 401
    assert get(client, here, device, "catalogue", number=trust.number).status_code == 401  # another's number
    assert get(client, here, device, "catalogue", number=999).status_code == 401
    assert get(client, here, device, "catalogue", skew=-400).status_code == 401
    assert get(client, here, device, "catalogue", skew=400).status_code == 401
    signed_for_roster = get(client, here, device, "roster").request.headers
    assert client.get("/fedrec/v1/catalogue", headers=signed_for_roster).status_code == 401
    here.registry.revoke(trust.number, int(time.time()))
    assert get(client, here, other, "catalogue").status_code == 401
    assert client.post("/v1/fleet/get-run", headers=node_headers(other)).status_code == 401


def test_an_error_says_nothing_but_a_code(client: httpx.Client, here: World, device: DeviceHome) -> None:
    moved = here.home.catalogue_file.rename(here.home.root / "away")
    try:
        answer = get(client, here, device, "publication")
        assert (answer.status_code, answer.content) == (503, b"")
    finally:
        moved.rename(here.home.catalogue_file)


def test_an_enrolment_without_end_or_form_is_refused(client: httpx.Client) -> None:
    assert client.post("/fedrec/v1/enrol", content=bytes(20_000)).status_code == 413
    for text in (b"", b"{}", b"[1]", b"\xff", json.dumps({"key": "AAAA"}).encode(), b"[" * 10_000):
        answer = client.post("/fedrec/v1/enrol", content=text)
        assert (answer.status_code, answer.json()) == (400, {"refused": "malformed"})


def _another_authority(here: World) -> Path:
    path = here.home.root / "another-ca.pem"
    path.write_bytes(new_ca("another", today()).certificate)
    return path


# Running on and ending


def shown_certificate(here: World, port: int) -> bytes:
    """The certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        here.trust().wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


def test_a_renewed_certificate_is_taken_up_without_a_restart(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CERTIFICATE_TICKS", 1)
    before = shown_certificate(here, here.port)
    assert shown_certificate(here, here.port) == before
    here.home.renew()
    expected = ssl.PEM_cert_to_DER_cert(here.home.certificate.read_text().split("-----BEGIN PRIVATE")[0])
    assert expected != before
    deadline = time.monotonic() + 5
    while shown_certificate(here, here.port) != expected:
        assert time.monotonic() < deadline, "the old certificate is still shown"
        time.sleep(0.05)


def test_a_certificate_that_cannot_be_used_leaves_the_old_one_in_force(
    here: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "CERTIFICATE_TICKS", 1)
    before, good = shown_certificate(here, here.port), here.home.certificate.read_bytes()
    other = new_server(new_ca("another", today()), ["localhost"], today())
    for bad in (b"nonsense", good.split(b"-----BEGIN PRIVATE")[0] + other.key):
        caplog.clear()
        here.home.certificate.write_bytes(bad)
        deadline = time.monotonic() + 5
        while "cannot be used" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert shown_certificate(here, here.port) == before
    here.home.certificate.write_bytes(good)


def test_a_call_under_way_when_the_server_ends_is_refused_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "ENDING_SECONDS", 0)
    answers: list[int] = []
    with world(tmp_path / "world") as there:
        there.echo.pause = 2.0
        device = there.enrolled(tmp_path / "device")

        def call() -> None:
            where = f"https://localhost:{there.port}/v1/fleet/get-run"
            answers.append(httpx.post(where, verify=there.trust(), headers=node_headers(device)).status_code)

        caller = threading.Thread(target=call)
        caller.start()
        while not there.echo.seen:
            time.sleep(0.01)
    caller.join()
    assert answers == [503]
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_the_line_to_the_superlink_is_closed_before_the_gateway_says_that_it_has_ended(here: World) -> None:
    """After that word the loop ends, and whatever still runs in it is cancelled, which uvicorn would log."""
    gateway = Gateway(here.registry, bytes(32), lambda *_: None, here.register, lambda: here.upstream)
    closed: list[bool] = []

    async def live() -> None:
        client = await gateway._client_of(here.upstream)
        messages = iter(("lifespan.startup", "lifespan.shutdown"))

        async def receive() -> dict[str, str]:
            return {"type": next(messages)}

        async def send(_: object) -> None:
            closed.append(client.is_closed)

        await gateway({"type": "lifespan"}, receive, send)

    asyncio.run(live())
    assert closed == [False, True]
