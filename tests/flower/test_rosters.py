"""The signed roster goes to a device that may not have it, and to no other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from flwr.app import Message

from fedrec.deployment.journal import Journal
from fedrec.deployment.registry import Registry
from fedrec.device import rosters
from fedrec.device.home import DeviceHome
from fedrec.federation.round import Federation
from fedrec.flower.codec import decode
from fedrec.flower.devices import DeviceEngine
from fedrec.reporting.folder import RunFolder
from tests.deployment.members import enrol
from tests.flower.deployed import Deployment


class Shown(Deployment):
    """Writes down who is shown a roster and when, and lets something happen between the first two rounds."""

    def __init__(self, folder: Path, trust: str, between: Callable[[Deployment], None]) -> None:
        privacy = {"trust": trust, "epsilon": 100.0}
        super().__init__(folder, federation={"rounds": 3, "cohort": 5}, privacy=privacy)
        self.between = partial(between, self)
        self.shown: list[tuple[int, int, str]] = []

    def replies(self, asked: Message) -> list[Message]:
        if "roster" in decode(asked).config:
            phase = asked.metadata.message_type.removeprefix("train.")
            self.shown.append((len(self.survivors()) + 1, asked.metadata.dst_node_id - 1000, phase))
        return super().replies(asked)

    def survivors(self) -> list[int]:
        return [line["survivors"] for line in RunFolder.open(self.home.run).rounds()]

    def engine(self, federation: Federation, registry: Registry, journal: Journal) -> DeviceEngine:
        made = super().engine(federation, registry, journal)
        recruit = made.recruit

        def recruited(round_: int, attempt: int) -> tuple[int, ...]:
            if round_ == 2:
                self.between()
            return recruit(round_, attempt)

        made.recruit = recruited  # type: ignore[method-assign]
        return made


@pytest.mark.parametrize(("trust", "phase"), [("distributed", "advert"), ("local", "train")])
def test_each_device_is_shown_the_roster_once_and_again_when_it_has_lost_it(
    tmp_path: Path, trust: str, phase: str
) -> None:
    def forget(deployment: Deployment) -> None:  # as a store from an older backup
        with deployment.devices[4].open_store() as store:
            store.remove("roster")
            store.remove(rosters.document(deployment.registry.roster().digest))

    deployment = Shown(tmp_path, trust, forget)
    deployment.train()
    assert deployment.survivors() == [4, 3, 4]
    assert deployment.codes(4) == ["roster"]
    assert sorted(deployment.shown) == [*((1, who, phase) for who in range(1, 5)), (3, 4, phase)]


def test_a_new_member_has_everybody_shown_the_new_roster(tmp_path: Path) -> None:
    def join(deployment: Deployment) -> None:
        deployment.devices[5] = DeviceHome.create(tmp_path / "device-5")
        enrol(deployment.home, deployment.registry, 5, deployment.devices[5], 1005)
        deployment.online.add(5)

    deployment = Shown(tmp_path, "distributed", join)
    deployment.train()
    assert deployment.survivors() == [4, 5, 5]
    assert sorted(deployment.shown[4:]) == [*((2, who, "shares") for who in range(1, 5)), (2, 5, "advert")]
