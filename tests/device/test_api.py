"""The loopback API on a real server: who may ask, what is answered, and that an error is one sentence."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedrec.device import history
from fedrec.device.api import ADDRESS, MAX_BODY, api_token, serve, server
from fedrec.device.home import DeviceHome
from fedrec.device.recommend import recommend
from fedrec.errors import DeviceError
from tests.device.stored import catalogue, experiment, mf_model, put_catalogue, put_model

N = 50


def new_device(root: Path) -> DeviceHome:
    home = DeviceHome.create(root)
    with home.open_store() as store:
        put_catalogue(store, catalogue(N))
        put_model(store, experiment(catalogue(N), name="mf", dimension=8), mf_model(N))
        history.record(store, "i3", at=1)
        history.record(store, "i4", at=2)
    return home


@pytest.fixture
def home(tmp_path: Path) -> DeviceHome:
    return new_device(tmp_path / "device")


@contextmanager
def serving(home: DeviceHome) -> Iterator[httpx.Client]:
    """A client with the token, of a server in a thread of its own."""
    running = server(home)
    with socket.create_server((ADDRESS, 0)) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            where = f"http://{ADDRESS}:{listening.getsockname()[1]}"
            with httpx.Client(base_url=where, headers={"authorization": f"Bearer {api_token(home)}"}) as made:
                yield made
        finally:
            running.should_exit = True
            thread.join(20)


@pytest.fixture
def client(home: DeviceHome) -> Iterator[httpx.Client]:
    with serving(home) as made:
        yield made


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, DeviceHome]]:
    """One server for all the requests that change nothing."""
    home = new_device(tmp_path_factory.mktemp("unchanged") / "device")
    with serving(home) as made:
        yield made, home


@pytest.fixture
def asking(unchanged: tuple[httpx.Client, DeviceHome]) -> Iterator[httpx.Client]:
    client, home = unchanged
    yield client
    with home.open_store() as store:
        assert history.counts(store).events == 2


def error_of(reply: httpx.Response) -> str:
    (sentence,) = reply.json().values()
    assert set(reply.json()) == {"error"}
    return str(sentence)


def test_recommendations_are_those_of_the_library(client: httpx.Client, home: DeviceHome) -> None:
    reply = client.get("/v1/recommendations", params={"k": 5, "diversity": 0.5, "novelty": 0.2, "reasons": 1})
    assert reply.status_code == 200
    with home.open_store() as store:
        wanted = recommend(store, 5, diversity=0.5, novelty=0.2, most_reasons=1)
    found = reply.json()
    assert [one["item"] for one in found["items"]] == [one.item for one in wanted.items]
    for one in found["items"]:
        assert sum(reason["amount"] for reason in one["reasons"]) == pytest.approx(one["score"], rel=1e-4)
        assert all(reason["text"] for reason in one["reasons"])
    assert len(client.get("/v1/recommendations").json()["items"]) == 20


def test_what_an_app_tells_counts_at_once_and_is_in_the_store(client: httpx.Client, home: DeviceHome) -> None:
    first, second = (one["item"] for one in client.get("/v1/recommendations", params={"k": 2}).json()["items"])
    met = {"item": first, "at": 1_700_000_000, "rating": 4.5}
    assert client.post("/v1/interactions", json=met).json() == {"new": True}
    again = client.post("/v1/interactions", json=met)
    assert (again.status_code, again.json()) == (201, {"new": False})
    assert client.post("/v1/feedback", json={"item": second, "kind": "hidden"}).status_code == 201
    left = {one["item"] for one in client.get("/v1/recommendations", params={"k": N}).json()["items"]}
    assert left.isdisjoint({first, second})
    with home.open_store() as store:
        rows = store.query("SELECT item, at, kind, rating, source FROM interactions WHERE item = ?", (first,))
        assert rows == [(first, 1_700_000_000, "seen", 4.5, "api")]
        assert second in history.excluded(store)


def test_budget_and_status_are_told(client: httpx.Client) -> None:
    budget = client.get("/v1/budget").json()
    assert (budget["spent"], budget["runs"], "ledger" in budget) == (0.0, [], False)
    assert client.get("/v1/budget", params={"check": True}).json()["ledger"]["faults"] == []
    status = client.get("/v1/status").json()
    assert status["history"]["events"] == 2
    assert status["model"] == {
        "experiment": experiment(catalogue(N), name="mf", dimension=8).digest(),
        "round": 3,
    }


EVERY = [
    ("GET", "/v1/recommendations"),
    ("POST", "/v1/interactions"),
    ("POST", "/v1/feedback"),
    ("GET", "/v1/budget"),
    ("GET", "/v1/status"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
]


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", "Basic abc", "bearer {}", "Bearer {}x", "{}", "é"])
def test_without_the_token_nothing_is_answered_or_written(
    asking: httpx.Client, unchanged: tuple[httpx.Client, DeviceHome], token: str
) -> None:
    given = token.format(api_token(unchanged[1])).encode("latin-1")
    for method, path in EVERY:
        reply = asking.request(method, path, headers=[(b"authorization", given)], json={"item": "i9", "kind": "liked"})
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "Authorization" in error_of(reply)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost:x", "[::1]", ""]
)
def test_a_page_that_rebinds_its_own_name_is_refused_even_with_the_token(asking: httpx.Client, host: str) -> None:
    reply = asking.get("/v1/status", headers={"host": host})
    assert reply.status_code == 421
    assert "127.0.0.1 and localhost" in error_of(reply)


def test_localhost_is_an_allowed_name(asking: httpx.Client) -> None:
    assert asking.get("/v1/status", headers={"host": "localhost:1234"}).status_code == 200


def test_there_is_no_cross_origin_access(asking: httpx.Client) -> None:
    asked = {"origin": "http://evil.example", "access-control-request-method": "GET"}
    for reply in (asking.options("/v1/status", headers=asked), asking.get("/v1/status", headers=asked)):
        assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("path", "body", "code", "said"),
    [
        ("/v1/interactions", b"{", 422, "not JSON"),
        ("/v1/interactions", b"\xff", 400, "UTF-8"),
        ("/v1/interactions", b"[]", 422, "the body"),
        ("/v1/interactions", b"{}", 422, "item: field required"),
        ("/v1/interactions", b'{"item": "i1", "kind": "liked"}', 422, "kind: extra"),
        ("/v1/interactions", b'{"item": ""}', 400, "item"),
        ("/v1/interactions", b'{"item": "a\\nb"}', 400, "control character"),
        ("/v1/interactions", b'{"item": "i1", "rating": NaN}', 422, "rating"),
        ("/v1/interactions", b'{"item": "i1", "at": 99999999999999999999}', 400, "time"),
        ("/v1/interactions", b'{"item": "i1", "at": 9999999999999999}', 400, "time"),
        ("/v1/feedback", b'{"item": "i1", "kind": "seen"}', 422, "kind"),
    ],
)
def test_a_wrong_body_is_named_and_writes_nothing(
    asking: httpx.Client, path: str, body: bytes, code: int, said: str
) -> None:
    reply = asking.post(path, content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, said in error_of(reply)) == (code, True), reply.text


@pytest.mark.parametrize(
    "query", ["k=0", "k=1001", "k=x", "diversity=1.1", "diversity=nan", "novelty=-1", "reasons=99"]
)
def test_a_wrong_dial_is_named(asking: httpx.Client, query: str) -> None:
    reply = asking.get(f"/v1/recommendations?{query}")
    assert reply.status_code == 422
    assert error_of(reply).startswith(query.partition("=")[0])


def test_a_large_body_or_one_of_unknown_length_is_not_read(asking: httpx.Client) -> None:
    large = asking.post("/v1/interactions", content=b" " * (MAX_BODY + 1))
    assert (large.status_code, str(MAX_BODY) in error_of(large)) == (413, True)
    chunked = asking.post("/v1/interactions", content=iter([b"{}"]))
    assert chunked.status_code == 411


@pytest.mark.parametrize(
    ("method", "path", "code"), [("GET", "/v2", 404), ("GET", "/docs", 404), ("PUT", "/v1/status", 405)]
)
def test_what_is_not_there_is_said(asking: httpx.Client, method: str, path: str, code: int) -> None:
    reply = asking.request(method, path)
    assert reply.status_code == code
    assert path in error_of(reply)


def test_a_device_without_a_model_says_what_to_do(client: httpx.Client, home: DeviceHome) -> None:
    with home.open_store() as store:
        store.remove("catalogue")
    reply = client.get("/v1/recommendations")
    assert reply.status_code == 503
    assert "fedrec device sync" in error_of(reply)


def test_the_token_is_the_owner_s_alone_and_stays(home: DeviceHome) -> None:
    token = api_token(home)
    path = home.keys / "api-token"
    assert len(token) == 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert api_token(home) == token
    path.chmod(0o644)
    with pytest.raises(DeviceError, match="chmod 600"):
        api_token(home)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(DeviceError, match="does not hold a token"):
        api_token(home)


def test_a_port_that_is_taken_is_said(home: DeviceHome) -> None:
    with socket.create_server((ADDRESS, 0)) as taken, pytest.raises(DeviceError, match=r"take another --port"):
        serve(home, taken.getsockname()[1], print)


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped(home: DeviceHome) -> None:
    command = [sys.executable, "-m", "fedrec.cli.main", "device", "serve", "--home", str(home.root), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as run:
        try:
            assert run.stdout is not None
            where = run.stdout.readline().partition("/v1")[0]
            headers: dict[str, Any] = {"authorization": f"Bearer {api_token(home)}"}
            transport = httpx.HTTPTransport(retries=20)
            with httpx.Client(base_url=where, headers=headers, transport=transport, timeout=20) as client:
                assert len(json.loads(client.get("/v1/recommendations?k=3").text)["items"]) == 3
            listening = Path(f"/proc/{run.pid}/net/tcp").read_text()
            port = f"{int(where.rpartition(':')[2]):04X}"
            assert f"0100007F:{port}" in listening  # 127.0.0.1 and no other address
            assert f"00000000:{port}" not in listening
        finally:
            run.send_signal(signal.SIGTERM)
    assert run.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
