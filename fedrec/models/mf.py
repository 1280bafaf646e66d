"""Matrix factorisation: item table and bias are shared, the user vector never leaves the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedrec.config import ModelConfig
from fedrec.contribution import Contribution
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.models.base import Budget, Form, Personal, Recommender, Shared, Total
from fedrec.models.denoise import spectral_factor
from fedrec.models.gram import choose_items, chosen_forms, content_scores, denoised, gram_contribution, gram_releases
from fedrec.models.history import F32, F64, project, recency_weights, standardise
from fedrec.randomness import Key, Lane
from fedrec.registry import MODELS
from fedrec.release import Component, Release
from fedrec.training import clipped
from fedrec.training.local import Learned, train
from fedrec.training.samples import public_vectors

_REMEMBERED = 1 << 22
"""Scores by content, which are the same in every round, that are kept with the histories they come from."""


class MfConfig(ModelConfig):
    """Settings of `Mf`.

    Attributes:
        dimension: length of an item's and a user's vector.
        loss: ``bpr`` or ``bce``.
        user_vector: where a user's vector starts in local training: ``profile``, from the own history, or ``public``, a
            random one that anyone can compute from the user's number, as unit ``interaction`` needs it.
        start: ``spectral`` spends a first round on Gram statistics and starts from their factor; ``random`` does not.
        start_share: part of the budget for the spectral start.
        top_items: restrict the start's matrix to the noisily most popular items; costs a further round.
        damping, residual_share, popularity_weight: of the spectral start, as in `fedrec.models.gram`.
        recency: decay of the device's own profile per step back in time.
        content_weight: weight of the public genre-and-year similarity in the score.
    """

    name: Literal["mf"] = "mf"
    dimension: int = Field(64, ge=1)
    loss: Literal["bpr", "bce"] = "bpr"
    user_vector: Literal["profile", "public"] = "profile"
    start: Literal["spectral", "random"] = "spectral"
    start_share: float = Field(0.95, gt=0, lt=1)
    top_items: int | None = Field(None, ge=2)
    damping: float = Field(0.03, gt=0)
    residual_share: float = Field(0.4, gt=0, le=1)
    popularity_weight: float = Field(0.0, ge=0)
    recency: float = Field(1.0, ge=0)
    content_weight: float = Field(0.2, ge=0)


@MODELS.register("mf")
class Mf(Recommender):
    """Local BPR (Rendle et al. 2009) or logistic training on the touched rows; the delta of rows and biases is clipped.

    The user vector is a function of the user's own profile and the shared table (the profile, popular items weighing
    less, projected on it, of a fixed norm), so a device keeps nothing between rounds and a new one takes part at once.
    A device scores by it even where it trained at a public vector: a row of the table is then about the sum of the
    public vectors of the item's users, and a profile on it finds users of the same taste.

    Guarantees: a user's whole delta, all arrays together, has norm at most the clip norm; the spectral start is paid
    from the same budget.
    """

    Config = MfConfig
    config: MfConfig
    backends = ("numba", "numpy", "opacus")

    @property
    def per_interaction(self) -> bool:
        return self.config.user_vector == "public"

    def releases(self, catalogue: Catalogue, budget: Budget) -> tuple[Release, ...]:
        n, d, rounds = len(catalogue), self.config.dimension, self.federation.rounds
        delta = (Component("items", (n, d)), Component("bias", (n,)))
        if self.config.start == "random":
            return tuple(Release("mf", delta, share=1 / rounds, optimise=True) for _ in range(rounds))
        share = self.config.start_share
        start = gram_releases(self.config.top_items, None, catalogue, budget)
        return (
            *(replace(release, share=release.share * share) for release in start),
            *(Release("mf", delta, share=(1 - share) / rounds, optimise=True) for _ in range(rounds)),
        )

    def init(self, catalogue: Catalogue, key: Key) -> Shared:
        if self.config.start == "spectral":
            return {}
        table = key.generator(Lane.INIT).standard_normal((len(catalogue), self.config.dimension))
        table *= 0.05
        return {
            "table": table.astype(np.float32),
            "bias": np.zeros(len(catalogue), np.float32),
            "item_weight": np.ones(len(catalogue), np.float32),
        }

    def forms(self, catalogue: Catalogue, done: Sequence[Release]) -> Mapping[str, Form] | None:
        statistics = [release for release in done if not release.optimise]
        if self.config.start == "spectral" and not statistics:
            return {}
        if statistics and (chosen := chosen_forms(self.config.top_items, catalogue, statistics)) is not None:
            return chosen
        n = len(catalogue)
        return {
            "table": ("float32", (n, self.config.dimension)),
            "bias": ("float32", (n,)),
            "item_weight": ("float32", (n,)),
        }

    def contribute(self, shared: Shared, users: Interactions, release: Release, key: Key) -> Contribution:
        if not release.optimise:
            return gram_contribution(shared, users, release)
        if self.per_interaction:
            vectors = public_vectors(users, self.config.dimension)
        else:
            vectors = self._vectors(shared, users, recency_weights(users, self.config.recency))
        if release.dpsgd is None:
            learned = self.learn(shared, vectors, users, key)
            return Contribution({"items": learned.items, "bias": learned.bias}, users.n_users)
        parts = clipped.train(
            {"table": shared["table"], "bias": shared["bias"]},
            vectors,
            users,
            release.dpsgd,
            self.training.negatives,
            self.config.loss,
            key,
            str(self.backend),
        )
        return Contribution({"items": parts["table"], "bias": parts["bias"]}, users.n_users)

    def learn(self, shared: Shared, vectors: F32, users: Interactions, key: Key) -> Learned:
        """What C users learn of the shared model and of their own vectors ``[C, d]``, which are where they start."""
        if self.backend == "numba":
            from fedrec.training import compiled

            return compiled.train(
                shared["table"],
                shared["bias"],
                vectors,
                users,
                self.training,
                self.config.loss,
                key,
                self.workers,
            )
        return train(shared["table"], shared["bias"], vectors, users, self.training, self.config.loss, key)

    def apply(self, shared: Shared, total: Total, release: Release, catalogue: Catalogue) -> Shared:
        if release.optimise:
            return {
                **shared,
                "table": stepped(shared["table"], total.arrays["items"]),
                "bias": stepped(shared["bias"], total.arrays["bias"]),
            }
        if "gram" not in total.arrays:
            return choose_items(total, catalogue, self.config.top_items)
        return self._spectral_start(shared, total, catalogue)

    def personalise(self, shared: Shared, users: Interactions) -> Personal:
        weights, weight = recency_weights(users, self.config.recency), self.config.content_weight

        def scored() -> F32:
            return content_scores(weight, users, weights)

        few = users.n_users * users.n_items <= _REMEMBERED
        content = users.remembered(("content", self.config.recency, weight), scored) if few else scored()
        return {"vector": self._vectors(shared, users, weights), "content": content}

    def score(self, shared: Shared, personal: Personal) -> npt.NDArray[np.float32]:
        if "table" not in shared:  # after a round of popularity alone
            popularity: npt.NDArray[Any] = self.config.popularity_weight * standardise(shared["popularity"])
            return np.asarray(personal["content"] + popularity, np.float32)
        scores: npt.NDArray[np.float32] = personal["vector"] @ shared["table"].T
        scores += shared["bias"]
        scores += personal["content"]
        return scores

    def _vectors(self, shared: Shared, users: Interactions, weights: F64) -> F32:
        """Each user's profile on the shared table."""
        if "table" not in shared:
            return np.zeros((users.n_users, self.config.dimension), np.float32)
        if self.backend == "numba":
            from fedrec.training import compiled

            return normed(compiled.project(users, weights, shared["item_weight"], shared["table"], self.workers))
        return profile_vectors(users, weights * shared["item_weight"][users.items], shared["table"])

    def _spectral_start(self, shared: Shared, total: Total, catalogue: Catalogue) -> Shared:
        popularity, gram, items = denoised(shared, total, catalogue, self.config.residual_share)
        factor, weights = spectral_factor(gram, popularity[items], self.config.dimension, self.config.damping)
        table = np.zeros((len(catalogue), self.config.dimension), np.float32)
        table[items, : factor.shape[1]] = factor / factor.std() * self.config.dimension**-0.25
        item_weight = np.zeros(len(catalogue), np.float32)
        item_weight[items] = weights
        bias = self.config.popularity_weight * standardise(np.log(popularity))
        return {"table": table, "bias": bias, "item_weight": item_weight}


def stepped(array: F32, step: F64) -> F32:
    """The array a step on: added in double precision, without a table of it."""
    return np.add(array, step, out=np.empty_like(array), casting="same_kind")


def profile_vectors(users: Interactions, weights: F64, table: F32) -> F32:
    """Weighted profiles on a table, `normed`, ``[C, d]``."""
    return normed(project(users, weights, table))


def normed(raw: F32) -> F32:
    """Vectors of norm d^¼, ``[C, d]``: against rows of spread d^-¼, scores have spread 1."""
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    return np.asarray(raw / np.maximum(norms, 1e-9) * raw.shape[1] ** 0.25, np.float32)
