"""A server and four devices in one folder, which can be copied; and what must hold of them whatever has happened."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.config import resolve
from fedrec.deployment.home import ServerConfig, ServerHome
from fedrec.device.home import DeviceHome
from tests.deployment.members import ITEMS, enrol, seen

NUMBERS = (1, 2, 3, 4)
ROUNDS = 3
EXPERIMENT: dict[str, Any] = {
    "data": {"name": "synthetic"},
    "model": {"name": "mf", "start": "random", "dimension": 4},
    "federation": {"rounds": ROUNDS, "cohort": len(NUMBERS), "min_cohort": 3, "attempts": 5},
    "privacy": {"noise_multiplier": 20.0, "epsilon": 50.0},
    "deployment": {"deadline": 5.0, "answer_seconds": 0.0},
}

Place = tuple[int, int]
"""Round and attempt."""


@dataclass(frozen=True)
class World:
    """A server, its devices, and a record of every byte that has left a device.

    Attributes:
        root: the folder of it all.
    """

    root: Path

    @staticmethod
    def create(root: Path) -> World:
        """Everybody is enrolled, has a history and has prepared the experiment."""
        home = ServerHome.create(root / "server", ServerConfig(public_name="localhost"), resolve(EXPERIMENT), ITEMS)
        registry = home.registry()
        for number in NUMBERS:
            enrol(home, registry, number, DeviceHome.create(root / f"device-{number}"), number)
        return World(root)

    @property
    def server(self) -> ServerHome:
        return ServerHome.open(self.root / "server")

    @property
    def sent(self) -> Path:
        """A JSON line for every reply of a device, written before the server has it."""
        return self.root / "sent.jsonl"

    def device(self, number: int) -> DeviceHome:
        return DeviceHome.open(self.root / f"device-{number}")

    def replies(self) -> list[dict[str, Any]]:
        return _lines(self.sent)

    def ledger(self) -> list[dict[str, Any]]:
        """The whole lines of the server's ledger, after its opening."""
        return _lines(self.server.run / "ledger.jsonl")[1:]

    def charged(self) -> dict[Place, dict[str, Any]]:
        """What every attempt costs that the server's ledger holds and has not released."""
        released = {_place(line) for line in self.ledger() if line["type"] == "release"}
        reserved = {_place(line): line["events"] for line in self.ledger() if line["type"] == "reserve"}
        return {place: events for place, events in reserved.items() if place not in released}

    def charges(self, number: int) -> dict[Place, dict[str, Any]]:
        """What every attempt costs that a device has charged."""
        with self.device(number).open_store() as store:
            rows = store.query("SELECT round, attempt, events FROM charges ORDER BY rowid")
        return {(round_, attempt): json.loads(events) for round_, attempt, events in rows}

    def items(self, number: int) -> list[str]:
        """What a device's user has seen."""
        with self.device(number).open_store() as store:
            return [item for (item,) in store.query("SELECT item FROM interactions ORDER BY id")]

    def codes(self, number: int) -> list[str]:
        """Why a device has refused, oldest first."""
        with self.device(number).open_store() as store:
            return [code for (code,) in store.query("SELECT code FROM refusals ORDER BY id")]

    def check(self, without: Collection[int] = ()) -> None:
        """No interaction is lost, nothing that was released is forgotten on either side, and no attempt was answered
        in two ways.

        Args:
            without: devices whose stores cannot tell.
        """
        charged, bytes_of = self.charged(), defaultdict(set)
        reserved = [_place(line) for line in self.ledger() if line["type"] == "reserve"]
        assert len(set(reserved)) == len(reserved), "an attempt is charged once"
        own = {number: self.charges(number) for number in NUMBERS if number not in without}
        for reply in self.replies():
            number, place = reply["device"], _place(reply)
            bytes_of[number, place, reply["phase"]].add(reply["sha256"])
            if reply["phase"] == "masked" and number in own:
                assert own[number][place] == charged[place], "what left is charged by the device and by the server"
            elif reply["phase"] != "advert":
                assert place in reserved
        assert all(len(different) == 1 for different in bytes_of.values())
        for number, charges in own.items():
            assert self.items(number)[: len(seen(number))] == seen(number)
            assert all(charged[place] == events for place, events in charges.items())


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines: one that a crash cut short has no end."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _place(line: dict[str, Any]) -> Place:
    return line["round"], line["attempt"]
