"""How the population is split over nodes changes nothing, and the noise in a released sum is what was promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.engines.base import Collected
from fedrec.engines.fleet import Fleet
from fedrec.engines.run import train_quietly
from fedrec.engines.setting import Setting, prepare
from fedrec.errors import BudgetExceededError, RoundFailedError
from fedrec.federation.cohort import partition_of
from fedrec.federation.round import Plan, client_round
from fedrec.models.base import Shared
from fedrec.privacy.accounting import gaussian_epsilon
from fedrec.privacy.mechanism import ShardSum
from fedrec.privacy.proofs import verify_chain
from fedrec.reporting.folder import RunFolder

Tiny = Callable[..., Experiment]


def shards_of(setting: Setting, plan: Plan, shared: Shared, count: int) -> list[ShardSum]:
    """What ``count`` nodes send, in the order of users."""
    federation = setting.federation
    parts = [partition_of(plan.cohort, part, count, federation.population) for part in range(count)]
    return [
        client_round(federation.model, shared, setting.split.train.take(users), plan, part)
        for part, users in enumerate(parts)
        if len(users)
    ]


@pytest.mark.parametrize("extra", [(), ("federation.cohort=33",), ("model.start=spectral",)], ids=str)
@pytest.mark.parametrize("nodes", [4, 80])
def test_many_shards_equal_all_at_once(tiny: Tiny, nodes: int, extra: Sequence[str]) -> None:
    setting = prepare(tiny("privacy.epsilon=none", "privacy.noise_multiplier=none", *extra))
    federation = setting.federation
    whole = train_quietly(federation, Fleet(federation.model, setting.split.train))
    state = federation.start()
    for round_ in range(1, federation.rounds + 1):
        plan = federation.plan(round_)
        state = federation.finish(state, plan, shards_of(setting, plan, state.shared, nodes))
    assert set(state.shared) == set(whole.shared)
    for name, array in state.shared.items():
        np.testing.assert_allclose(array, whole.shared[name], rtol=0, atol=1e-6)


def test_partitions_cover_the_cohort_once_and_in_order(tiny: Tiny) -> None:
    federation = prepare(tiny("federation.cohort=33")).federation
    cohort = federation.plan(1).cohort
    for count in (1, 3, 7, 80, 100):
        parts = [partition_of(cohort, part, count, federation.population) for part in range(count)]
        np.testing.assert_array_equal(np.concatenate(parts), cohort.users)


def noise_of(tiny: Tiny, *overrides: str, nodes: int = 4) -> tuple[npt.NDArray[np.float64], list[ShardSum]]:
    """The noise in a released sum of popularity over 2,000 items, and the shards that it came from."""
    wide = ("model=popularity", "data.n_items=2000", *overrides)
    setting, plain = prepare(tiny(*wide)), prepare(tiny(*wide, "privacy.epsilon=none", "privacy.noise_multiplier=none"))
    plan, exact = setting.federation.plan(1), plain.federation.plan(1)
    start = setting.federation.start()
    shards = shards_of(setting, plan, start.shared, nodes)
    released = setting.federation.finish(start, plan, shards).shared["popularity"].astype(np.float64)
    silent = shards_of(plain, exact, start.shared, nodes)
    without = plain.federation.finish(start, exact, silent).shared["popularity"]
    noise = [
        replace(shard, arrays={n: array - quiet.arrays[n] for n, array in shard.arrays.items()})
        for shard, quiet in zip(shards, silent, strict=True)
    ]
    return released - without, noise


# 2,000 draws estimate a standard deviation within 8 % but once in 10^6 (five standard errors of 1/sqrt(4000)).
@pytest.mark.parametrize(
    ("trust", "shard_std", "sum_std"),
    [("distributed", 3 * (20 / 80) ** 0.5, 3.0), ("local", 3 * 20**0.5, 3 * 80**0.5), ("central", 0.0, 3.0)],
)
def test_the_released_sum_carries_the_promised_noise(tiny: Tiny, trust: str, shard_std: float, sum_std: float) -> None:
    noise, shards = noise_of(tiny, f"privacy.trust={trust}", "privacy.noise_multiplier=3.0", "privacy.epsilon=100")
    assert noise.std() == pytest.approx(sum_std, rel=0.08)
    assert abs(noise.mean()) < 5 * sum_std / 2000**0.5
    for shard in shards:
        assert shard.arrays["popularity"].std() == pytest.approx(shard_std, rel=0.08)


def test_noise_shares_are_sized_for_the_minimum_cohort(tiny: Tiny) -> None:
    overrides = ("privacy.noise_multiplier=3.0", "federation.min_cohort=20")
    noise, _ = noise_of(tiny, *overrides)
    assert noise.std() == pytest.approx(3.0 * (80 / 20) ** 0.5, rel=0.08)


def test_shards_draw_independent_noise(tiny: Tiny) -> None:
    _, shards = noise_of(tiny, "privacy.noise_multiplier=3.0")
    noise = np.array([shard.arrays["popularity"] for shard in shards])
    correlation = np.corrcoef(noise)[np.triu_indices(len(shards), 1)]
    assert np.abs(correlation).max() < 5 / 2000**0.5


class Flaky:
    """A fleet of two nodes, of which the second stays silent in some attempts."""

    name = "flaky"

    def __init__(self, setting: Setting, silent: Callable[[Plan], bool]) -> None:
        self.setting, self.silent = setting, silent
        self.sent: list[list[ShardSum]] = []

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        shards = shards_of(self.setting, plan, shared, 2)
        self.sent.append(shards)
        kept = shards[:1] if self.silent(plan) else shards
        return Collected(tuple(kept), 2 - len(kept), 0, 0, senders=2, aggregation="plain")


def test_a_failed_attempt_stays_charged_and_the_next_one_draws_afresh(tiny: Tiny, tmp_path: Path) -> None:
    engines: list[Flaky] = []

    def flaky(setting: Setting) -> Flaky:
        engines.append(Flaky(setting, lambda plan: (plan.round, plan.attempt) == (1, 0)))
        return engines[-1]

    budget = gaussian_epsilon((3.5 / 4.0) ** 0.5, 1e-5)  # enough for three attempts and a half at noise 2
    experiment = tiny(f"privacy.epsilon={budget}", "privacy.noise_multiplier=2.0")
    with pytest.raises(BudgetExceededError, match="Round 3"):
        simulate.start(experiment, partial(RunFolder.create, tmp_path / "run"), flaky)
    events = verify_chain((tmp_path / "run" / "ledger.jsonl").read_bytes().splitlines())
    assert [(e["type"], e.get("round"), e.get("attempt")) for e in events[1:]] == [
        ("reserve", 1, 0),
        ("abort", 1, 0),
        ("reserve", 1, 1),
        ("commit", 1, 1),
        ("reserve", 2, 0),
        ("commit", 2, 0),
    ]
    first, second = (sent[0].arrays["items"] for sent in engines[0].sent[:2])
    assert not np.isclose(first, second).any()


def test_a_round_that_fails_in_every_attempt_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny("federation.attempts=2", "privacy.noise_multiplier=50.0")
    with pytest.raises(RoundFailedError, match=r"Round 1 failed 2 times; .* raise federation\.attempts or lower"):
        simulate.start(
            experiment, partial(RunFolder.create, tmp_path / "run"), lambda setting: Flaky(setting, lambda _: True)
        )
    events = verify_chain((tmp_path / "run" / "ledger.jsonl").read_bytes().splitlines())
    assert [event["type"] for event in events[1:]] == ["reserve", "abort"] * 2


def test_a_failed_attempt_is_not_repeated_by_a_resumed_run(tiny: Tiny, tmp_path: Path) -> None:
    """Its noise was used once: a second sum under the same noise would give the difference away."""
    experiment = tiny("federation.attempts=2", "privacy.noise_multiplier=50.0")
    folder = partial(RunFolder.create, tmp_path / "run")
    with pytest.raises(RoundFailedError):
        simulate.start(experiment, folder, lambda setting: Flaky(setting, lambda _: True))
    ledger = (tmp_path / "run" / "ledger.jsonl").read_bytes()
    engines: list[Flaky] = []

    def good(setting: Setting) -> Flaky:
        engines.append(Flaky(setting, lambda _: False))
        return engines[-1]

    with pytest.raises(RoundFailedError, match="Round 1 failed 2 times"):
        simulate.resume(experiment, RunFolder.open(tmp_path / "run"), good)
    assert engines[0].sent == []
    assert (tmp_path / "run" / "ledger.jsonl").read_bytes() == ledger
