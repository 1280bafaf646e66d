"""Work "engine": whole rounds of ``fedrec simulate`` (ledger, checkpoint, metrics), against Flower's runtime on Ray.

The experiment is that of work "mf". A round is from where it reaches its clients to where the next does, so that
nothing of it is left out.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.engines.base import Collected
from fedrec.engines.fleet import Fleet
from fedrec.engines.setting import Setting
from fedrec.federation.round import Plan
from fedrec.models.base import Shared
from fedrec.reporting.folder import RunFolder
from simulations.benchmarks import mf
from simulations.benchmarks.peers.process import Peer
from simulations.benchmarks.rows import Row, clients, of, ratio

FLOWER_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Clocked:
    """The fleet, with the CPU and wall seconds at which each round reached it, and what its clients took."""

    fleet: Fleet
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    name: str = "fleet"

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        """As the fleet does."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())
        collected = self.fleet.collect(plan, shared)
        self.inside.append(time.process_time() - self.cpu[-1])
        return collected


def rows(repeats: int) -> list[Row]:
    """Rounds with metrics in each, rounds with metrics at the end, what they take beyond the clients, Flower's."""
    n, rounds = mf.setting("numba").split.train.n_users, max(2 * repeats, 10)
    with tempfile.TemporaryDirectory(prefix="fedrec-bench-") as scratch:
        place = Path(scratch)
        measured, plain = (_run(_experiment(rounds, every), place / str(every)) for every in (1, rounds))
        np.savez(file := place / "task.npz", **vars(mf.drawn(mf.setting("numpy"))))
        with Peer.start("flower-ray", file) as peer:
            peer.rounds(1)  # warms up
            taken = peer.rounds(FLOWER_ROUNDS)
        flower_cpu, flower = ([n / mf.FLOWER_CLIENTS * one for one in seconds] for seconds in taken)
    (cpu, wall), (plain_cpu, plain_wall) = (_rounds(engine) for engine in (measured, plain))
    beyond = [100 * (whole / inside - 1) for whole, inside in zip(plain_cpu, plain.inside[1:], strict=False)]
    every = [100 * (whole / inside - 1) for whole, inside in zip(cpu, measured.inside[1:], strict=False)]
    asked = f"{FLOWER_ROUNDS} rounds of {mf.FLOWER_CLIENTS} clients, no metrics"
    return [
        clients("engine", "fedrec simulate, metrics each round", n, cpu, wall),
        clients("engine", "fedrec simulate, metrics at the end", n, plain_cpu, plain_wall),
        clients(
            "engine",
            "flower-ray",
            n,
            flower_cpu,
            flower,
            note=asked,
        ),
        ratio("engine", "fedrec simulate over flower-ray", wall, flower, note="wall, metrics each round"),
        ratio("engine", "fedrec simulate, metrics at the end, over flower-ray", plain_wall, flower, note="wall"),
        of("engine", "beyond the clients, metrics each round", every, "%", "CPU seconds of a round over the fleet's"),
        of("engine", "beyond the clients, metrics at the end", beyond, "%", "CPU seconds of a round over the fleet's"),
    ]


def _experiment(rounds: int, every: int) -> Experiment:
    of_work = mf.setting("numba").experiment
    return of_work.replaced(federation={"rounds": rounds}, evaluation={"every": every, "baselines": False})


def _run(experiment: Experiment, place: Path) -> Clocked:
    engines: list[Clocked] = []

    def clocked(setting: Setting) -> Clocked:
        engines.append(Clocked(Fleet(setting.federation.model, setting.split.train)))
        return engines[0]

    simulate.start(experiment, lambda: RunFolder.create(place), clocked)
    return engines[0]


def _rounds(engine: Clocked) -> tuple[list[float], list[float]]:
    """CPU and wall seconds of whole rounds, but the first."""
    return np.diff(engine.cpu)[1:].tolist(), np.diff(engine.wall)[1:].tolist()
