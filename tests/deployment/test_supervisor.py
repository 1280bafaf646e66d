"""A server of real processes: SuperLink, gateway, SuperNodes and ClientApps on loopback, and what kills them."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrec.audit.verify import verify
from fedrec.deployment.home import ServerHome
from fedrec.deployment.training import trainer
from fedrec.device.home import DeviceHome
from tests.deployment.real import Real, alive

pytestmark = pytest.mark.slow

CONTROL = ("start-run", "stop-run", "list-runs", "stream-logs", "register-node", "unregister-node", "list-nodes")
RUNTIME = ("pull-task", "pull-task-input", "claim-task", "get-nodes", "push-messages", "pull-messages")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """One deployment, shared by the tests below, which follow each other."""
    with Real(tmp_path_factory.mktemp("real")) as deployment:
        deployment.prepare()
        for device in deployment.devices:
            deployment.start(device)
        yield deployment


def charges(device: Path) -> list[tuple[int, int]]:
    with DeviceHome.open(device).open_store() as store:
        return [(a, b) for a, b in store.query("SELECT round, attempt FROM charges ORDER BY rowid")]


def started(real: Real) -> int:
    return real.server_said().count("training: process")


def test_training_goes_on_after_its_process_is_killed(real: Real) -> None:
    real.wait("an attempt begins", 300, lambda: any(line["type"] == "reserve" for line in real.lines("ledger.jsonl")))
    pid, before = trainer(ServerHome.open(real.server)), started(real)
    assert pid
    os.kill(pid, signal.SIGKILL)
    real.wait("training goes on", 120, lambda: started(real) > before)
    real.wait("a round is done", 300, lambda: bool(real.lines("rounds.jsonl")))


def test_training_goes_on_after_the_superlink_is_killed(real: Real) -> None:
    pid, before, done = real.status()["superlink"], started(real), len(real.lines("rounds.jsonl"))
    os.kill(pid, signal.SIGKILL)
    real.wait("training goes on", 180, lambda: started(real) > before)
    assert real.status()["superlink"] != pid
    real.wait("another round is done", 400, lambda: len(real.lines("rounds.jsonl")) > done)


def test_who_has_the_certificate_alone_can_neither_manage_nor_take_part(real: Real) -> None:
    home = ServerHome.open(real.server)
    trust = ssl.create_default_context(cafile=home.ca)
    paths = [f"/v1/control/{name}" for name in CONTROL] + [f"/v1/runtime/{name}" for name in RUNTIME]
    for path in [*paths, "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/health", "/docs", "/openapi.json"]:
        assert _posted(f"https://127.0.0.1:{home.config.port}{path}", trust) == 404, path
    for call in ("activate-node", "pull-messages", "push-messages", "get-fab", "pull-object"):
        assert _posted(f"https://127.0.0.1:{home.config.port}/v1/fleet/{call}", trust) == 401, call


def _posted(url: str, trust: ssl.SSLContext) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"x"), timeout=10, context=trust) as found:  # noqa: S310
            return int(found.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_server_is_run_once_at_a_time(real: Real) -> None:
    command = [sys.executable, "-m", "fedrec.cli.main", "server", "up", "--home", str(real.server)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "is running this server already" in done.stderr


def test_every_attempt_is_charged_once_on_both_sides_and_the_record_passes_the_audit(real: Real) -> None:
    real.wait("training is finished", 500, lambda: real.status()["state"] == "finished")
    ledger = real.lines("ledger.jsonl")
    reserved = [(line["round"], line["attempt"]) for line in ledger if line["type"] == "reserve"]
    committed = {(line["round"], line["attempt"]) for line in ledger if line["type"] == "commit"}
    assert len(set(reserved)) == len(reserved) >= 5  # three rounds, two of which were begun anew
    assert {round_ for round_, _ in committed} == {1, 2, 3}
    for device in real.devices:
        own = charges(device.home)
        assert len(set(own)) == len(own)
        assert set(own) <= set(reserved)
        # A device that was late for one phase is not in that sum; with none late, every commit is charged.
        assert len(committed - set(own)) <= 1
    assert not verify(real.server / "run").faults


def test_a_server_that_is_killed_takes_the_superlink_along_and_starts_again(real: Real) -> None:
    pid = real.status()["superlink"]
    real.kill_server()
    real.wait("the SuperLink ends", 30, lambda: not alive(pid))
    assert real.status()["server"] is None
    real.up()
    assert real.status()["state"] == "finished"


def test_revoked_devices_are_unregistered_and_everything_ends_in_order(real: Real) -> None:
    pids = [value for name, value in real.status().items() if name in {"server", "superlink"}]
    real.run("server", "revoke", "1", "--home", str(real.server))
    real.wait("Flower is told", 60, lambda: "device 1 is shut out" in real.server_said())
    assert real.down() == 0
    assert not any(map(alive, pids))
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", ServerHome.open(real.server).config.port))
    assert real.status()["state"] == "finished"
