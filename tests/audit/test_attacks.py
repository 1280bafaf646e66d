"""Attacks: they work where nothing protects, and fail where the promise says so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from fedrec.audit.attacks import Attack, AttackResult, Declared, Scan, attack
from fedrec.audit.games import Advantage, clopper_pearson, coins, guess, make_world
from fedrec.audit.observers import View
from fedrec.config import Experiment
from fedrec.data import source
from fedrec.errors import PrivacyError, UsageError
from fedrec.privacy.events import GaussianEvent, SkellamEvent
from fedrec.privacy.grid import Grid
from tests.audit.faults import by_interaction, experiment, less_noise


def attacked(view: View, targets: int = 7, runs: int = 4, **sections: Any) -> AttackResult:
    """The attacks on a tiny experiment with much noise: 28 guesses a game."""
    sections["privacy"] = {"noise_multiplier": 5.0, **sections.get("privacy", {})}
    return attack(tiny(**sections), view, targets=targets, shadows=4, runs=runs)


def tiny(**sections: Any) -> Experiment:
    """An experiment whose users all have interactions enough to be targets."""
    return experiment(1, data={"mean_events": 10, "min_events": 6}, **sections)


def test_a_world_hides_one_coin_in_every_target() -> None:
    users = source.load(tiny().data)
    world = make_world(users, 7, np.random.default_rng(0))
    assert len(np.unique(world.users)) == 21
    heads, tails = (world.data(np.full(21, side)) for side in (True, False))
    single, grown, whole = world.users[:7], world.users[7:14], world.users[14:]
    np.testing.assert_array_equal(heads.counts[single], tails.counts[single] + 1)
    np.testing.assert_array_equal(heads.counts[single], users.counts[single])
    np.testing.assert_array_equal(tails.counts[grown], users.counts[grown])
    np.testing.assert_array_equal(heads.counts[grown], users.counts[grown] + 1)
    np.testing.assert_array_equal(heads.counts[whole], users.counts[whole])
    assert not tails.counts[whole].any()
    others = np.setdiff1d(np.arange(users.n_users), world.users)
    for data in (heads, tails):
        assert data.times is not None
        for user in range(data.n_users):
            assert len(np.unique(data.user(user))) == data.counts[user]
            assert (np.diff(data.times[data.indptr[user] : data.indptr[user + 1]]) >= 0).all()
        for user in others:
            np.testing.assert_array_equal(data.user(user), users.user(user))
    for user in grown:  # the attacker imagines another item than the one that may be there
        position = np.flatnonzero(world.users == user)[0]
        assert world.known_with.user(int(position))[-1] != heads.user(int(user))[-1]
    assert world.items[20] == -1


def test_too_many_targets_are_refused() -> None:
    with pytest.raises(UsageError, match="--targets"):
        make_world(source.load(tiny().data), 11, np.random.default_rng(0))


def test_paired_coins_are_heads_in_half_of_the_runs() -> None:
    found = coins(50, 8, np.random.default_rng(1), paired=True)
    assert (found.sum(axis=0) == 4).all()
    assert 0 < found[0].sum() < 50


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (240, 400)])
def test_intervals_are_clopper_and_pearson_s(successes: int, trials: int) -> None:
    wanted = binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert clopper_pearson(successes, trials) == pytest.approx((wanted.low, wanted.high))
    found = Advantage.of(successes, trials)
    assert found.advantage == pytest.approx(2 * successes / trials - 1)
    assert found.low <= found.advantage <= found.high


def test_guessing_is_as_good_as_the_likelihood_ratio_allows() -> None:
    """Coins move scores by one deviation: the best guess is right with probability Phi(1/2) = .69."""
    draw = np.random.default_rng(2)
    middle = 100 * draw.standard_normal(400)

    def played(tossed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.asarray(middle + tossed + draw.standard_normal(tossed.shape))[:, :, None]

    learning, asked = coins(400, 8, draw, paired=True), coins(400, 5, draw)
    right = (guess(played(learning), learning, played(asked), np.ones((400, 1))) == asked).mean()
    assert 0.62 < right < 0.72  # 2,000 guesses: a deviation of .01; middles known from 8 runs cost a little


@pytest.mark.parametrize("view", ["server", "colluder", "client", "public"])
def test_interactions_and_users_are_told_where_nothing_protects(view: View) -> None:
    found = attacked(view)
    assert found.sound
    for name in ("interaction", "user"):
        assert found.attacks[name].without_privacy.low > 0, name
        assert found.attacks[name].private.low < 0.2, name  # chance, and room for chance
        assert found.attacks[name].private.advantage < found.attacks[name].without_privacy.advantage


@pytest.mark.parametrize("noise", ["gaussian", "skellam"])
def test_single_vectors_hide_everything_when_they_carry_all_of_the_noise(noise: str) -> None:
    found = attacked("server", runs=2, privacy={"trust": "local", "noise": noise})
    assert found.sound
    scan = found.attacks["zero rows"]
    assert isinstance(scan.private, Scan)
    assert scan.private.high < 0.05  # a zero row tells who touched what
    assert scan.without_privacy.advantage == 1
    for name in ("interaction", "size", "user"):
        assert found.attacks[name].without_privacy.low > 0.3
        assert found.attacks[name].private.low < 0.3


def test_a_trusted_server_sees_all_and_nothing_is_declared_against_it() -> None:
    found = attacked("server", runs=2, privacy={"trust": "central"})
    assert found.about["epsilon"] == {"user": None, "interaction": None}
    for name in ("interaction", "user", "zero rows"):
        assert found.attacks[name].bound is None
        assert found.attacks[name].private.low > 0.5


def test_colluders_leave_less_noise_and_the_bound_knows() -> None:
    alone, together = (attacked(view, runs=1, privacy={"colluders": 3}) for view in ("server", "colluder"))
    assert together.about["colluders"] == 3
    assert together.about["epsilon"]["user"] == pytest.approx(alone.about["epsilon"]["user"], rel=1e-6)
    # Three colluders are assumed; where none is, one more than assumed costs a little.
    unplanned = attacked("colluder", runs=1)
    assert unplanned.about["epsilon"]["user"] > attacked("server", runs=1).about["epsilon"]["user"]


@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
def test_the_declared_bound_is_the_distance_of_the_two_worlds(mu: float) -> None:
    events = [GaussianEvent(2 / mu), GaussianEvent(2 / mu, steps=3)]
    exact = Declared.of(events, 1e-5)
    assert exact.advantage == pytest.approx(2 * norm.cdf(mu / 2) - 1)
    grid = Grid(10_000, 1.0)
    skellam = SkellamEvent((grid.scale / mu) ** 2, grid.l2, grid.l1)
    assert exact.advantage <= Declared.of([skellam], 1e-5).advantage <= 1


def test_the_declared_bound_of_sampled_steps_lies_above_that_of_fewer_whole_ones() -> None:
    sampled = Declared.of([GaussianEvent(2.0, sampling_rate=0.5, steps=8)], 1e-5)
    assert norm.cdf(math.sqrt(2) / 4) * 2 - 1 < sampled.advantage < 1


def test_an_attack_that_does_better_than_declared_is_told() -> None:
    one = Advantage.of(90, 100)
    assert AttackResult("server", {"user": Attack(one, one, 0.3)}, {}).as_json()["verdict"] == "weaker than declared"
    assert AttackResult("server", {"user": Attack(one, one, 0.8)}, {}).as_json()["verdict"] == "consistent"
    with less_noise(1000.0):
        found = attacked("server")
    assert not found.sound


def test_statistics_and_single_interactions_are_attacked_too() -> None:
    assert attacked("public", runs=1, model={"name": "popularity"}).sound
    found = attack(by_interaction(2), "server", targets=4, shadows=4, runs=4)
    assert found.sound
    assert found.attacks["interaction"].without_privacy.low > 0


def test_the_result_repeats_and_is_plain() -> None:
    first, second = (attacked("public", runs=1).as_json() for _ in range(2))
    assert first.pop("seconds") > 0
    second.pop("seconds")
    assert first == second
    assert first["version"] == 1
    assert set(first["attacks"]) == {"interaction", "size", "user", "zero rows"}
    assert set(first["attacks"]["user"]) == {"private", "without_privacy", "bound"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"view": "sever"}, "Did you mean 'server'"),
        ({"targets": 20}, "--targets"),
        ({"targets": 10, "view": "colluder"}, r"--targets|colluders"),
        ({"shadows": 1}, "2 shadow runs"),
        ({"runs": 0}, "1 run at least"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        attack(tiny(), **{"view": "server", **arguments})


def test_there_is_nothing_to_attack_without_privacy() -> None:
    with pytest.raises(PrivacyError, match="no privacy to attack"):
        attack(tiny(privacy={"epsilon": "none"}))
