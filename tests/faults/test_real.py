"""``kill -9`` and wrong keys against one deployment of real processes: after each, the next round completes."""

from __future__ import annotations

import base64
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.audit.verify import verify
from fedrec.deployment.certificates import Pair, new_ca, new_server, today
from fedrec.deployment.home import ServerHome
from fedrec.device.home import DeviceHome
from tests.deployment.real import alive
from tests.faults.real import Struck

pytestmark = pytest.mark.slow

CONTROL = ("start-run", "stop-run", "list-runs", "stream-logs", "register-node", "unregister-node", "list-nodes")
RUNTIME = ("pull-task", "pull-task-input", "claim-task", "get-nodes", "push-messages", "pull-messages")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Struck]:
    """One deployment for all the tests below, which follow each other."""
    with Struck(tmp_path_factory.mktemp("struck")) as deployment:
        deployment.begin()
        yield deployment


@pytest.fixture
def real(shared: Struck) -> Iterator[Struck]:
    """The books agree after each test."""
    yield shared
    shared.check()


# A device


def test_a_clientapp_that_dies_before_its_vector_leaves_costs_its_own_part_alone(real: Struck) -> None:
    device = real.devices[0]
    for point in ("device.charged", "device.kept"):
        real.stop(device)
        before = len(real.charges(device))
        with real.given({"FEDREC_FAULT_POINT": point}):
            real.start(device)
        real.phase("shares")
        found = real.phase_of_all("masked")
        assert found["answered"] == 3
        assert len(real.charges(device)) > before, "it is charged before it is made"
        real.more_rounds(1)
    real.stop(device)
    real.start(device)


def test_a_clientapp_that_is_killed_while_it_trains_is_followed_by_another(real: Struck) -> None:
    real.kill_of(real.devices[1], "flwr-clientapp")
    real.more_rounds(1)


def test_a_device_that_loses_power_after_its_vector_stays_in_the_sum(real: Struck) -> None:
    device = real.devices[2]
    found = real.phase_of_all("masked", answered=4)
    assert real.kill(device) >= 3
    place = found["round"], found["attempt"]
    assert place in real.charges(device)
    real.wait("the round was done", 120, lambda: any(line["round"] == place[0] for line in real.log("round")))
    line = next(line for line in real.log("round") if line["round"] == place[0])
    assert (line["attempt"], line["survivors"]) == (place[1], 4)
    real.start(device)
    real.more_rounds(1)
    real.comes_online(device)


def test_an_agent_that_is_killed_takes_its_supernode_along_and_starts_anew(real: Struck) -> None:
    device = real.devices[3]
    real.kill_agent(device)
    real.start(device)
    real.more_rounds(1)
    real.comes_online(device)


def test_a_supernode_that_is_killed_is_started_again(real: Struck) -> None:
    device = real.devices[0]
    real.kill_of(device, "flower-supernode")
    real.wait("the agent noticed", 30, lambda: "the SuperNode has ended (code -9)" in real.said(device))
    real.more_rounds(1)
    real.comes_online(device)
    real.everybody()


# The server


def reserved(real: Struck) -> list[tuple[int, int]]:
    return [(line["round"], line["attempt"]) for line in real.ledger() if line["type"] == "reserve"]


def test_a_training_that_is_killed_in_a_round_tries_it_anew(real: Struck) -> None:
    real.phase("shares")
    trainer, open_ = real.status()["trainer"], reserved(real)[-1]
    os.kill(trainer, signal.SIGKILL)
    real.more_rounds(1, 240)
    lines = [line for line in real.ledger() if (line["round"], line["attempt"]) == open_]
    assert [line["type"] for line in lines] == ["reserve", "abort"]
    assert (open_[0], open_[1] + 1) in reserved(real)
    assert real.status()["trainer"] != trainer


def test_a_superlink_that_is_killed_is_started_again(real: Struck) -> None:
    before = real.status()["superlink"]
    os.kill(before, signal.SIGKILL)
    real.more_rounds(1, 300)
    assert real.status()["superlink"] not in (None, before)


def test_a_gateway_that_is_stopped_and_started_finds_its_devices_again(real: Struck) -> None:
    real.down()
    assert real.status()["state"] == "down"
    real.up()
    real.more_rounds(1, 300)


def test_a_whole_server_that_is_killed_goes_on_where_it_was(real: Struck) -> None:
    real.phase("shares")
    status, open_ = real.status(), reserved(real)[-1]
    real.kill_server()
    real.up()
    assert not alive(status["superlink"])
    real.more_rounds(1, 300)
    ends = [line["type"] for line in real.ledger() if (line["round"], line["attempt"]) == open_]
    assert ends in (["reserve", "abort"], ["reserve", "commit"])
    assert len(set(reserved(real))) == len(reserved(real))


def test_a_server_is_run_once_at_a_time(real: Struck) -> None:
    command = [sys.executable, "-m", "fedrec.cli.main", "server", "up", "--home", str(real.server)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "is running this server already" in done.stderr


# Keys and apps


def test_who_has_the_certificate_alone_can_neither_manage_nor_take_part(real: Struck) -> None:
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


def test_a_device_takes_no_app_that_its_servers_key_has_not_signed(real: Struck) -> None:
    device = real.devices[3]
    real.stop(device)
    home = DeviceHome.open(device.home)
    trust, before = home.trust(), real.charges(device)
    assert trust is not None
    other = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    trust.model_copy(update={"app_key": other}).save(home.trust_path)
    real.start(device)
    real.comes_online(device)
    found = real.phase("advert")
    while found["asked"] == found["answered"]:
        found = real.phase("advert")
    real.more_rounds(1)
    assert real.charges(device) == before
    real.stop(device)
    trust.save(home.trust_path)


def test_a_device_with_an_unregistered_key_does_not_get_in(real: Struck) -> None:
    device = real.devices[3]
    home = DeviceHome.open(device.home)
    before, kept = real.charges(device), (home.node_key.read_bytes(), home.node_public_key.read_bytes())
    stranger = DeviceHome.create(device.home.parent / "stranger")
    home.node_key.write_bytes(stranger.node_key.read_bytes())
    home.node_public_key.write_bytes(stranger.node_public_key.read_bytes())
    real.start(device)
    real.wait("it was refused", 120, lambda: "the SuperNode has ended" in real.said(device))
    real.more_rounds(1)
    assert "online" not in real.said(device)
    assert real.charges(device) == before
    real.stop(device)
    home.node_key.write_bytes(kept[0])
    home.node_public_key.write_bytes(kept[1])
    real.start(device)
    real.comes_online(device)


def test_a_device_gives_nothing_to_a_server_of_another_authority(real: Struck) -> None:
    device = real.devices[3]
    real.stop(device)
    home = DeviceHome.open(device.home)
    trust, before = home.trust(), real.charges(device)
    assert trust is not None
    trust.model_copy(update={"ca": new_ca("another", today()).certificate.decode()}).save(home.trust_path)
    real.start(device)
    real.wait("its owner was told", 60, lambda: "is not the server of the invitation" in real.said(device))
    real.more_rounds(1)
    assert "online" not in real.said(device)
    assert real.charges(device) == before
    real.stop(device)
    trust.save(home.trust_path)


def test_an_expired_certificate_is_not_taken_and_a_renewed_one_is(real: Struck) -> None:
    device, home = real.devices[3], ServerHome.open(real.server)
    authority = Pair(home.ca.read_bytes(), home.ca.with_suffix(".key").read_bytes())
    pair = new_server(authority, ["127.0.0.1"], today() - timedelta(days=30), days=10)
    expired = home.root / "expired.pem"
    expired.write_bytes(pair.certificate + pair.key)
    expired.rename(home.certificate)
    log = home.logs / "gateway.log"
    real.wait("it was shown", 30, lambda: "the new certificate is in force" in log.read_text())
    real.start(device)
    real.wait("its owner was told", 60, lambda: "has expired; its operator renews it" in real.said(device))
    assert "online" not in real.said(device)
    real.run("server", "renew", "--home", str(real.server))
    real.comes_online(device)
    real.everybody()


def test_a_revoked_device_is_asked_no_more_and_the_others_go_on(real: Struck) -> None:
    real.run("server", "revoke", "4", "--home", str(real.server))
    real.wait("Flower was told", 60, lambda: bool(real.log("unregistered", "server")))
    real.more_rounds(1, 240)  # it may still be in the one that had begun
    before = real.charges(real.devices[3])
    real.more_rounds(1, 240)
    assert real.log("round")[-1]["cohort"] == 3
    assert real.charges(real.devices[3]) == before
    real.wait("its owner was told", 60, lambda: "it was revoked; ask its operator" in real.said(real.devices[3]))


def test_it_ends_in_order_and_the_record_of_all_this_passes_the_audit(real: Struck) -> None:
    status, port = real.status(), ServerHome.open(real.server).config.port
    assert real.down() == 0
    assert not any(alive(status[name]) for name in ("server", "superlink", "trainer") if status[name])
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))
    assert not verify(real.server / "run").faults
