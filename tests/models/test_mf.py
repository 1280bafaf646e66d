"""MF: its gradients by finite differences, its rounds learn, its delta is clipped, its start is paid for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedrec.engines.fleet import Fleet
from fedrec.errors import ConfigError, MissingExtraError
from fedrec.models import base, mf
from fedrec.privacy.accounting import composed_mu, gaussian_epsilon
from fedrec.privacy.mechanism import clip_and_sum
from fedrec.randomness import Key
from fedrec.training.local import draw_negatives
from tests.cases import Case, calibrated, finished, flat, run

Floats = npt.NDArray[np.float64]

DIMENSION = 4


def case_of(model: Mapping[str, Any], **sections: Any) -> Case:
    return Case.of({"name": "mf", "dimension": DIMENSION, **model}, **sections)


def softplus(x: Floats) -> Floats:
    return np.asarray(np.logaddexp(0.0, x))


def logistic(case: Case, shared: Mapping[str, Any], personal: Floats, key: Key) -> Floats:
    """Each user's logistic loss of one epoch at the given model, with the negatives that training draws, ``[C]``."""
    users, m = case.train, case.experiment.training.negatives
    table, bias = shared["table"].astype(np.float64), shared["bias"].astype(np.float64)
    owner, negative = draw_negatives(users, users.counts * m, key)
    s_neg = np.einsum("kd,kd->k", personal[owner], table[negative]) + bias[negative]
    s_pos = np.einsum("kd,kd->k", personal[users.user_of_event], table[users.items]) + bias[users.items]
    each = np.bincount(users.user_of_event, softplus(-s_pos), minlength=users.n_users)
    return np.asarray(each + np.bincount(owner, softplus(s_neg), minlength=users.n_users))


@pytest.mark.parametrize("negatives", [1, 3])
def test_one_batch_is_a_step_down_the_logistic_loss(negatives: int) -> None:
    """A user's delta over the learning rate is the gradient of its loss, by central differences.

    The loss of a user whose positives lie in one batch is a sum over its draws, whatever their order.
    """
    training = {"epochs": 1, "batch_size": 1000, "learning_rate": 1e-2, "negatives": negatives}
    case = case_of({"loss": "bce", "start": "random"}, training=training)
    federation, state, plan = next(run(case.federation(), case.train))
    shared = {"table": state.shared["table"], "bias": np.linspace(-1, 1, case.train.n_items).astype(np.float32)}
    shared["item_weight"] = state.shared["item_weight"]
    personal = federation.model.personalise(shared, case.train)["vector"].astype(np.float64)
    delta = federation.model.contribute(shared, case.train, plan.release, plan.key).parts
    n = case.train.n_users

    def numerical(name: str, place: tuple[int, ...]) -> Floats:
        sides = []
        for sign in (1, -1):
            moved = {key: array.astype(np.float64) for key, array in shared.items()}
            moved[name][place] += sign * 1e-5
            sides.append(logistic(case, moved, personal, plan.key))
        return np.asarray((sides[0] - sides[1]) / 2e-5)

    rng = np.random.default_rng(1)
    users = {"items": np.zeros((n, case.train.n_items, DIMENSION)), "bias": np.zeros((n, case.train.n_items))}
    for user in range(n):
        for name, array in users.items():
            array[user] = delta[name].weighted_sum(np.eye(n)[user])
    for item in rng.choice(case.train.n_items, 15, replace=False):
        column = int(rng.integers(DIMENSION))
        np.testing.assert_allclose(
            users["items"][:, item, column] / -1e-2, numerical("table", (item, column)), atol=1e-3
        )
        np.testing.assert_allclose(users["bias"][:, item] / -1e-2, numerical("bias", (item,)), atol=1e-3)


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_a_users_own_items_rise_and_drawn_ones_fall(loss: str) -> None:
    case = case_of({"loss": loss, "start": "random"})
    federation, state, plan = next(run(case.federation(), case.train))
    bias = federation.model.contribute(state.shared, case.train, plan.release, plan.key).parts["bias"]
    for user in range(case.train.n_users):
        change = bias.weighted_sum(np.eye(case.train.n_users)[user])
        np.testing.assert_array_equal(np.flatnonzero(change > 0), np.sort(case.train.user(user)))
        assert (change < 0).any()


def bpr(case: Case, model: Any, shared: Mapping[str, Any]) -> float:
    """The mean BPR loss over all pairs of an item met and one not met."""
    scores = model.personalise(shared, case.train)["vector"] @ shared["table"].T + shared["bias"]
    total, pairs = 0.0, 0
    for user in range(case.train.n_users):
        mine = case.train.user(user)
        apart = scores[user][mine][:, None] - np.delete(scores[user], mine)[None]
        total, pairs = total + float(softplus(-apart).sum()), pairs + apart.size
    return total / pairs


@pytest.mark.parametrize("start", ["random", "spectral"])
def test_every_round_without_noise_lowers_the_loss(start: str) -> None:
    case = case_of(
        {"start": start},
        training={"learning_rate": 0.1},
        federation={"rounds": 3, "server_learning_rate": 5.0},
    )
    federation = case.federation()
    states = [state for _, state, _ in run(federation, case.train)] + [finished(federation, case.train)]
    values = [bpr(case, federation.model, state.shared) for state in states if "table" in state.shared]
    assert len(values) == 4
    assert all(after < before for before, after in itertools.pairwise(values))


@pytest.mark.parametrize("there", [True, False])
def test_training_is_compiled_where_numba_is_installed_and_nothing_is_regularised(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: find_spec(name) if there or name != "numba" else None)
    if there:
        pytest.importorskip("numba")
    assert case_of({}).federation().model.backend == ("numba" if there else "numpy")
    assert case_of({}, training={"regularisation": 0.1}).federation().model.backend == "numpy"
    asked = case_of({}, training={"backend": "numba"}).federation().model
    if there:
        base.require_extras(asked)
    else:
        with pytest.raises(MissingExtraError, match=r"pip install 'fedrec\[fast\]'"):
            base.require_extras(asked)
    with pytest.raises(ConfigError, match=r"does not regularise; take 'numpy'"):
        case_of({}, training={"backend": "numba", "regularisation": 0.1}).federation()


def test_a_whole_federation_ends_alike_compiled_or_not_with_any_number_of_workers() -> None:
    pytest.importorskip("numba")
    ends = [
        flat(finished(case.federation(), case.train).shared)
        for case in (
            case_of({}, training={"backend": "numpy"}),
            case_of({}, training={"backend": "numba"}),
            case_of({}, training={"backend": "numba"}, engine={"workers": 3}),
        )
    ]
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(ends[1], ends[2])


@pytest.mark.parametrize("backend", ["numpy", "opacus"])
@pytest.mark.parametrize("unit", ["user", "interaction"])
def test_clipped_samples_lower_the_loss_in_every_backend(backend: str, unit: str) -> None:
    """Clipped interaction by interaction: one step a round at public vectors, or many at the user's own."""
    if backend == "opacus":
        pytest.importorskip("opacus")
    case = case_of(
        {"start": "random", "user_vector": "public" if unit == "interaction" else "profile"},
        data={"n_users": 40},
        training={"backend": backend, "learning_rate": 0.2, "batch_size": 1, "sampling_rate": 0.5},
        federation={"rounds": 3, "server_learning_rate": 10.0},
        privacy={"epsilon": "none", "unit": unit, "interaction_clip": 0.5},
    )
    federation = case.federation()
    assert (federation.releases[0].dpsgd is None) == (backend == "numpy" and unit == "user")
    before = bpr(case, federation.model, federation.start().shared)
    assert bpr(case, federation.model, finished(federation, case.train).shared) < before


def test_both_backends_take_the_same_steps_of_interactions_through_a_whole_federation() -> None:
    pytest.importorskip("opacus")
    ends = []
    for backend in ("numpy", "opacus"):
        case = case_of(
            {"start": "random", "user_vector": "public"},
            data={"n_users": 30},
            training={"backend": backend, "negatives": 3},
            privacy={"epsilon": "none", "unit": "interaction"},
        )
        ends.append(flat(finished(case.federation(), case.train).shared))
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-5)


def test_the_whole_delta_is_clipped_as_one_vector() -> None:
    case = case_of({"start": "random"}, training={"learning_rate": 2.0}, privacy={"clip_norm": 0.01})
    federation, state, plan = next(run(case.federation(noise_multiplier=1.0), case.train))
    assert plan.mechanism.clip_norm == 0.01
    for user in range(case.train.n_users):
        one = federation.model.contribute(state.shared, case.train.take(np.array([user])), plan.release, plan.key)
        assert one.norms(plan.release)[0] > 0.01
        sent = flat(clip_and_sum(one, plan.release, plan.mechanism).arrays)
        assert np.linalg.norm(sent) == pytest.approx(0.01, rel=1e-6)


def test_no_client_sends_its_own_vector() -> None:
    case = case_of({"start": "random"})
    _, _, plan = next(run(case.federation(), case.train))
    assert {component.name for component in plan.release.components} == {"items", "bias"}


@pytest.mark.parametrize(("options", "names"), [({}, ["gram"]), ({"top_items": 30}, ["popularity", "gram"])])
def test_the_spectral_start_is_paid_from_the_same_budget(options: dict[str, Any], names: list[str]) -> None:
    case = case_of({"start": "spectral", "start_share": 0.8, **options}, federation={"rounds": 3})
    federation = case.federation(epsilon=4.0)
    assert [release.name for release in federation.releases] == [*names, "mf", "mf", "mf"]
    sigmas = [mechanism.noise_multiplier for mechanism in federation.mechanisms]
    whole = composed_mu(sigmas)
    assert whole == pytest.approx(1 / calibrated(4.0, [1.0])[0], rel=1e-3)
    assert gaussian_epsilon(whole, 1e-5) <= 4.0
    start = composed_mu(sigmas[: len(names)])
    assert start**2 / whole**2 == pytest.approx(0.8)
    assert sigmas[-1] == sigmas[-2] == pytest.approx(math.sqrt(3 / 0.2) / whole)


def test_a_spectral_start_scores_what_a_random_one_cannot() -> None:
    """Before any training the spectral table ranks a user's own items above others; the random one only by chance."""
    values = {}
    for start in ("spectral", "random"):
        case = case_of({"start": start})
        federation = case.federation()
        state = federation.start()
        while "table" not in state.shared:
            plan = federation.plan(state.round + 1)
            shards = Fleet(federation.model, case.train).collect(plan, state.shared).shards
            state = federation.finish(state, plan, shards)
        values[start] = bpr(case, federation.model, state.shared)
    assert values["spectral"] < values["random"]


def test_scores_by_content_are_computed_once_for_the_same_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    """They depend on no round; where there are too many to keep they are computed anew, and alike."""
    case = case_of({"start": "random"})
    federation, users = case.federation(), case.train
    model, shared = federation.model, federation.start().shared

    def content() -> npt.NDArray[np.float32]:
        return np.asarray(model.personalise(shared, users)["content"])

    kept = content()
    assert kept.any()
    assert content() is kept
    monkeypatch.setattr(mf, "_REMEMBERED", 0)
    assert content() is not kept
    np.testing.assert_array_equal(content(), kept)
    lighter = replace(model, config=model.config.model_copy(update={"content_weight": 0.1}))
    monkeypatch.undo()
    np.testing.assert_allclose(lighter.personalise(shared, users)["content"], kept / 2, rtol=1e-5)
