"""The table of modes: what is proved keeps its bound on any history, what is refused breaks one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.contribution import Contribution
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.errors import ConfigError, PrivacyError
from fedrec.federation.round import Federation
from fedrec.models.base import Shared
from fedrec.privacy.grid import SeededUniforms
from fedrec.privacy.mechanism import clip_and_sum, clip_and_sum_integers
from fedrec.privacy.modes import MODES, Pairing, mode_of, training_plan
from fedrec.randomness import Key, Lane
from fedrec.release import Component, DpSgd, Release
from fedrec.training import per_interaction
from fedrec.training.samples import draw, public_vectors
from tests.cases import Case, flat, histories

PROVED: list[tuple[int, dict[str, Any]]] = [
    (1, {"unit": "interaction", "trust": "local", "per_interaction": True, "inside": True}),
    (1, {"unit": "interaction", "trust": "local", "per_interaction": True, "inside": True, "epochs": 5}),
    (2, {"unit": "user", "trust": "distributed"}),
    (2, {"unit": "user", "trust": "local", "epochs": 5}),
    (2, {"unit": "user", "trust": "central", "per_interaction": True}),
    (3, {"unit": "interaction", "trust": "distributed", "per_interaction": True}),
    (3, {"unit": "interaction", "trust": "central", "per_interaction": True}),
    (4, {"unit": "user", "trust": "distributed", "sample": "history"}),
    (4, {"unit": "user", "trust": "local", "sample": "history", "inside": True, "epochs": 5}),
    (5, {"unit": "user", "trust": "distributed", "statistic": True}),
    (5, {"unit": "user", "trust": "local", "statistic": True}),
    (5, {"unit": "interaction", "trust": "distributed", "statistic": True, "bounded": True}),
    (5, {"unit": "interaction", "trust": "local", "statistic": True, "bounded": True}),
]

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a vector of the own history": ({"unit": "interaction", "trust": "distributed"}, "model.user_vector = 'public'"),
    "the same with noise inside": (
        {"unit": "interaction", "trust": "local", "inside": True},
        "model.user_vector = 'public'",
    ),
    "a second local step": (
        {"unit": "interaction", "trust": "distributed", "per_interaction": True, "epochs": 2},
        "training.epochs = 1",
    ),
    "a history as the sample of an interaction": (
        {"unit": "interaction", "trust": "distributed", "per_interaction": True, "sample": "history"},
        "training.sample = 'interaction'",
    ),
    "the same under trust local": (
        {"unit": "interaction", "trust": "local", "per_interaction": True, "sample": "history", "inside": True},
        "training.sample = 'interaction'",
    ),
    "many steps of a silo with shares": (
        {"unit": "user", "trust": "distributed", "sample": "history", "epochs": 2},
        "training.epochs = 1",
    ),
    "a statistic without a bound": (
        {"unit": "interaction", "trust": "distributed", "statistic": True},
        "privacy.unit = 'user'",
    ),
    "a statistic beside noise inside": (
        {"unit": "user", "trust": "local", "sample": "history", "inside": True, "statistic": True},
        "model.start = 'random'",
    ),
}


@pytest.mark.parametrize(("number", "facts"), PROVED)
def test_a_proved_pairing_has_its_mode(number: int, facts: dict[str, Any]) -> None:
    assert mode_of(Pairing("a", **facts)) is MODES[number]


@pytest.mark.parametrize(("facts", "remedy"), REFUSED.values(), ids=REFUSED.keys())
def test_an_unproved_pairing_is_refused_with_what_to_set_instead(facts: dict[str, Any], remedy: str) -> None:
    with pytest.raises(PrivacyError) as error:
        mode_of(Pairing("thing", **facts))
    message = str(error.value)
    assert remedy in message
    for part in ("'thing'", f"'{facts['unit']}'", f"'{facts['trust']}'"):
        assert part in message


def test_every_other_pairing_follows_from_these() -> None:
    """All there are: an interaction needs independent gradients and one step or noise in each, or a proved bound."""
    for unit, trust, sample, epochs, statistic, bounded, independent in itertools.product(
        ("user", "interaction"),
        ("distributed", "local", "central"),
        ("interaction", "history"),
        (1, 2),
        *[(False, True)] * 3,
    ):
        inside = not statistic and trust == "local" and (unit == "interaction" or sample == "history")
        facts: dict[str, Any] = {
            "unit": unit,
            "trust": trust,
            "sample": sample,
            "epochs": epochs,
            "inside": inside,
            "statistic": statistic,
            "bounded": bounded,
            "per_interaction": independent,
        }
        pairing = Pairing("a", **facts)
        if statistic:
            proved = unit == "user" or bounded
        elif unit == "user":
            proved = sample == "interaction" or trust == "local" or epochs == 1
        else:
            proved = sample == "interaction" and independent and (trust == "local" or epochs == 1)
        if proved:
            mode_of(pairing)
        else:
            with pytest.raises(PrivacyError):
                mode_of(pairing)


MF = {"name": "mf", "start": "random", "user_vector": "public", "dimension": 4}
INTERACTION: dict[str, Any] = {
    "unit": "interaction",
    "interaction_clip": 0.3,
    "clip_norm": 1.0,
    "noise_multiplier": 1.0,
}
"""Long gradients and a clip norm of about three of them: both clips are active."""


def of(model: Mapping[str, Any], **training: Any) -> Case:
    return Case.of(model, data={"n_users": 20, "n_items": 30}, training={"epochs": 1, "negatives": 2, **training})


@pytest.mark.parametrize(
    ("model", "training", "privacy", "remedy"),
    [
        ({**MF, "user_vector": "profile"}, {}, INTERACTION, "model.user_vector = 'public'"),
        ({**MF, "start": "spectral"}, {}, INTERACTION, "start = 'random'"),
        ({"name": "gram"}, {}, INTERACTION, "privacy.unit = 'user'"),
        (MF, {"epochs": 2}, INTERACTION, "training.epochs = 1"),
        ({"name": "ncf"}, {}, INTERACTION, "model.user_vector = 'public'"),
        (MF, {"sample": "history", "backend": "opacus"}, INTERACTION, "training.sample = 'interaction'"),
        (MF, {"sample": "history", "backend": "opacus", "epochs": 2}, {"noise_multiplier": 1.0}, "training.epochs = 1"),
        (
            {**MF, "start": "spectral"},
            {"sample": "history", "backend": "opacus"},
            {"noise_multiplier": 1.0, "trust": "local"},
            "model.start = 'random'",
        ),
    ],
)
def test_a_federation_of_an_unproved_pairing_is_never_made(
    model: dict[str, Any], training: dict[str, Any], privacy: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(PrivacyError, match=remedy):
        of(model, **training).federation(**privacy)


@pytest.mark.parametrize(
    ("training", "privacy"),
    [
        ({"sample": "history"}, {"noise_multiplier": 1.0}),
        ({}, {**INTERACTION, "trust": "local"}),
        ({"backend": "opacus", "regularisation": 0.1}, {}),
        ({"regularisation": 0.1}, INTERACTION),
    ],
)
def test_what_only_opacus_trains_or_no_sample_holds_is_refused(
    training: dict[str, Any], privacy: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="set"):
        of(MF, **training).federation(**privacy)


def test_integer_noise_cannot_be_inside() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.noise"):
        of(MF, backend="opacus").federation(**INTERACTION, trust="local", noise="skellam")


def test_a_plan_is_made_of_public_constants() -> None:
    """And many steps are as many whatever the rate divides to."""
    case = of(MF, backend="opacus", sampling_rate=0.3, epochs=2, batch_size=7, learning_rate=0.2)
    plan = case.federation(**INTERACTION, trust="local").releases[0].dpsgd
    assert plan == DpSgd(
        0.3, 0.2, 7, 0.3, 7, negatives="catalogue", trains_user=True, inside=True, noise_multiplier=1.0
    )
    user = case.federation(noise_multiplier=1.0).releases[0].dpsgd
    assert user == DpSgd(0.1, 0.2, 7, 0.3, 7, trains_user=True)
    assert training_plan(of(MF).experiment, "numpy") is None


# What is proved keeps its bound -------------------------------------------------------------------------------------

N_ITEMS = 30
CATALOGUE = Catalogue(np.arange(N_ITEMS).astype(str))

SHARED = st.sampled_from([0.0, 0.05, 1.0, 30.0])
HISTORY = st.one_of(
    st.sampled_from([[0], list(range(N_ITEMS)), [0] * 7, [3, 3, 4], list(range(25))]),  # a repeated item, too
    st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=15),
)


def extreme(shared: Shared, scale: float, seed: int) -> Shared:
    """A shared model with vectors of any length, one item far out and popular as a negative."""
    generator = np.random.default_rng(seed)
    arrays = {
        name: (scale * generator.standard_normal(array.shape)).astype(np.float32) for name, array in shared.items()
    }
    arrays["table"][0] *= 100
    arrays["bias"][0] = 30 * scale
    return arrays


def moved(federation: Federation, shared: Shared, whole: Interactions, less: Interactions) -> tuple[float, float]:
    """How far the clipped sum moves, in real numbers, and rounded to a grid, in the grid's units."""
    plan, grid = federation.plan(1), federation.mechanisms[0].grid
    found = [federation.model.contribute(shared, users, plan.release, plan.key) for users in (whole, less)]
    real = [flat(clip_and_sum(one, plan.release, plan.mechanism).arrays) for one in found]
    if grid is None:
        return float(np.linalg.norm(real[0] - real[1])), 0.0
    uniforms = SeededUniforms(Key(9).streams(whole.users, Lane.ROUNDING))
    rounded = [flat(clip_and_sum_integers(one, plan.release, plan.mechanism, grid, uniforms).arrays) for one in found]
    return float(np.linalg.norm(real[0] - real[1])), float(np.linalg.norm(rounded[0] - rounded[1]))


def without(items: list[list[int]], user: int, which: int) -> list[list[int]]:
    """The histories with one interaction less."""
    left = [list(history) for history in items]
    del left[user][which % len(left[user])]
    return left


PER_INTERACTION: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "mf, numpy": (MF, {}, 60),
    "mf, bce, sampled": ({**MF, "loss": "bce"}, {"sampling_rate": 0.6}, 60),
    "mf, opacus": (MF, {"backend": "opacus"}, 10),
    "ncf": ({"name": "ncf", "user_vector": "public", "dimension": 4, "hidden": [5]}, {}, 10),
    "popularity": ({"name": "popularity", "least": 5}, {}, 60),
}


@pytest.mark.parametrize(("model", "training", "examples"), PER_INTERACTION.values(), ids=PER_INTERACTION.keys())
def test_one_interaction_moves_the_sum_by_at_most_the_declared_sensitivity(
    model: dict[str, Any], training: dict[str, Any], examples: int
) -> None:
    if model["name"] == "ncf" or training.get("backend") == "opacus":
        pytest.importorskip("opacus")
    federation = of(model, **training).federation(**INTERACTION, noise="skellam")
    mechanism, start = federation.mechanisms[0], federation.start().shared
    assert mechanism.grid is not None
    bound = mechanism.grid.difference(mechanism.sensitivity)
    assert mechanism.sensitivity < 2 * mechanism.clip_norm

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.lists(HISTORY, min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 29), SHARED, st.integers(0, 99))
    def bounded(items: list[list[int]], user: int, which: int, scale: float, seed: int) -> None:
        shared = extreme(start, scale, seed) if start else start
        pair = [histories(CATALOGUE, one, seed) for one in (items, without(items, user % len(items), which))]
        real, rounded = moved(federation, shared, *pair)
        assert real <= mechanism.sensitivity * (1 + 1e-12)
        assert rounded <= bound

    bounded()


@pytest.mark.parametrize("sample", ["interaction", "history"])
def test_one_user_moves_the_sum_by_at_most_the_clip_norm(sample: str) -> None:
    pytest.importorskip("opacus")
    federation = of(MF, backend="opacus", sample=sample, learning_rate=5.0).federation(
        noise_multiplier=1.0, clip_norm=0.4, noise="skellam"
    )
    mechanism, start = federation.mechanisms[0], federation.start().shared
    assert mechanism.grid is not None
    bound = mechanism.grid.l2

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(st.lists(HISTORY, min_size=1, max_size=3), st.integers(0, 2), SHARED, st.integers(0, 99))
    def bounded(drawn: list[list[int]], user: int, scale: float, seed: int) -> None:
        items = [sorted(set(history)) for history in drawn]
        user %= len(items)
        gone = [*items[:user], [], *items[user + 1 :]]
        pair = [histories(CATALOGUE, one, seed) for one in (items, gone)]
        real, rounded = moved(federation, extreme(start, scale, seed), *pair)
        assert real <= 0.4 * (1 + 1e-6)
        assert rounded <= bound

    bounded()


def test_with_noise_inside_one_interaction_moves_a_step_by_at_most_its_clip_norm() -> None:
    """The user's vector is in the same clipped vector, so that it is noised and known to every later step."""
    pytest.importorskip("opacus")
    from fedrec.training.network import train

    plan = DpSgd(0.3, 0.5, 4, negatives="catalogue", trains_user=True)
    sizes = []
    for which in range(12):
        items = [list(range(12))]
        both = [histories(CATALOGUE, one) for one in (items, without(items, 0, which))]
        shared = {"table": np.full((N_ITEMS, 4), 0.5, np.float32), "bias": np.zeros(N_ITEMS, np.float32)}
        change = [train(shared, public_vectors(users, 4), users, plan, 2, "bpr", Key(1)) for users in both]
        apart = [Contribution(parts, 1).weighted_sum(RELEASE, np.ones(1)) for parts in change]
        sizes.append(float(np.linalg.norm(flat(apart[0]) - flat(apart[1]))))
    assert max(sizes) <= 0.3 * plan.step_scale * (1 + 1e-3)
    assert min(sizes) > 0


# What is refused breaks it ------------------------------------------------------------------------------------------

RELEASE = Release("mf", (Component("table", (N_ITEMS, 4)), Component("bias", (N_ITEMS,))), share=1.0, optimise=True)
C = 0.1
STEP = DpSgd(C, negatives="catalogue")
Vectors = Callable[[Interactions], npt.NDArray[np.float32]]


def worst(change: Callable[[Interactions], Mapping[str, Any]], n: int = 25) -> float:
    """How far the removal of one interaction moves one user's sum, over every interaction of some histories."""
    farthest = 0.0
    for seed in range(3):
        items = list(range(seed, seed + n))
        whole = flat(change(histories(CATALOGUE, [items], seed)))
        for which in range(n):
            less = flat(change(histories(CATALOGUE, without([items], 0, which), seed)))
            farthest = max(farthest, float(np.linalg.norm(whole - less)))
    return farthest


def table() -> dict[str, npt.NDArray[np.float32]]:
    generator = np.random.default_rng(4)
    return {"table": generator.standard_normal((N_ITEMS, 4)).astype(np.float32), "bias": np.zeros(N_ITEMS, np.float32)}


def summed(plan: DpSgd, vectors: Vectors, m: int = 2) -> Callable[[Interactions], Mapping[str, Any]]:
    """One vectorised step at some user vectors."""

    def change(users: Interactions) -> Mapping[str, Any]:
        parts = per_interaction.train(table(), vectors(users), users, plan, m, "bpr", Key(1))
        return Contribution(parts, 1).weighted_sum(RELEASE, np.ones(1))

    return change


def public(users: Interactions) -> npt.NDArray[np.float32]:
    return public_vectors(users, 4)


def profile(users: Interactions) -> npt.NDArray[np.float32]:
    """Of fixed norm, from rows of two tastes that cancel but for one interaction."""
    tastes = np.where(users.items % 2, -1.0, 1.0)[:, None] * table()["table"][0]
    mean = tastes.mean(axis=0, keepdims=True)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9), np.float32)


def test_the_proved_step_stays_below_the_clip_norm() -> None:
    assert worst(summed(STEP, public)) <= C


def test_a_vector_of_the_own_history_breaks_the_bound() -> None:
    assert worst(summed(STEP, profile)) > 1.5 * C


def test_negatives_that_avoid_the_own_history_break_the_bound() -> None:
    assert worst(summed(replace(STEP, negatives="unmet"), public)) > 1.5 * C


def test_negatives_as_samples_of_their_own_break_the_bound() -> None:
    """Each of four negatives is clipped alone, so that one interaction brings five clipped gradients."""

    def change(users: Interactions) -> Mapping[str, Any]:
        (step,) = draw(users, STEP, 4, Key(1))
        vector = public(users)[0]
        total = {"table": np.zeros((N_ITEMS, 4)), "bias": np.zeros(N_ITEMS)}
        for item, sign in [*((one, -0.5) for one in users.items), *((one, 0.5) for one in step.negatives.ravel())]:
            gradient = sign * np.r_[vector, 1.0]  # of a logistic loss at a score of zero
            gradient *= min(1.0, C / float(np.linalg.norm(gradient)))
            total["table"][item] += gradient[:4]
            total["bias"][item] += gradient[4]
        return total

    assert worst(change) > 1.5 * C


def test_a_second_local_step_breaks_the_bound() -> None:
    pytest.importorskip("opacus")
    from fedrec.training.network import train

    def steps(n: int) -> Callable[[Interactions], Mapping[str, Any]]:
        plan = replace(STEP, steps=n)

        def change(users: Interactions) -> Mapping[str, Any]:
            parts = train(table(), public(users), users, plan, 2, "bpr", Key(1))
            return Contribution(parts, 1).weighted_sum(RELEASE, np.ones(1))

        return change

    assert worst(steps(1), n=8) <= C * 1.001
    assert worst(steps(2), n=8) > 1.5 * C
