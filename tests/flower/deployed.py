"""A whole deployment in one process: a server's real folder, real devices, and a grid that hands messages to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedrec.config import resolve
from fedrec.deployment.home import ServerConfig, ServerHome
from fedrec.deployment.journal import Journal
from fedrec.deployment.registry import Registry
from fedrec.deployment.training import LOG, train
from fedrec.device.home import DeviceHome
from fedrec.device.supernode import DEVICE_HOME
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation
from fedrec.flower import deviceapp
from fedrec.flower.devices import DeviceEngine
from tests.deployment.members import ITEMS, enrol
from tests.flower.grids import InProcess

Tamper = Callable[[int, Message, Message], list[Message]]
"""From a device's number, what it was asked and what it answers to what arrives instead."""


def honest(number: int, asked: Message, answer: Message) -> list[Message]:  # noqa: ARG001 - a Tamper's arguments
    return [answer]


class Deployment(InProcess):
    """Devices 1 to n, enrolled and prepared, with their server; also the grid between them.

    Attributes:
        home: the server's folder.
        devices: the devices' folders, by number.
        online: the numbers of those that are.
        tamper: what is done to replies.
        asked: every message: its device's number and its type.
    """

    def __init__(self, folder: Path, n: int = 4, **sections: Any) -> None:
        super().__init__()
        plain: dict[str, Any] = {
            "data": {"name": "synthetic"},
            "model": {"name": "mf", "start": "random", "dimension": 4},
            "federation": {"rounds": 1, "cohort": n, "min_cohort": 3},
            "privacy": {"noise_multiplier": 20.0},
            "deployment": {"deadline": 5.0, "answer_seconds": 0.0},
        }
        merged = {name: {**plain.get(name, {}), **sections.get(name, {})} for name in {**plain, **sections}}
        self.home = ServerHome.create(folder / "server", ServerConfig(public_name="localhost"), resolve(merged), ITEMS)
        self.registry: Registry = self.home.registry()
        self.devices = {number: DeviceHome.create(folder / f"device-{number}") for number in range(1, n + 1)}
        for number, device in self.devices.items():
            enrol(self.home, self.registry, number, device, 1000 + number)
        self.online = set(self.devices)
        self.tamper: Tamper = honest
        self.asked: list[tuple[int, str]] = []

    def engine(self, federation: Federation, registry: Registry, journal: Journal) -> DeviceEngine:
        return DeviceEngine(self, federation, registry, self.home.key("request"), "7", journal)

    def train(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_task_id", "_run_id", "_node_id"):
                patch.setattr(TaskIdentity, name, 1)  # which Flower's runtime gives to a process
            train(self.home, self.engine)

    def parts(self) -> tuple[Federation, Registry, Journal]:
        """What an engine is made of."""
        experiment = self.home.experiment()
        federation = make_federation(experiment, ITEMS, experiment.federation.cohort or 0)
        return federation, self.registry, Journal(self.home.logs / LOG)

    def codes(self, number: int) -> list[str]:
        """The refusals in a device's store."""
        with self.devices[number].open_store() as store:
            return [code for (code,) in store.query("SELECT code FROM refusals ORDER BY id")]

    def charges(self, number: int) -> list[tuple[int, int]]:
        """Round and attempt of everything that a device charged."""
        with self.devices[number].open_store() as store:
            return [(a, b) for a, b in store.query("SELECT round, attempt FROM charges ORDER BY rowid")]

    # The grid

    def get_node_ids(self) -> Iterable[int]:
        return [1000 + number for number in self.online]

    def replies(self, asked: Message) -> list[Message]:
        number = asked.metadata.dst_node_id - 1000
        self.asked.append((number, asked.metadata.message_type.removeprefix("train.")))
        config: dict[str, bool | float | int | str] = {"experiment": self.home.experiment_text()}
        context = Context(1, asked.metadata.dst_node_id, {}, RecordDict(), config)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(DEVICE_HOME, str(self.devices[number].root))
            answer = deviceapp.app(asked, context)
        return self.tamper(number, asked, answer)


def gone(numbers: Sequence[int], phase: str) -> Tamper:
    """Devices that answer a phase with Flower's error, as a ClientApp that was killed."""

    def tamper(number: int, asked: Message, answer: Message) -> list[Message]:
        if number in numbers and asked.metadata.message_type == f"train.{phase}":
            return [Message(Error(2, "killed"), reply_to=asked)]
        return [answer]

    return tamper
