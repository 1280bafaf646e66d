"""A server that sends code, and one whose app another key has signed: a real SuperLink against a real device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.common.constant import ErrorCode

from fedrec.device.home import DeviceHome
from simulations.benchmarks.node_runtime import EMPTY, pack
from tests.deployment.real import Real, wait_for

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
import signal
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.deployment import apps
from fedrec.deployment.home import ServerHome
from fedrec.deployment.supervisor import Supervisor

home, app, signer = sys.argv[1:]
genuine, foreign = apps.verification, Ed25519PrivateKey.generate()
apps.build = lambda _: apps.App(Path(app).read_bytes(), "1.0.0")
apps.verification = lambda app, key, *rest: genuine(app, key if signer == "trusted" else foreign, *rest)
supervisor = Supervisor(ServerHome.open(Path(home)), print)
signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
supervisor.up(until_done=False)
"""
"""The real server, but for the app that it publishes."""

MODULE = "from pathlib import Path\nPath({marker!r}).write_text(__file__)\n"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_HOME", str(tmp_path_factory.mktemp("home")))
        deployment = Real(tmp_path_factory.mktemp("real"), n=3)
        try:
            deployment.up()
            deployment.enrol()
            deployment.stop(deployment.server)
            yield deployment
        finally:
            deployment.stop_all()


@contextmanager
def serving(real: Real, app: Path, signer: str) -> Iterator[None]:
    """The server with this app in the place of its own, and its one device, as its owner runs it."""
    device, log = real.devices[0], real.folder / "hostile.out"
    with log.open("wb") as out:
        command = [sys.executable, "-u", "-c", SERVING, str(real.server), str(app), signer]
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "devices connect to" in log.read_text(), 90, "the server is up")
        real.run(device)
        yield
    finally:
        if device in real.running:
            real.stop(device)
        server.terminate()
        server.wait(timeout=60)


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


def answers(folder: Path) -> list[list[object]]:
    path = folder / "replies"
    wait_for(path.exists, 180, "the device has answered")
    found: list[list[object]] = json.loads(path.read_text())
    return found


def log_of(real: Real) -> str:
    return (DeviceHome.open(real.devices[0]).logs / "supernode.log").read_text()


def test_code_in_a_signed_app_never_runs_on_a_device(real: Real, tmp_path: Path, with_code: Path) -> None:
    with serving(real, with_code, "trusted"):
        assert answers(tmp_path) == [
            [ErrorCode.LOAD_CLIENT_APP_EXCEPTION, "An exception was raised when attempting to load `ClientApp`"]
        ]
    assert not (tmp_path / "marker").exists()
    assert not (DeviceHome.open(real.devices[0]).flwr / "apps").exists()  # it was not even unpacked
    assert "a device runs apps that are configuration only" in log_of(real)


def test_an_app_that_another_key_has_signed_reaches_no_process(real: Real, tmp_path: Path, with_code: Path) -> None:
    before = log_of(real).count("Start `flwr-clientapp`")
    with serving(real, with_code, "foreign"):
        assert answers(tmp_path) == [[ErrorCode.INVALID_FAB, "The FAB could not be verified."]]
        wait_for(lambda: "FAB verification failed" in real.said(real.devices[0]), 10, "the owner is told")
    assert log_of(real).count("Start `flwr-clientapp`") == before
    assert not (tmp_path / "marker").exists()
