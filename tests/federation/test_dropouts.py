"""Three devices in ten drop out of every round: the run completes at its promise, and below the minimum nothing opens.

Every device here has a secure aggregation client, a key and a history of its own; the server, its ledger and the loop
of the run are the real ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.engines.base import Collected
from fedrec.engines.setting import Setting
from fedrec.errors import RoundFailedError
from fedrec.federation.round import Plan, client_round
from fedrec.models.base import Shared
from fedrec.privacy.accounting import report_epsilon
from fedrec.privacy.mechanism import ShardSum, add_up, opened
from fedrec.privacy.proofs import Record, verify_chain
from fedrec.reporting.folder import RunFolder
from fedrec.secagg.client import Client
from fedrec.secagg.local import drive, enrol
from fedrec.secagg.messages import Attempt, Phase
from fedrec.secagg.server import Server
from fedrec.secagg.session import Roster, Terms
from fedrec.secagg.store import MemoryStore

Tiny = Callable[..., Experiment]
Leaves = Mapping[Phase, Sequence[int]]
"""Who drops out, from which phase on."""

DEVICES, LEAST, ROUNDS = 20, 14, 20
PRIVATE = (
    *(f"data.n_users={DEVICES}", f"federation.rounds={ROUNDS}", f"federation.min_cohort={LEAST}", "split=random"),
    *("privacy.noise=skellam", "privacy.source=secure", "privacy.noise_multiplier=12.0", "privacy.delta=1e-6"),
)


@dataclass(eq=False)
class Devices:
    """An engine: every user is a device that takes part in secure sums.

    Attributes:
        setting: the experiment with its data.
        leaves: who drops out of an attempt.
        asked: every phase in which a device was asked anything, by attempt.
        noise: what each opened sum holds beyond its survivors' clipped vectors, in the release's scaled units.
    """

    setting: Setting
    leaves: Callable[[Plan], Leaves]
    name: str = "devices"
    asked: dict[Attempt, set[Phase]] = field(default_factory=dict)
    noise: list[tuple[int, npt.NDArray[np.float64]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        experiment, count = self.setting.experiment, self.setting.split.train.n_users
        identities, roster = enrol(count)
        self._roster: Roster = roster
        self._terms = Terms(bytes.fromhex(experiment.digest()), experiment.federation.min_cohort or count)
        self._clients = {
            who: Client(who, identity, roster, MemoryStore(), self._terms) for who, identity in enumerate(identities)
        }

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        attempt, release, mechanism = Attempt(plan.round, plan.attempt), plan.release, plan.mechanism
        vectors = np.array(
            [release.flatten(self._shard(plan, shared, user).arrays) for user in plan.cohort.users.tolist()]
        )
        server = Server(self._terms, self._roster, attempt, self._roster, release.size, dtype=mechanism.wire)
        phases = self.asked.setdefault(attempt, set())

        def note(*_: Any) -> None:
            phases.add(server.phase)

        result = drive(server, self._clients, vectors, self.leaves(plan), note)
        survivors = list(result.survivors)
        np.testing.assert_array_equal(result.total, vectors[survivors].sum(axis=0, dtype=mechanism.wire))
        shard = ShardSum(release.split(result.total), result.users)
        self._measure(plan, shared, shard, survivors)
        return Collected((shard,), DEVICES - len(survivors), 0, 0, DEVICES, "secure aggregation")

    def _shard(self, plan: Plan, shared: Shared, user: int) -> ShardSum:
        users = self.setting.split.train.take(np.array([user]))
        return client_round(self.setting.federation.model, shared, users, plan, user)

    def _measure(self, plan: Plan, shared: Shared, shard: ShardSum, survivors: list[int]) -> None:
        """Set the opened sum beside the one without noise; rounding moves a coordinate by a few units of 64."""
        grid, release = plan.mechanism.grid, plan.release
        assert grid is not None
        users = self.setting.split.train.take(np.array(survivors))
        contribution = self.setting.federation.model.contribute(shared, users, release, plan.key)
        exact = contribution.weighted_sum(release, plan.mechanism.weights(contribution.norms(release)))
        noised = opened(add_up([shard], release, plan.mechanism.wire), release, plan.mechanism, grid)
        self.noise.append((len(survivors), release.flatten(noised.arrays) - release.flatten(exact)))


def run(experiment: Experiment, folder: Path, leaves: Callable[[Plan], Leaves]) -> Devices:
    """The whole run; its engine."""
    engines = list[Devices]()

    def engine(setting: Setting) -> Devices:
        engines.append(Devices(setting, leaves))
        return engines[-1]

    try:
        simulate.start(experiment, partial(RunFolder.create, folder), engine)
    except RoundFailedError as error:
        (folder / "failure").write_text(str(error))
    return engines[0]


def ledger(folder: Path) -> list[Record]:
    return verify_chain((folder / "ledger.jsonl").read_bytes().splitlines())


def six_of(plan: Plan) -> Leaves:
    """30% of the devices, others in every round, some before and some after their vectors are sent."""
    gone = random.Random(plan.round).sample(range(DEVICES), 6)  # noqa: S311 - who drops out is no secret
    phases = (Phase.ADVERT, Phase.SHARES, Phase.MASKED, Phase.MASKED, Phase.AGREE, Phase.UNMASK)
    return {phase: [who for who, when in zip(gone, phases, strict=True) if when == phase] for phase in phases}


@pytest.fixture(scope="module")
def completed(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Devices, Path]:
    """Twenty rounds, of which every device stays in the sum but those that left before their vector was sent."""
    folder = tmp_path_factory.mktemp("dropouts") / "run"
    return run(tiny(*PRIVATE), folder, six_of), folder


def test_a_run_completes_with_three_in_ten_gone_from_every_round(completed: tuple[Devices, Path]) -> None:
    engine, folder = completed
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [(line["round"], line["attempt"]) for line in lines] == [(n, 0) for n in range(1, ROUNDS + 1)]
    assert {line["survivors"] for line in lines} == {16}  # four of the six left before they had sent anything
    assert set(engine.asked) == {Attempt(n, 0) for n in range(1, ROUNDS + 1)}


def test_epsilon_is_the_ledger_s_at_the_planned_minimum(completed: tuple[Devices, Path]) -> None:
    engine, folder = completed
    mechanism = engine.setting.federation.mechanisms[0]
    at_minimum = mechanism.share_std(LEAST)
    assert at_minimum == pytest.approx(12.0 * mechanism.sensitivity)
    events = [entry["events"]["user"] for entry in ledger(folder) if entry["type"] == "reserve"]
    assert len(events) == ROUNDS
    assert mechanism.grid is not None
    assert {float(event["variance"]) for event in events} == {(at_minimum * mechanism.grid.scale) ** 2}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["privacy"]["epsilon"] == report_epsilon([mechanism.events()["user"]] * ROUNDS, 1e-6)


def test_survivors_beyond_the_minimum_add_noise_and_never_take_from_it(completed: tuple[Devices, Path]) -> None:
    """20 rounds of 300 values: five standard errors of a deviation are 4.6%, exceeded once in 2 million."""
    engine, _ = completed
    mechanism = engine.setting.federation.mechanisms[0]
    noise = np.concatenate([noise for _, noise in engine.noise])
    assert {survivors for survivors, _ in engine.noise} == {16}
    assert noise.std() == pytest.approx(mechanism.noise_std * (16 / LEAST) ** 0.5, rel=5 / (2 * noise.size) ** 0.5)


@pytest.mark.parametrize("phase", [Phase.ADVERT, Phase.SHARES, Phase.MASKED])
def test_at_the_minimum_a_round_completes_and_below_it_nothing_is_unmasked(
    tiny: Tiny, tmp_path: Path, phase: Phase
) -> None:
    """Six of twenty may go. With a seventh the attempt is aborted, charged, and nobody is asked for a share."""

    def seven_once(plan: Plan) -> Leaves:
        return {phase: range(7 if plan.attempt == 0 else 6)}

    engine = run(tiny(*PRIVATE, "federation.rounds=2"), tmp_path / "run", seven_once)
    assert [(entry["type"], entry["round"], entry["attempt"]) for entry in ledger(tmp_path / "run")[1:]] == [
        (kind, round_, attempt)
        for round_ in (1, 2)
        for attempt, end in enumerate(("abort", "commit"))
        for kind in ("reserve", end)
    ]
    for (_, attempt), phases in engine.asked.items():
        if attempt == 0:
            assert max(phases) <= Phase.MASKED
        else:
            assert Phase.UNMASK in phases
    assert [survivors for survivors, _ in engine.noise] == [LEAST, LEAST]


def test_a_run_whose_rounds_all_fall_below_the_minimum_stops_and_says_so(tiny: Tiny, tmp_path: Path) -> None:
    engine = run(tiny(*PRIVATE), tmp_path / "run", lambda _: {Phase.MASKED: range(7)})
    assert (tmp_path / "run" / "failure").read_text().startswith("Round 1 failed 3 times;")
    assert not any(phases & {Phase.AGREE, Phase.UNMASK} for phases in engine.asked.values())
    assert [entry["type"] for entry in ledger(tmp_path / "run")[1:]] == ["reserve", "abort"] * 3
    assert engine.noise == []
