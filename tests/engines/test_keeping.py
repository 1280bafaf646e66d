"""What of a run is on the disk while it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fedrec.config import Experiment
from fedrec.data.home import home
from fedrec.engines import keeping, simulate
from fedrec.engines.base import Collected
from fedrec.engines.setting import Setting
from fedrec.federation import checkpoint
from fedrec.federation.round import Plan
from fedrec.models.base import Shared
from fedrec.privacy.keys import signing_key
from fedrec.reporting.folder import RunFolder

Tiny = Callable[..., Experiment]

SECURE = ("privacy.source=secure", "privacy.noise_multiplier=4.0")


def flushes(rounds: list[int], tiny: Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often runs of so many rounds wait for the disk."""
    counts, really = [0] * len(rounds), os.fsync
    signing_key(home())  # made at the first run, and then there
    for number, n in enumerate(rounds):

        def fsync(descriptor: int, number: int = number) -> None:
            counts[number] += 1
            really(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fsync)
            simulate.start(tiny(f"federation.rounds={n}"), partial(RunFolder.create, folder / str(n)))
    return counts


def test_a_seeded_simulation_does_not_wait_for_the_disk_in_every_round(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "APART_S", 3600.0)
    few, many = flushes([1, 6], tiny, tmp_path, monkeypatch)
    assert few == many


def test_it_does_where_a_round_is_as_long_as_the_time_between_checkpoints(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "APART_S", 1e-9)
    few, many = flushes([1, 6], tiny, tmp_path, monkeypatch)
    assert many == few + 5 * 4  # ledger, rounds, and the checkpoint with its name


class Looking:
    """A fleet that looks, whenever it is asked, at how far the run's folder is: ledger lines, rounds, checkpoint."""

    name = "fleet"

    def __init__(self, folder: Path, seen: list[tuple[int, int, int]], setting: Setting) -> None:
        self.folder, self.seen, self.experiment = folder, seen, setting.experiment
        self.fleet = simulate.fleet(setting)

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        lines = (self.folder / "ledger.jsonl").read_bytes().count(b"\n")
        self.seen.append((lines, len(RunFolder(self.folder).rounds()), kept(self.folder, self.experiment)[0]))
        return self.fleet.collect(plan, shared)


def test_where_noise_is_secure_everything_is_on_the_disk_before_a_client_is_asked(tiny: Tiny, tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    folder = tmp_path / "run"
    simulate.start(tiny(*SECURE), partial(RunFolder.create, folder), partial(Looking, folder, seen))
    assert seen == [
        (2, 0, 0),
        (4, 1, 1),
        (6, 2, 2),
    ]  # the opening, the reservation, and two lines for each round before


class Interrupted(Looking):
    """Interrupted in its third round, after something else happened."""

    def __init__(self, before: Callable[[], None], folder: Path, setting: Setting) -> None:
        super().__init__(folder, [], setting)
        self.before = before

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        if plan.round < 3:
            return super().collect(plan, shared)
        self.before()
        raise KeyboardInterrupt


def kept(folder: Path, experiment: Experiment) -> tuple[int, int]:
    """The round of the checkpoint on the disk, and the lines of the ledger that it knows."""
    state, ledger_size = checkpoint.load((folder / "checkpoint.safetensors").read_bytes(), experiment, "checkpoint")
    return state.round, ledger_size


def test_an_interrupted_simulation_keeps_its_last_round(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "APART_S", 3600.0)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        simulate.start(tiny(), partial(RunFolder.create, folder), partial(Interrupted, lambda: None, folder))
    assert kept(folder, tiny()) == (2, 5)
    assert len(RunFolder(folder).rounds()) == 2


def test_what_cannot_be_kept_does_not_hide_what_ended_the_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "APART_S", 3600.0)
    folder = tmp_path / "run"

    def full(descriptor: int) -> None:  # noqa: ARG001 - as os.fsync
        raise OSError(28, "No space left on device")

    fill = partial(monkeypatch.setattr, os, "fsync", full)
    with pytest.raises(KeyboardInterrupt):
        simulate.start(tiny(), partial(RunFolder.create, folder), partial(Interrupted, fill, folder))
    monkeypatch.undo()
    assert kept(folder, tiny()) == (0, 1)  # a state that the ledger on the disk may not lead to is not kept
    simulate.resume(tiny(), RunFolder.open(folder))
    simulate.start(tiny(), partial(RunFolder.create, tmp_path / "whole"))
    for name in ("model.safetensors", "ledger.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
