"""NCF: what a device scores is what it trained, its rounds learn, and a device that only scores needs no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fedrec.errors import ConfigError, MissingExtraError
from fedrec.models.base import require_extras
from tests.cases import Case, finished, run

torch_only = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('opacus')", reason="needs torch")


def case_of(options: dict[str, Any] | None = None, **sections: Any) -> Case:
    model = {"name": "ncf", "dimension": 4, "hidden": [8], **(options or {})}
    return Case.of(model, data={"n_users": 40, "n_items": 40}, **sections)


@torch_only
@pytest.mark.parametrize("hidden", [[5], [7, 3]])
def test_the_scores_are_the_networks(hidden: list[int]) -> None:
    import torch

    from fedrec.training.network import Network

    case = case_of({"hidden": hidden})
    model = case.federation().model
    rng = np.random.default_rng(1)
    shared = {
        name: rng.standard_normal(array.shape).astype(np.float32)
        for name, array in case.federation().start().shared.items()
    }
    personal = model.personalise(shared, case.train)
    network = Network(shared, personal["vector"], "bce", trains_user=False)
    n_users, n_items = case.train.n_users, case.train.n_items
    items = torch.arange(n_items).repeat(n_users, 1)
    # The loss of one positive without negatives is softplus(-score), of which this is the inverse.
    losses = [
        network(torch.arange(n_users), items[:, [item], None], torch.ones(n_users, 1)).detach().double().numpy()
        for item in range(n_items)
    ]
    wanted = -np.log(np.expm1(np.stack(losses, axis=1)))
    np.testing.assert_allclose(model.score(shared, personal), wanted, rtol=0, atol=2e-3)


@torch_only
@pytest.mark.parametrize("user_vector", ["profile", "public"])
def test_rounds_without_noise_rank_the_own_items_higher(user_vector: str) -> None:
    """The mean rank of users' own items among all, 0 the top: below half, since a profile holds them, and it falls."""
    case = case_of(
        {"user_vector": user_vector},
        training={"learning_rate": 0.5, "batch_size": 1},
        federation={"rounds": 3, "server_learning_rate": 10.0},
        privacy={"epsilon": "none", "interaction_clip": 1.0},
    )
    federation = case.federation()

    def mean_rank(shared: Any) -> float:
        scores = federation.model.score(shared, federation.model.personalise(shared, case.train))
        ranks = np.argsort(np.argsort(-scores, axis=1), axis=1) / scores.shape[1]
        return float(ranks[case.train.user_of_event, case.train.items].mean())

    start, end = federation.start().shared, finished(federation, case.train).shared
    assert mean_rank(start) > 0.35
    assert mean_rank(end) < mean_rank(start) - 0.03


@torch_only
def test_no_client_sends_its_own_vector() -> None:
    case = case_of()
    _, state, plan = next(run(case.federation(), case.train))
    assert {component.name for component in plan.release.components} == set(state.shared)
    assert set(state.shared) == {"table", "bias", "weight0", "offset0", "weight1", "offset1"}


@torch_only
def test_public_vectors_make_a_contribution_hang_on_numbers_and_own_items_alone() -> None:
    """Unit interaction takes no other vectors, and the model says which it has."""
    assert case_of({"user_vector": "public"}).federation().model.per_interaction
    assert not case_of().federation().model.per_interaction


def test_numpy_does_not_train_it() -> None:
    with pytest.raises(ConfigError, match=r"training\.backend = 'numpy'; take 'opacus'"):
        case_of(training={"backend": "numpy"}).federation()


def test_a_missing_extra_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of()
    federation = case.federation()
    for name in ("torch", "opacus", "fedrec.training.network"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("fedrec.training.network", raising=False)
    _, state, plan = federation, federation.start(), federation.plan(1)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrec\[torch\]'"):
        federation.model.contribute(state.shared, case.train, plan.release, plan.key)
    with pytest.raises(MissingExtraError, match="torch"):
        require_extras(federation.model)


SCORES = """
import sys
from tests.cases import Case
case = Case.of({"name": "ncf"}, data={"n_users": 5, "n_items": 9})
model, state = case.federation().model, case.federation().start()
assert model.score(state.shared, model.personalise(state.shared, case.train)).shape == (5, 9)
print([name for name in ("torch", "opacus") if name in sys.modules])
"""


def test_a_device_that_only_scores_loads_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", SCORES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_model_trains_in_numpy_where_it_can_unless_told_otherwise() -> None:
    assert case_of().federation().model.backend == "opacus"
    assert case_of(training={"backend": "torch"}).federation().model.backend == "torch"
    assert Case.of({"name": "mf"}, training={"backend": "numpy"}).federation().model.backend == "numpy"
    assert Case.of({"name": "mf"}, training={"backend": "opacus"}).federation().model.backend == "opacus"
    assert Case.of({"name": "gram"}, training={"backend": "opacus"}).federation().model.backend is None


@torch_only
def test_scoring_many_users_in_blocks_is_scoring_each() -> None:
    case = case_of()
    model, state = case.federation().model, case.federation().start()
    whole = model.score(state.shared, model.personalise(state.shared, case.train))
    for user in (0, 20, 39):
        alone = model.score(state.shared, model.personalise(state.shared, case.train.take(np.array([user]))))
        np.testing.assert_allclose(whole[user], alone[0], rtol=0, atol=1e-5)
