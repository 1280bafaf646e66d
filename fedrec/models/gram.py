"""Gram: one round of clipped item-to-item statistics, and a shared model solved from them in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedrec.config import ModelConfig
from fedrec.contribution import Contribution, Rows, unpack_upper
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.errors import ConfigError
from fedrec.models.base import Budget, Form, Personal, Recommender, Shared, Total
from fedrec.models.denoise import denoise_gram, denoise_popularity, ease_weights, spectral_factor
from fedrec.models.history import F32, F64, ContentKernel, project, recency_weights, standardise
from fedrec.models.popularity import normalised_history
from fedrec.models.triangles import Triangles
from fedrec.randomness import Key
from fedrec.registry import MODELS
from fedrec.release import Component, Release

MOST_ITEMS = 20_000
"""A Gram matrix of more items does not fit a server's memory; ``top_items`` restricts it."""


class GramConfig(ModelConfig):
    """Settings of `Gram`.

    Attributes:
        solver: ``spectral`` (a factor of the filtered spectrum, ``rank`` numbers an item) or ``ease`` (item-to-item
            weights).
        rank: eigenvectors kept by ``spectral``.
        damping: ``spectral``: how strongly small eigenvalues are held back, as a share of the largest.
        ridge: ``ease``: the L2 weight.
        top_items: restrict the matrix to the noisily most popular items; costs a round of popularity first.
        popularity_share: part of the budget for popularity; none chooses by the noise, from .1 to .6.
        residual_share: with noise, the matrix is read on this share of its items and is the public prior elsewhere.
        recency: decay of the device's own profile per step back in time.
        popularity_weight: weight of log-popularity in the score.
        content_weight: weight of the public genre-and-year similarity in the score.
    """

    name: Literal["gram"] = "gram"
    solver: Literal["spectral", "ease"] = "spectral"
    rank: int = Field(128, ge=1)
    damping: float = Field(0.03, gt=0)
    ridge: float = Field(10.0, gt=0)
    top_items: int | None = Field(None, ge=2)
    popularity_share: float | None = Field(None, gt=0, lt=1)
    residual_share: float = Field(0.4, gt=0, le=1)
    recency: float = Field(1.0, ge=0)
    popularity_weight: float = Field(0.0, ge=0)
    content_weight: float = Field(0.2, ge=0)


@MODELS.register("gram")
class Gram(Recommender):
    """Each client contributes x / ‖x‖ and the strict upper triangle of y yᵀ, y = x / ‖x‖, jointly clipped.

    The server denoises both under the known noise level, with public item features as a prior, and factors the matrix
    (or solves EASE). A device scores its own recency-weighted history locally.

    Guarantees: the components have sensitivities 1 and 1/√2 and enter scaled by √share / sensitivity, so the joint norm
    is at most 1 by construction; all the rest is post-processing.
    """

    Config = GramConfig
    config: GramConfig

    def releases(self, catalogue: Catalogue, budget: Budget) -> tuple[Release, ...]:
        return gram_releases(self.config.top_items, self.config.popularity_share, catalogue, budget)

    def init(self, catalogue: Catalogue, key: Key) -> Shared:
        return {}

    def forms(self, catalogue: Catalogue, done: Sequence[Release]) -> Mapping[str, Form] | None:
        return chosen_forms(self.config.top_items, catalogue, done) if done else {}

    def contribute(self, shared: Shared, users: Interactions, release: Release, key: Key) -> Contribution:
        return gram_contribution(shared, users, release)

    def apply(self, shared: Shared, total: Total, release: Release, catalogue: Catalogue) -> Shared:
        config = self.config
        if "gram" not in total.arrays:
            return choose_items(total, catalogue, config.top_items)
        popularity, gram, items = denoised(shared, total, catalogue, config.residual_share)
        solved: dict[str, F32] = {}
        if config.solver == "ease":
            solved["weights"] = ease_weights(gram, popularity[items], config.ridge)
        else:
            solved["factor"], solved["item_weight"] = spectral_factor(
                gram, popularity[items], config.rank, config.damping
            )
        return {"popularity": np.log(popularity).astype(np.float32), "items": items, **solved}

    def personalise(self, shared: Shared, users: Interactions) -> Personal:
        weights = recency_weights(users, self.config.recency)
        personal: dict[str, npt.NDArray[np.float32]] = {
            "content": content_scores(self.config.content_weight, users, weights)
        }
        for name in ("factor", "weights"):
            if name in shared:
                full = np.zeros((users.n_items, shared[name].shape[1]), np.float32)
                full[shared["items"]] = shared[name]
                if "item_weight" in shared:
                    full[shared["items"]] *= shared["item_weight"][:, None]
                personal["profile"] = project(users, weights, full)
        return personal

    def score(self, shared: Shared, personal: Personal) -> npt.NDArray[np.float32]:
        content = personal["content"]
        scores = content + self.config.popularity_weight * standardise(shared["popularity"])
        if "profile" in personal:
            profile = personal["profile"]
            own = profile if "weights" in shared else profile @ shared["factor"].T
            full = np.zeros_like(content)
            full[:, shared["items"]] = own
            scores = scores + standardise(full)
        return np.asarray(scores, np.float32)


def gram_releases(
    top_items: int | None, share: float | None, catalogue: Catalogue, budget: Budget
) -> tuple[Release, ...]:
    """Popularity and the Gram matrix: in one round, or in two where the matrix is restricted to the most popular items.

    Raises:
        ConfigError: if the matrix would be too large.
    """
    n = len(catalogue)
    k = min(top_items or n, n)
    if k > MOST_ITEMS:
        raise ConfigError(f"A Gram matrix of {n} items is too large; set model.top_items to at most {MOST_ITEMS}.")
    if share is None:
        share = float(np.clip(5 * budget.noise_multiplier / math.sqrt(max(budget.n_users, 1)), 0.1, 0.6))
    popularity, triangle = (n,), (k * (k - 1) // 2,)
    if k == n:
        parts = (
            Component("popularity", popularity, math.sqrt(share)),
            Component("gram", triangle, math.sqrt(2 * (1 - share))),
        )
        return (Release("gram", parts, share=1.0, clip_norm=1.0),)
    return (
        Release("popularity", (Component("popularity", popularity),), share=share, clip_norm=1.0),
        Release("gram", (Component("gram", triangle, math.sqrt(2)),), share=1 - share, clip_norm=1.0),
    )


def gram_contribution(shared: Shared, users: Interactions, release: Release) -> Contribution:
    """The statistics that a release asks for; y is the history on the matrix's items alone."""
    parts: dict[str, Rows | Triangles] = {}
    for component in release.components:
        if component.name == "popularity":
            parts["popularity"] = normalised_history(users)
            continue
        items = shared.get("items", np.arange(users.n_items))
        column = np.full(users.n_items, -1)
        column[items] = np.arange(len(items))
        kept = users.where(column[users.items] >= 0)
        values = normalised_history(kept).values
        parts["gram"] = Triangles(kept.indptr, column[kept.items], values, len(items))
    return Contribution(parts, users.n_users)


def choose_items(total: Total, catalogue: Catalogue, top_items: int | None) -> Shared:
    """After a round of popularity alone: the denoised popularity and the noisily most popular items."""
    popularity = denoise_popularity(total.arrays["popularity"], total.noise_std["popularity"], catalogue, total.n_users)
    top = np.sort(np.argsort(-popularity, kind="stable")[:top_items])
    return {"popularity": np.log(popularity).astype(np.float32), "items": top}


def chosen_forms(top_items: int | None, catalogue: Catalogue, done: Sequence[Release]) -> Mapping[str, Form] | None:
    """What `choose_items` gives, once a round of popularity alone is done."""
    if [component.name for release in done for component in release.components] != ["popularity"]:
        return None
    n = len(catalogue)
    return {"popularity": ("float32", (n,)), "items": ("int64", (min(top_items or n, n),))}


def denoised(
    shared: Shared, total: Total, catalogue: Catalogue, residual_share: float
) -> tuple[F64, F64, npt.NDArray[np.int64]]:
    """Popularity ``[n_items]``, the Gram matrix ``[K, K]`` with a zero diagonal and its items ``[K]``, denoised."""
    if "popularity" in total.arrays:
        popularity = denoise_popularity(
            total.arrays["popularity"], total.noise_std["popularity"], catalogue, total.n_users
        )
        items = np.arange(len(catalogue))
    else:
        popularity, items = np.exp(shared["popularity"].astype(np.float64)), shared["items"]
    gram = unpack_upper(total.arrays["gram"], len(items))
    part = catalogue if len(items) == len(catalogue) else catalogue.take(items)
    return popularity, denoise_gram(gram, total.noise_std["gram"], popularity[items], part, residual_share), items


def content_scores(weight: float, users: Interactions, weights: F64) -> F32:
    """The weighted, standardised scores from public features; zero where the catalogue has none."""
    kernel = ContentKernel.of(users.catalogue) if weight else None
    if kernel is None:
        return np.zeros((users.n_users, users.n_items), np.float32)
    return np.asarray(weight * standardise(kernel.scores(users, weights)), np.float32)
