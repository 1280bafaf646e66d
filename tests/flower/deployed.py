"""A whole deployment in one process: a server's real folder, real devices, and a grid that hands messages to them."""

from __future__ import annotations

import base64
import random
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedrec.agreements.enrolment import Enrolment, node_key_pem
from fedrec.config import resolve
from fedrec.data.interactions import Catalogue
from fedrec.deployment.home import ServerConfig, ServerHome
from fedrec.deployment.journal import Journal
from fedrec.deployment.registry import Registry
from fedrec.deployment.training import LOG, train
from fedrec.device import catalogue as catalogues
from fedrec.device import history, preparation
from fedrec.device.home import DeviceHome
from fedrec.device.supernode import DEVICE_HOME
from fedrec.device.trust import Trust
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation
from fedrec.flower import deviceapp
from fedrec.flower.devices import DeviceEngine

ITEMS = Catalogue(np.array([f"item-{i}" for i in range(40)]))

POLICY = """
opt_in = true
min_cohort = 3
min_noise_multiplier = 0.1
epsilon_day = 50.0
epsilon_total = 50.0
answer_seconds = 0.0
"""

Tamper = Callable[[int, Message, Message], list[Message]]
"""From a device's number, what it was asked and what it answers to what arrives instead."""


def honest(number: int, asked: Message, answer: Message) -> list[Message]:  # noqa: ARG001 - a Tamper's arguments
    return [answer]


class Deployment(Grid):
    """Devices 1 to n, enrolled and prepared, with their server; also the grid between them.

    Attributes:
        home: the server's folder.
        devices: the devices' folders, by number.
        online: the numbers of those that are.
        tamper: what is done to replies.
        asked: every message: its device's number and its type.
    """

    def __init__(self, folder: Path, n: int = 4, **sections: Any) -> None:
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
            self._enrol(number, device)
        self.online = set(self.devices)
        self.tamper: Tamper = honest
        self.asked: list[tuple[int, str]] = []
        self._order = random.Random(1)  # noqa: S311 - an order, no secret
        self._inbox: dict[str, Message] = {}

    def _enrol(self, number: int, device: DeviceHome) -> None:
        token = self.registry.new_token(int(time.time()), 1.0)
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        member = device.identity().member()
        key = node_key_pem(device.node_public_key.read_bytes())
        enrolled = self.registry.enrol(
            Enrolment(raw, member.identity, member.channel, device.alias(), key), int(time.time())
        )
        assert enrolled.number == number
        self.registry.note_node(number, str(1000 + number))
        invitation = self.home.invitation(token)
        Trust(**invitation.model_dump(exclude={"token"}), number=number, node_id=str(1000 + number)).save(
            device.trust_path
        )
        device.policy_path.write_text(POLICY)
        with device.open_store() as store:
            store.put(catalogues.DOCUMENT, catalogues.to_bytes(ITEMS))
            for item in range(number, 40, 2 + number):
                history.record(store, f"item-{item}", at=1_700_000_000 + item)
            preparation.prepare(store, self.home.experiment_text())

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

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._delivered(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        names = [name for name in sorted(message_ids) if name in self._inbox]
        self._order.shuffle(names)
        return [reply for name in names for reply in self._replies(self._inbox.pop(name))]

    def _delivered(self, message: Message) -> str:
        meta, name = message.metadata, uuid.UUID(int=self._order.getrandbits(128)).hex
        numbered = Metadata(
            1, name, 1, meta.dst_node_id, "", meta.group_id, meta.created_at, meta.ttl, meta.message_type
        )
        self._inbox[name] = Message(message.content, metadata=numbered)  # type: ignore[call-overload] # as Flower's grids do
        return name

    def _replies(self, asked: Message) -> list[Message]:
        number = asked.metadata.dst_node_id - 1000
        self.asked.append((number, asked.metadata.message_type.removeprefix("train.")))
        config: dict[str, bool | float | int | str] = {"experiment": self.home.experiment_text()}
        context = Context(1, asked.metadata.dst_node_id, {}, RecordDict(), config)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(DEVICE_HOME, str(self.devices[number].root))
            answer = deviceapp.app(asked, context)
        return self.tamper(number, asked, answer)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


def gone(numbers: Sequence[int], phase: str) -> Tamper:
    """Devices that answer a phase with Flower's error, as a ClientApp that was killed."""

    def tamper(number: int, asked: Message, answer: Message) -> list[Message]:
        if number in numbers and asked.metadata.message_type == f"train.{phase}":
            return [Message(Error(2, "killed"), reply_to=asked)]
        return [answer]

    return tamper
