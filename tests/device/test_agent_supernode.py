"""The SuperNode of a device: real ``flower-supernode`` processes, with no server to reach."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrec.device.home import DeviceHome
from fedrec.device.supernode import SuperNode, environment
from fedrec.device.trust import Trust
from fedrec.errors import DeviceError
from tests.deployment.members import without_server

STARTS = """
import sys
from pathlib import Path
from fedrec.device.home import DeviceHome
from fedrec.device.supernode import SuperNode

home = DeviceHome.open(Path(sys.argv[1]))
node = SuperNode(home, home.trust())
output = node.start()
print(node.pid, flush=True)
for line in output:
    print(line, end="", flush=True)
"""
"""An agent that can only start."""


@pytest.fixture
def device(tmp_path: Path) -> DeviceHome:
    return without_server(tmp_path / "device")


def trust(home: DeviceHome) -> Trust:
    found = home.trust()
    assert found is not None
    return found


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def of_session(leader: int) -> list[int]:
    """The processes that still run in a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(session) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_flowers_folder_is_made_anew_for_the_owner_alone(device: DeviceHome) -> None:
    (device.flwr / "apps" / "fedrec.fedrec-run.1.0.0.abcd").mkdir(parents=True)
    (device.flwr / "apps" / "fedrec.fedrec-run.1.0.0.abcd" / "numpy.py").write_text("left by somebody")
    SuperNode(device, trust(device))
    assert sorted(path.name for path in device.flwr.iterdir()) == ["bin", "ca.pem", "trusted.yaml"]
    for path in (device.flwr, *device.flwr.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_only_the_enrolled_app_key_is_trusted(device: DeviceHome) -> None:
    SuperNode(device, trust(device))
    trusted = json.loads((device.flwr / "trusted.yaml").read_text(encoding="utf-8"))
    assert list(trusted) == ["fpk_1"]
    kind, body = trusted["fpk_1"].split()
    assert kind == "ssh-ed25519"
    assert base64.b64decode(body).endswith(bytes(31) + b"\1")


def test_a_link_in_the_place_of_flowers_folder_is_not_followed(device: DeviceHome, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("")
    device.flwr.rmdir()
    device.flwr.symlink_to(other)
    with pytest.raises(DeviceError, match="is a link"):
        SuperNode(device, trust(device))
    assert (other / "precious").exists()


def test_flower_sees_none_of_the_owners_flower_settings(device: DeviceHome) -> None:
    seen = environment(device, {"FLWR_HOME": "/elsewhere", "FLWR_LICENSE_KEY": "x", "HOME": "/h", "PATH": "/bin"})
    assert seen["FLWR_HOME"] == str(device.flwr)
    assert "FLWR_LICENSE_KEY" not in seen
    assert (seen["HOME"], seen["PATH"]) == ("/h", f"{device.flwr}/bin:/bin")
    assert seen["FLWR_TELEMETRY_ENABLED"] == "0"


@pytest.mark.slow
def test_stopping_leaves_no_process(device: DeviceHome) -> None:
    node = SuperNode(device, trust(device))
    with node.start() as output:
        leader = node.pid
        assert leader is not None
        assert any("Starting Flower SuperExec" in line for line in output)  # found on the PATH, with its parent
        assert len(of_session(leader)) >= 2
        node.stop()
    assert node.pid is None
    until(lambda: not of_session(leader))


@pytest.mark.slow
def test_a_killed_supernode_is_noticed_and_its_children_end(device: DeviceHome) -> None:
    node = SuperNode(device, trust(device))
    with node.start() as output:
        leader = node.pid
        assert leader is not None
        assert any("Starting Flower SuperExec" in line for line in output)
        assert node.ended() is None
        os.kill(leader, signal.SIGKILL)
        os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
        assert node.ended() == -signal.SIGKILL
    until(lambda: not of_session(leader))


@pytest.mark.slow
def test_a_supernode_does_not_outlive_a_killed_agent(device: DeviceHome) -> None:
    agent = subprocess.Popen([sys.executable, "-c", STARTS, str(device.root)], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    leader = int(agent.stdout.readline())
    assert any("Starting Flower SuperExec" in line for line in agent.stdout)
    agent.kill()
    agent.wait()
    until(lambda: not of_session(leader))
    agent.stdout.close()
