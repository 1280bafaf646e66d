"""Attempts that end before any client was asked for its vector: on real devices they never count, elsewhere they do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedrec.config import Experiment
from fedrec.engines.base import Collected
from fedrec.engines.fleet import Fleet
from fedrec.engines.run import Deployment, Recruited, open_ledger, run_rounds
from fedrec.engines.setting import prepare
from fedrec.errors import NothingAskedError, RoundFailedError
from fedrec.federation.round import Plan
from fedrec.models.base import Shared
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.progress import Progress

Tiny = Callable[..., Experiment]


@dataclass
class Shy:
    """A fleet that for so many attempts at the first round does not even listen."""

    fleet: Fleet
    times: int
    then: type[RoundFailedError] | None = None
    name: str = "shy"

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        if plan.round == 1 and plan.attempt < self.times:
            raise NothingAskedError("2 of 3 devices refused")
        if plan.round == 1 and plan.attempt == self.times and self.then is not None:
            raise self.then("too few answered")
        return self.fleet.collect(plan, shared)


@dataclass
class Run:
    """The rounds of a small private run, with what they told."""

    experiment: Experiment
    folder: Path
    waited: list[tuple[int, int, str, int]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def go(self, times: int, then: type[RoundFailedError] | None = None, *, real: bool = True) -> None:
        setting = prepare(self.experiment)
        federation, users = setting.federation, np.arange(setting.split.train.n_users)
        folder = RunFolder.create(self.folder) if not self.folder.exists() else RunFolder.open(self.folder)
        ledger = open_ledger(federation, folder)
        hooks = Deployment(
            recruit=lambda *_: Recruited(users, "0" * 64),
            recorded=lambda: self.lines.append(len(ledger.lines)),
            wait=lambda plan, why, row: self.waited.append((plan.round, plan.attempt, str(why), row)),
            publish=lambda _: None,
        )
        engine = Shy(Fleet(federation.model, setting.split.train), times, then)
        with Progress() as progress:
            run_rounds(federation, engine, folder, ledger, progress, deployment=hooks if real else None)

    @property
    def kinds(self) -> list[str]:
        content = (self.folder / "ledger.jsonl").read_text().splitlines()
        return [json.loads(line)["type"] for line in content][1:]


@pytest.fixture
def run(tiny: Tiny, tmp_path: Path) -> Run:
    return Run(tiny("federation.attempts=2"), tmp_path / "run")


def test_released_attempts_are_waited_for_and_never_end_a_run(run: Run) -> None:
    run.go(times=5)
    assert run.waited == [(1, attempt, "2 of 3 devices refused", attempt + 1) for attempt in range(5)]
    assert run.kinds == ["reserve", "release"] * 5 + ["reserve", "commit"] * 3


def test_every_line_is_told_once_it_is_on_the_disk(run: Run) -> None:
    run.go(times=1)
    assert run.lines == list(range(1, 2 + len(run.kinds)))


def test_attempts_that_asked_for_vectors_count_as_before(run: Run) -> None:
    run.go(times=3, then=RoundFailedError)
    assert run.kinds[:10] == ["reserve", "release"] * 3 + ["reserve", "abort", "reserve", "commit"]


def test_a_simulation_whose_clients_do_not_listen_ends(run: Run) -> None:
    with pytest.raises(RoundFailedError, match="failed 2 times"):
        run.go(times=5, real=False)
    assert not run.waited
