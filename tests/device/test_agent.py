"""One agent a device, and what it tells its owner."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedrec.device import agent
from fedrec.device.agent import Agent, _Preparation, alone
from fedrec.device.home import DeviceHome
from fedrec.device.preparation import experiment_of
from fedrec.device.store import Store
from fedrec.errors import DeviceError
from tests.device.fleet import resolved

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


def test_a_preparation_that_has_failed_is_tried_again(device: DeviceHome) -> None:
    text = resolved()
    with device.open_store() as store, contextlib.ExitStack() as stack:
        store.put(f"experiment-{experiment_of(text).digest()}", text.encode())  # its catalogue is not here
        preparation = _Preparation(device, store, stack, pause=0.0)
        for _ in range(2):
            assert preparation.look() is None
            assert preparation.busy
            while preparation.busy:
                said = preparation.look()
                time.sleep(0.05)
            assert said is not None
            assert "another catalogue" in said


def test_nothing_is_looked_for_while_the_store_is_as_it_was(device: DeviceHome) -> None:
    with device.open_store() as store, contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        looks: list[Store] = []

        def wanted(store: Store) -> list[str]:
            looks.append(store)
            return []

        patch.setattr(agent, "wanted", wanted)
        preparation = _Preparation(device, store, stack)
        for _ in range(5):
            preparation.look()
        assert len(looks) == 1
        with device.open_store() as other:
            other.put("something", b"new")
        preparation.look()
        assert len(looks) == 2
