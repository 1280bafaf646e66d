"""One agent a device, and what it tells its owner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.device.agent import Agent, alone
from fedrec.device.home import DeviceHome
from fedrec.errors import DeviceError

HOLDS = """
import sys
from pathlib import Path
from fedrec.device.agent import alone
from fedrec.device.home import DeviceHome

with alone(DeviceHome.open(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def device(tmp_path: Path) -> DeviceHome:
    return DeviceHome.create(tmp_path / "device")


def test_a_second_agent_is_told_which_process_is_the_first(device: DeviceHome) -> None:
    with alone(device), pytest.raises(DeviceError, match=f"Process {os.getpid()} runs this device already"):
        alone(device).__enter__()


def test_a_killed_agent_leaves_no_lock_behind(device: DeviceHome) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(device.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(DeviceError, match=f"Process {first.pid} runs"):
            alone(device).__enter__()
        first.kill()
        first.wait()
        with alone(device):
            pass


def test_a_device_that_is_not_enrolled_does_not_start(device: DeviceHome) -> None:
    with pytest.raises(DeviceError, match="not enrolled"):
        Agent(device, print).run()
