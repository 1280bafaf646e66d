"""Nodes in this process, and what Flower's runtime gives to a process before an app runs in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedrec.config import Experiment
from fedrec.errors import FedrecError
from fedrec.flower import clientapp
from tests.flower.grids import InProcess

Tamper = Callable[[Message, Message], list[Message]]
"""From what a node was asked and what it answers to what it sends instead."""


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Messages carry the identity of the process that made them; nodes keep their secrets under Flower's home."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def nodes() -> type[Nodes]:
    """The class of a grid of nodes."""
    return Nodes


def honest(asked: Message, answer: Message) -> list[Message]:  # noqa: ARG001 - a Tamper's arguments
    return [answer]


class Nodes(InProcess):
    """Nodes that run the real ClientApp in this process, one partition each; ids and replies come in any order."""

    def __init__(self, experiment: Experiment, count: int, tamper: Tamper = honest, order: int = 1) -> None:
        super().__init__(order)
        ids = self.shuffle.sample(range(10, 99), count)
        self.contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": partition, "num-partitions": count},
                state=RecordDict(),
                run_config={"experiment": experiment.to_toml()},
            )
            for partition, node in enumerate(ids)
        }
        self._tamper = tamper

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def replies(self, asked: Message) -> list[Message]:
        try:
            answer = clientapp.app(asked, self.contexts[asked.metadata.dst_node_id])
        except FedrecError as error:  # as a node does with whatever its ClientApp raises
            answer = Message(Error(2, str(error)), reply_to=asked)
        return self._tamper(asked, answer) if asked.metadata.message_type.startswith("train") else [answer]
