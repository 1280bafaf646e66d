"""A deployment of real processes whose parts are killed one by one, and what its books must say after that."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from fedrec.device.charges import Charges
from fedrec.device.home import DeviceHome
from fedrec.device.policy import load_policy
from fedrec.secagg.store import FolderStore
from simulations.local_deployment import Device
from tests.deployment.real import SEEN, Real, below

DEVICES = 4

Place = tuple[int, int]


class Struck(Real):
    """A server and four devices; a round can do without one of them."""

    def begin(self) -> None:
        """Make and start all of it, and wait for the first round."""
        self.prepare(DEVICES, rounds=200, deadline=25.0, spare=20)
        for device in self.devices:
            self.start(device)
        self.more_rounds(1, 240)

    # What happens

    @property
    def done(self) -> int:
        """How many rounds are done."""
        return len(self.log("round"))

    def more_rounds(self, n: int, seconds: float = 200, survivors: int = 3) -> None:
        """Wait for the n-th round from now of so many devices."""
        before = self.done
        self.wait(
            f"{n} rounds of {survivors} devices were done",
            seconds,
            lambda: sum(line["survivors"] >= survivors for line in self.log("round")[before:]) >= n,
        )

    def phase(self, name: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until a phase that is not over yet is over: what is told of it."""
        before = len(self._phases(name))
        self.wait(f"phase {name} was over", seconds, lambda: len(self._phases(name)) > before)
        return self._phases(name)[before]

    def phase_of_all(self, name: str, answered: int = 0) -> dict[str, Any]:
        """Wait until a phase is over in which all four were asked, and so many have answered."""
        while True:
            found = self.phase(name)
            if found["asked"] == DEVICES and found["answered"] >= answered:
                return found

    def comes_online(self, device: Device) -> None:
        """Wait until a device that was started is let in; Flower refuses a killed one for about 47 s."""
        self.wait(f"{device.name} was let in", 180, lambda: "online" in self.said(device).rpartition("has ended")[2])

    def everybody(self, seconds: float = 240) -> None:
        """Wait until a round has all four devices: those that were killed are let in again."""
        self.more_rounds(1, seconds, survivors=DEVICES)

    def _phases(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log("phase") if line["phase"] == name]

    # What is done to it

    def kill_agent(self, device: Device) -> None:
        """SIGKILL to a device's agent alone."""
        assert device.agent is not None
        device.agent.kill()
        device.agent.wait()
        device.agent = None

    def kill_of(self, device: Device, word: str, seconds: float = 60) -> None:
        """SIGKILL to the first process that appears among a device's whose command line has a word."""
        assert device.agent is not None
        agent = device.agent.pid
        self.until(lambda: below(agent, word), seconds, f"{word} runs")
        for pid in below(agent, word):
            os.kill(pid, signal.SIGKILL)

    @staticmethod
    def until(true: Callable[[], object], seconds: float, why: str) -> None:
        """Look often: what is waited for may be over soon."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"{why}: not within {seconds:g} s"
            time.sleep(0.02)

    # The books

    def ledger(self) -> list[dict[str, Any]]:
        """The whole lines of the server's ledger, after its opening."""
        return self.lines("ledger.jsonl")[1:]

    def charges(self, device: Device) -> dict[Place, dict[str, Any]]:
        """What a device has charged, by its own chain of charges."""
        home = DeviceHome.open(device.home)
        with home.open_store() as store:
            every = Charges(store, load_policy(home.policy_path), outside=FolderStore(home.secagg)).all()
        return {charge.place: json.loads(charge.events) for charge in every}

    def check(self) -> None:
        """Both sides' books agree, and nobody's history has changed."""
        own = [self.charges(device) for device in self.devices]  # first: a device charges after the server
        ledger = self.ledger()
        costs = {(line["round"], line["attempt"]): line["events"] for line in ledger if line["type"] == "reserve"}
        assert len(costs) == sum(line["type"] == "reserve" for line in ledger), "an attempt is charged once"
        for line in ledger:
            if line["type"] == "release":
                del costs[line["round"], line["attempt"]]
        for charges in own:
            assert all(costs[place] == events for place, events in charges.items())
        sums = {(line["round"], line["attempt"]): line["survivors"] for line in ledger if line["type"] == "commit"}
        assert len({round_ for round_, _ in sums}) >= self.done
        newest = max((place for charges in own for place in charges), default=(0, 0))
        for place, survivors in sums.items():
            if place < newest:
                assert sum(place in charges for charges in own) >= survivors >= 3, "what is in a sum is charged"
        for device in self.devices:
            with DeviceHome.open(device.home).open_store() as store:
                assert store.query("SELECT count(*) FROM interactions") == [(SEEN,)]
