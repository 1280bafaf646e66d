"""Death at every fault point: nothing is lost or forgotten, nothing is answered twice, and training goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedrec.audit.verify import verify
from fedrec.device import history
from fedrec.errors import DeviceError
from fedrec.faults import POINTS
from tests.deployment.members import seen
from tests.device.damage import PAGE, change, page_of
from tests.faults.running import run
from tests.faults.world import NUMBERS, World

Copy = Callable[[World], World]


@dataclass(frozen=True)
class Kill:
    """A process that trains dies, and another one goes on.

    Attributes:
        point: where.
        since: from which moment on (`tests.faults.training`).
        attempts: how many of the round are in the ledger once it is done: 2 where the killed one counts.
        vectors: whether vectors have left devices by then.
    """

    point: str
    since: str
    attempts: int
    vectors: bool

    @property
    def round(self) -> int:
        return int(self.since[-1]) if self.since else 1

    def __str__(self) -> str:
        return f"{self.point} since {self.since or 'the start'}"


KILLS = (
    # The server, before, in and after its record of an attempt
    Kill("folder.before-rename", "", attempts=1, vectors=False),
    Kill("folder.renamed", "", attempts=1, vectors=False),
    Kill("ledger.written", "", attempts=1, vectors=False),
    Kill("server.recruited", "", attempts=1, vectors=False),
    Kill("run.planned", "", attempts=1, vectors=False),
    Kill("ledger.before-write", "recruit 1", attempts=1, vectors=False),
    Kill("ledger.written", "recruit 1", attempts=2, vectors=False),
    Kill("ledger.synced", "recruit 1", attempts=2, vectors=False),
    Kill("run.reserved", "", attempts=2, vectors=False),
    # Everybody at once, as the power of a machine; the first device is at that point
    Kill("secagg.progress-stored", "recruit 1", attempts=2, vectors=False),
    Kill("store.before-commit", "recruit 1", attempts=2, vectors=False),
    Kill("store.after-commit", "recruit 1", attempts=2, vectors=False),
    Kill("device.checked", "recruit 1", attempts=2, vectors=False),
    Kill("device.charged", "recruit 1", attempts=2, vectors=False),
    Kill("device.marked", "recruit 1", attempts=2, vectors=False),
    Kill("device.contributed", "recruit 1", attempts=2, vectors=False),
    Kill("device.kept", "recruit 1", attempts=2, vectors=False),
    # The server with a sum: it is never opened a second time under the same charge
    Kill("run.collected", "", attempts=2, vectors=True),
    Kill("run.aggregated", "", attempts=2, vectors=True),
    Kill("ledger.before-write", "collect 1", attempts=2, vectors=True),
    Kill("ledger.written", "collect 1", attempts=2, vectors=True),
    Kill("ledger.synced", "collect 1", attempts=2, vectors=True),
    Kill("run.committed", "", attempts=2, vectors=True),
    Kill("folder.round-written", "", attempts=2, vectors=True),
    Kill("run.recorded", "", attempts=2, vectors=True),
    Kill("folder.before-rename", "collect 1", attempts=2, vectors=True),
    Kill("folder.renamed", "collect 1", attempts=2, vectors=True),
    Kill("run.saved", "", attempts=1, vectors=True),
    Kill("server.published", "", attempts=1, vectors=True),
    # A later round, whose adverts came with the one before
    Kill("device.charged", "recruit 2", attempts=2, vectors=True),
    Kill("run.committed", "recruit 2", attempts=2, vectors=True),
)
RESTORING = ("restore.copied", "restore.aside", "restore.replaced")
RECORDING = ("store.before-commit", "store.after-commit")


def test_every_point_of_the_library_has_a_case() -> None:
    assert {kill.point for kill in KILLS} | {*RESTORING, *RECORDING} == POINTS


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_training_goes_on_after_a_kill(made: World, trained: World, copied: Copy, kill: Kill) -> None:
    world = copied(made if kill.round == 1 else trained)
    killed = run("training", str(world.root), "3", kill.since, point=kill.point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert any(reply["phase"] == "masked" for reply in world.replies()) == kill.vectors
    world.check()
    after = run("training", str(world.root), str(kill.round))
    assert after.returncode == 0, after.stderr
    world.check()
    places = [place for place in world.charged() if place[0] == kill.round]
    assert places == [(kill.round, attempt) for attempt in range(kill.attempts)]
    ends = [line["type"] for line in world.ledger() if line["type"] != "reserve" and line["round"] == kill.round]
    assert len(ends) == kill.attempts
    assert ends[-1] == "commit"
    assert all(places[-1] in world.charges(number) for number in NUMBERS), "all four devices are in again"


def test_a_run_that_was_killed_again_and_again_passes_the_audit(made: World, copied: Copy) -> None:
    world = copied(made)
    points = ("run.reserved", "device.charged", "run.recorded", "server.published", "device.marked", "run.committed")
    for point in points:
        killed = run("training", str(world.root), "3", point=point)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        world.check()
    after = run("training", str(world.root), "3")
    assert after.returncode == 0, after.stderr
    world.check()
    assert world.server.run.joinpath("summary.json").exists()
    assert not verify(world.server.run).faults


@pytest.mark.parametrize("point", RECORDING)
def test_no_interaction_that_was_recorded_is_lost(made: World, copied: Copy, point: str) -> None:
    world = copied(made)
    killed = run("recording", str(world.root), point=point)
    assert killed.returncode == -signal.SIGKILL
    told, held = killed.stdout.split(), world.items(1)[len(seen(1)) :]
    assert told == ["new-0", "new-1", "new-2"]
    assert held == told + ["new-3"] * (point == "store.after-commit")


@pytest.mark.parametrize("point", RESTORING)
def test_a_restoring_that_was_killed_is_done_again(trained: World, copied: Copy, tmp_path: Path, point: str) -> None:
    world, backup = copied(trained), tmp_path / "backup"
    device = world.device(1)
    with device.open_store() as store:
        store.backup(backup)
        history.record(store, "later", at=1_800_000_000)
    change(device.store_path, page_of(device.store_path, "documents"), bytes(PAGE))
    killed = run("restoring", str(world.root), str(backup), point=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if point != "restore.replaced":
        with pytest.raises(DeviceError, match="is damaged"):
            device.open_store()
        assert run("restoring", str(world.root), str(backup)).returncode == 0
    assert world.items(1) == [*seen(1), "later"]
    after = run("training", str(world.root), "2")
    assert after.returncode == 0, after.stderr
    world.check()
    assert list(world.charges(1)) == [(1, 0), (2, 0)]
