"""A server that sends code, and apps that its key has not signed as they are: real SuperLinks, and a real device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.common.constant import ErrorCode

from fedrec.device.home import DeviceHome
from simulations.benchmarks.node_runtime import EMPTY, pack
from tests.deployment.real import Real

pytestmark = pytest.mark.slow

SERVER = """
import json
import time
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.5)
    asked = [Message(RecordDict(), dst_node_id=node, message_type="train.masked") for node in nodes]
    said = [
        [reply.error.code, reply.error.reason] if reply.has_error() else repr(reply.content)
        for reply in grid.send_and_receive(asked, timeout=120)
    ]
    Path({replies!r}).write_text(json.dumps(said))
"""
"""Of the hostile server: asks every device once, and writes down what it answered."""

SERVING = """
import json
import signal
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.deployment import apps
from fedrec.deployment.home import ServerHome
from fedrec.deployment.loopback import Loopback
from fedrec.deployment.supervisor import Supervisor

home, path, how = sys.argv[1:]
app, genuine, foreign = apps.App(Path(path).read_bytes(), "1.0.0"), apps.verification, Ed25519PrivateKey.generate()
served = apps.App(app.content + b"x" * (how == "tampered"), app.version)


def unsigned(app, *_):
    def answer(method, asked, body):
        found = {"fab_url": hub.url + "/app.fab", "verifications": None}
        return ("application/json", json.dumps(found).encode()) if method == "POST" else ("x/x", app.content)

    hub = Loopback(answer, 0)
    return hub


apps.build = lambda _: served
apps.verification = lambda _, key, *rest: genuine(app, foreign if how == "foreign" else key, *rest)
if how == "unsigned":
    apps.registry = unsigned
supervisor = Supervisor(ServerHome.open(Path(home)), print)
signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
supervisor.up(until_done=False)
"""
"""The real server, but for the app that it publishes."""

MODULE = "from pathlib import Path\nPath({marker!r}).write_text(__file__)\n"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with Real(tmp_path_factory.mktemp("real")) as deployment:
        deployment.prepare(n=1)
        deployment.down()
        yield deployment


@contextmanager
def serving(real: Real, app: Path, how: str) -> Iterator[None]:
    """The server with this app in the place of its own, and its one device, as its owner runs it."""
    real.serve(SERVING, str(app), how)
    real.start(real.devices[0])
    try:
        yield
    finally:
        real.stop(real.devices[0])
        real.down()


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """An app that has a fedrec and a module of the standard library of its own."""
    marker = str(tmp_path / "marker")
    files = {
        "hostile.py": SERVER.format(replies=str(tmp_path / "replies")),
        "fedrec/__init__.py": MODULE.format(marker=marker),
        "fedrec/flower/__init__.py": "",
        "fedrec/flower/deviceapp.py": EMPTY,
        "sqlite3.py": MODULE.format(marker=marker),
    }
    app = tmp_path / "app.fab"
    app.write_bytes(pack(files, server="hostile:app"))
    return app


def answers(real: Real, folder: Path) -> list[list[object]]:
    path = folder / "replies"
    real.wait("the device has answered", 180, path.exists)
    found: list[list[object]] = json.loads(path.read_text())
    return found


def log_of(real: Real) -> str:
    log = DeviceHome.open(real.devices[0].home).logs / "supernode.log"
    return log.read_text() if log.exists() else ""


def test_code_in_a_signed_app_never_runs_on_a_device(real: Real, tmp_path: Path, with_code: Path) -> None:
    with serving(real, with_code, "signed"):
        assert answers(real, tmp_path) == [
            [ErrorCode.LOAD_CLIENT_APP_EXCEPTION, "An exception was raised when attempting to load `ClientApp`"]
        ]
    assert not (tmp_path / "marker").exists()
    assert not (DeviceHome.open(real.devices[0].home).flwr / "apps").exists()  # it was not even unpacked
    assert "a device runs apps that are configuration only" in log_of(real)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("foreign", "FAB verification failed"),
        ("tampered", "FAB verification failed"),
        ("unsigned", "The FAB could not be verified"),
    ],
)
def test_an_app_that_the_servers_key_has_not_signed_as_it_is_reaches_no_process(
    real: Real, tmp_path: Path, with_code: Path, how: str, told: str
) -> None:
    before = log_of(real).count("Start `flwr-clientapp`")
    with serving(real, with_code, how):
        assert answers(real, tmp_path) == [[ErrorCode.INVALID_FAB, "The FAB could not be verified."]]
        real.wait("the owner is told", 10, lambda: told in real.said(real.devices[0]))
    assert log_of(real).count("Start `flwr-clientapp`") == before
    assert not (tmp_path / "marker").exists()
