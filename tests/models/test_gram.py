"""Gram: without noise a closed form, written here from scratch; with noise a bounded, split and denoised release."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedrec.config import resolve
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.engines.setting import scorer
from fedrec.errors import ConfigError
from fedrec.federation.round import client_round
from fedrec.models.base import Budget, build
from fedrec.models.denoise import denoise_gram, denoise_popularity, shrink_spectrum
from fedrec.models.gram import MOST_ITEMS
from fedrec.privacy.accounting import composed_mu
from tests.cases import Case, finished, histories, run

Floats = npt.NDArray[np.float64]

PLAIN = {"name": "gram", "content_weight": 0.0, "recency": 0.0}


def dense(users: Interactions) -> Floats:
    """Histories as 0 and 1, ``[n_users, n_items]``."""
    x = np.zeros((users.n_users, users.n_items))
    for user in range(users.n_users):
        x[user, users.user(user)] = 1
    return x


def unit(x: Floats) -> Floats:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(norms == 0, 1, norms))


def statistics(x: Floats) -> tuple[Floats, Floats]:
    """The Gram matrix with its estimated diagonal, and popularity.

    The true diagonal Σ 1/n_u is not released; d with d (d + o) = p² stands in, o the sum of an item's row.
    """
    y = unit(x)
    gram = y.T @ y
    np.fill_diagonal(gram, 0)
    popularity = np.maximum(y.sum(axis=0), 0.02)
    off = gram.sum(axis=1)
    diagonal = (-off + np.sqrt(off**2 + 4 * popularity**2)) / 2
    np.testing.assert_allclose(diagonal * (diagonal + off), popularity**2)
    return gram + np.diag(diagonal), popularity


def ease(gram: Floats, ridge: float) -> Floats:
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
    weights = np.zeros_like(gram)
    for i in range(len(gram)):
        for j in range(len(gram)):
            if i != j:
                weights[i, j] = -inverse[i, j] / inverse[j, j]
    return weights


def graph_filter(gram: Floats, popularity: Floats, rank: int, damping: float) -> Floats:
    """D^½ U w / (w + damping w₁) Uᵀ D^½ of the ``rank`` largest eigenpairs of D^-½ G D^-½."""
    half = np.sqrt(popularity)
    values, vectors = np.linalg.eigh(gram / half[:, None] / half[None])
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    assert values.min() > 0
    return np.asarray(
        (half[:, None] * vectors * (values / (values + damping * values[0]))) @ (half[:, None] * vectors).T
    )


def standard(scores: Floats) -> Floats:
    return np.asarray((scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True))


@pytest.mark.parametrize("ridge", [0.5, 10.0])
def test_ease_is_the_closed_form(ridge: float) -> None:
    case = Case.of({**PLAIN, "solver": "ease", "ridge": ridge})
    federation = case.federation()
    shared = finished(federation, case.train).shared
    x = dense(case.train)
    wanted = ease(statistics(x)[0], ridge)
    np.testing.assert_allclose(shared["weights"], wanted, atol=1e-6)
    scores = scorer(federation.model, shared)(case.train)
    np.testing.assert_allclose(scores, standard(unit(x) @ wanted), atol=1e-4)


@pytest.mark.parametrize("rank", [1, 5, 30])
def test_spectral_is_the_closed_form(rank: int) -> None:
    case = Case.of({**PLAIN, "rank": rank, "damping": 0.1})
    federation = case.federation()
    shared = finished(federation, case.train).shared
    x = dense(case.train)
    gram, popularity = statistics(x)
    wanted = graph_filter(gram, popularity, rank, damping=0.1)
    factor = shared["factor"].astype(np.float64)
    assert factor.shape == (case.train.n_items, rank)
    np.testing.assert_allclose(factor @ factor.T, wanted, atol=1e-6 * np.abs(wanted).max())
    np.testing.assert_allclose(shared["item_weight"], popularity**-0.5, rtol=1e-6)
    scores = scorer(federation.model, shared)(case.train)
    np.testing.assert_allclose(scores, standard((unit(x) * popularity**-0.5) @ wanted), atol=1e-4)


def test_a_restricted_matrix_is_the_closed_form_on_the_most_popular_items() -> None:
    case = Case.of({**PLAIN, "solver": "ease", "top_items": 20})
    shared = finished(case.federation(), case.train).shared
    popularity = unit(dense(case.train)).sum(axis=0)
    items = shared["items"]
    assert popularity[items].min() >= np.delete(popularity, items).max()
    y = unit(dense(case.train)[:, items])  # normalised anew on the matrix's items
    gram = y.T @ y
    np.fill_diagonal(gram, 0)
    off, p = gram.sum(axis=1), popularity[items]
    np.fill_diagonal(gram, (-off + np.sqrt(off**2 + 4 * p**2)) / 2)
    np.testing.assert_allclose(shared["weights"], ease(gram, 10.0), atol=1e-6)


def test_top_items_takes_two_releases_and_the_whole_matrix_one() -> None:
    def names(**options: Any) -> list[str]:
        return [release.name for release in Case.of({**PLAIN, **options}).federation().releases]

    assert names() == names(top_items=80) == names(top_items=500) == ["gram"]
    assert names(top_items=79) == ["popularity", "gram"]
    releases = Case.of({**PLAIN, "top_items": 30}).federation(noise_multiplier=1.0).releases
    assert [release.size for release in releases] == [80, 30 * 29 // 2]


def test_a_matrix_too_large_for_memory_is_refused_with_what_to_do() -> None:
    raw = {"data": {"name": "synthetic"}, "model": {"name": "gram"}}
    catalogue = Catalogue(np.arange(MOST_ITEMS + 1).astype(str))
    with pytest.raises(ConfigError, match=r"model\.top_items"):
        build(resolve(raw)).releases(catalogue, Budget(1.0, 10))


def test_sensitivities_by_brute_force() -> None:
    """One for x / ‖x‖, 1/√2 for the triangle of y yᵀ: reached by no history, approached by long ones."""
    case = Case.of({**PLAIN})
    rng = np.random.default_rng(1)
    n = case.train.n_items
    sizes = [0, 1, 2, 3, n, *rng.integers(1, n + 1, 200).tolist()]
    users = histories(case.train.catalogue, [rng.permutation(n)[:size].tolist() for size in sizes])
    federation = case.federation()
    parts = federation.model.contribute({}, users, federation.releases[0], federation.key).parts
    for user, x in enumerate(unit(dense(users))):
        popularity, triangle = np.linalg.norm(x), np.linalg.norm(np.triu(np.outer(x, x), 1))
        assert parts["popularity"].squared_norms()[user] == pytest.approx(popularity**2)
        assert parts["gram"].squared_norms()[user] == pytest.approx(triangle**2)
        weight = np.eye(users.n_users)[user]
        np.testing.assert_allclose(parts["popularity"].weighted_sum(weight), x)
        np.testing.assert_allclose(
            parts["gram"].weighted_sum(weight), np.outer(x, x)[np.triu_indices(n, 1)], atol=1e-12
        )
        assert popularity <= 1 + 1e-12
        assert triangle < 1 / math.sqrt(2)
    assert parts["gram"].squared_norms().max() > 0.5 * (1 - 1.01 / n)


@pytest.mark.parametrize("top_items", [None, 40])
@pytest.mark.parametrize("share", [None, 0.3])
def test_every_coordinate_gets_the_noise_that_its_budget_share_buys(share: float | None, top_items: int | None) -> None:
    """Noise of deviation Δ_j sigma / √f_j, sigma that of the whole run as one release; measured, not read.

    n s² / std² is chi-square with n degrees of freedom; its deviation √(2n), and 4.9 of those are exceeded with
    probability 1e-6 an array.
    """
    case = Case.of({**PLAIN, "popularity_share": share, "top_items": top_items})
    federation = case.federation(noise_multiplier=1.3)
    sigma = 1 / composed_mu([mechanism.noise_multiplier for mechanism in federation.mechanisms])
    part = share if share is not None else np.clip(5 * 1.3 / math.sqrt(100), 0.1, 0.6)
    wanted = {"popularity": 1.0 * sigma / math.sqrt(part), "gram": sigma / math.sqrt(2) / math.sqrt(1 - part)}
    seen = set()
    for _, state, plan in run(federation, case.train):
        nobody = case.train.where(np.zeros(case.train.n_events, np.bool_))
        sums = [client_round(federation.model, state.shared, nobody, plan, part=number).arrays for number in range(20)]
        for component in plan.release.components:
            noise = np.concatenate([np.ravel(arrays[component.name]) for arrays in sums]) / component.scale
            statistic = np.vdot(noise, noise) / wanted[component.name] ** 2
            assert abs(statistic - noise.size) < 4.9 * math.sqrt(2 * noise.size)
            seen.add(component.name)
    assert seen == set(wanted)


def noise_matrix(rng: np.random.Generator, size: int) -> Floats:
    upper = np.triu(rng.standard_normal((size, size)), 1)
    return np.asarray(upper + upper.T)


def test_pure_noise_is_dropped() -> None:
    """The largest of 100 eigenvalues exceeds 1.1 edges with probability near 1e-5 (Tracy and Widom), 20 draws 2e-4.

    At the edge itself one or two may stick out, with probability .2 a draw; pulled down by .8 edges they keep at most
    .12 of the noise's norm.
    """
    rng = np.random.default_rng(1)
    size, std = 100, 0.3
    catalogue = Catalogue(np.arange(size).astype(str))
    edge = 2 * std * math.sqrt(size)
    for _ in range(20):
        noise = std * noise_matrix(rng, size)
        assert not shrink_spectrum(noise, 1.1 * edge).any()
        popularity = rng.uniform(0.5, 2.0, size)
        kept = denoise_gram(noise, std, popularity, catalogue, top_share=1.0)
        assert np.linalg.norm(kept) < 0.12 * np.linalg.norm(noise)


def test_a_signal_above_the_noise_survives_it() -> None:
    rng = np.random.default_rng(2)
    size = 100
    direction = rng.standard_normal(size)
    direction /= np.linalg.norm(direction)
    strength = 6 * 2 * math.sqrt(size)
    kept = shrink_spectrum(strength * np.outer(direction, direction) + noise_matrix(rng, size), 2 * math.sqrt(size))
    assert direction @ kept @ direction > 0.75 * strength
    assert np.linalg.matrix_rank(kept, tol=0.3 * 2 * math.sqrt(size)) == 1


def test_without_noise_the_statistics_are_left_alone() -> None:
    rng = np.random.default_rng(3)
    catalogue = Catalogue(np.arange(30).astype(str))
    gram, popularity = noise_matrix(rng, 30), rng.uniform(0.1, 5, 30)
    assert denoise_gram(gram, 0.0, popularity, catalogue, 0.4) is gram
    np.testing.assert_array_equal(denoise_popularity(popularity, 0.0, catalogue, 50), popularity)


def test_denoised_popularity_is_nearer_to_the_truth_than_the_release() -> None:
    """Lognormal popularity under noise: the posterior mean's error is well below that of the release in ten of ten."""
    rng = np.random.default_rng(4)
    catalogue = Catalogue(np.arange(500).astype(str))
    for noise_std in (1.0, 3.0):
        for _ in range(5):
            truth = np.exp(rng.normal(0.5, 1.25, 500))
            noised = truth + noise_std * rng.standard_normal(500)
            found = denoise_popularity(noised, noise_std, catalogue, 5000)
            assert (found > 0).all()
            assert np.abs(found - truth).mean() < 0.9 * np.abs(noised - truth).mean()
