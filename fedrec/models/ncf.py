"""Neural collaborative filtering: user and item vectors meet in a product and an MLP; item table and MLP are shared."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedrec.config import ModelConfig
from fedrec.contribution import Contribution
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.errors import MissingExtraError
from fedrec.models.base import Budget, Personal, Recommender, Shared, Total
from fedrec.models.history import F32, recency_weights
from fedrec.models.mf import profile_vectors
from fedrec.randomness import Key, Lane
from fedrec.registry import MODELS
from fedrec.release import Component, Release
from fedrec.training import clipped
from fedrec.training.samples import public_vectors

_USERS = 64
"""Users scored together: a hidden layer holds a number for each of them, unit and item."""


class NcfConfig(ModelConfig):
    """Settings of `Ncf`.

    Attributes:
        dimension: length of an item's and a user's vector.
        hidden: widths of the MLP's hidden layers.
        loss: ``bpr`` or ``bce``.
        user_vector: where a user's vector starts in local training: ``profile``, from the own history, or ``public``, a
            random one that anyone can compute from the user's number, as unit ``interaction`` needs it.
        recency: decay of the device's own profile per step back in time.
    """

    name: Literal["ncf"] = "ncf"
    dimension: int = Field(16, ge=1)
    hidden: tuple[int, ...] = Field((32, 16), min_length=1)
    loss: Literal["bpr", "bce"] = "bpr"
    user_vector: Literal["profile", "public"] = "profile"
    recency: float = Field(1.0, ge=0)


@MODELS.register("ncf")
class Ncf(Recommender):
    """The score of item v for user p is p · v + an MLP of (p, v) + an item bias (He et al. 2017, "NeuMF").

    The two paths share their vectors, and the MLP starts at zero: alone, it would hardly learn a product (Rendle et al.
    2020). The user vector is the own profile on the item table, so a device keeps nothing between rounds. Local
    training is Opacus's, a user at a time and clipped by samples; with ``training.backend = "torch"``, where the whole
    update is clipped (unit ``user``), it is plain steps of many users at once. Scoring is NumPy.

    Guarantees: a user's whole delta, all arrays together, has norm at most the clip norm.
    """

    Config = NcfConfig
    config: NcfConfig
    backends = ("opacus", "torch")

    @property
    def per_interaction(self) -> bool:
        return self.config.user_vector == "public"

    def releases(self, catalogue: Catalogue, budget: Budget) -> tuple[Release, ...]:
        rounds = self.federation.rounds
        rows = (Component("table", (len(catalogue), self.config.dimension)), Component("bias", (len(catalogue),)))
        layers = tuple(Component(name, shape) for name, shape in self._layer_shapes().items())
        return tuple(Release("ncf", (*rows, *layers), share=1 / rounds, optimise=True) for _ in range(rounds))

    def init(self, catalogue: Catalogue, key: Key) -> Shared:
        generator = key.generator(Lane.INIT)
        table = 0.1 * generator.standard_normal((len(catalogue), self.config.dimension))
        shared = {"table": table.astype(np.float32), "bias": np.zeros(len(catalogue), np.float32)}
        last = f"weight{len(self.config.hidden)}"
        for name, shape in self._layer_shapes().items():
            # He et al. 2015 for layers with rectified outputs; the last layer and the offsets start at zero.
            spread = (2 / shape[-1]) ** 0.5 if name.startswith("weight") and name != last else 0.0
            shared[name] = (spread * generator.standard_normal(shape)).astype(np.float32)
        return shared

    def contribute(self, shared: Shared, users: Interactions, release: Release, key: Key) -> Contribution:
        vectors = public_vectors(users, self.config.dimension) if self.per_interaction else self._vectors(shared, users)
        if release.dpsgd is None:
            try:
                from fedrec.training import network
            except ImportError as error:
                raise MissingExtraError("Local training with torch", "torch") from error
            parts = network.train_whole(shared, vectors, users, self.training, self.config.loss, key)
            return Contribution(parts, users.n_users)
        parts = clipped.train(
            shared,
            vectors,
            users,
            release.dpsgd,
            self.training.negatives,
            self.config.loss,
            key,
            str(self.backend),
        )
        return Contribution(parts, users.n_users)

    def apply(self, shared: Shared, total: Total, release: Release, catalogue: Catalogue) -> Shared:
        return {name: (array + total.arrays[name]).astype(np.float32) for name, array in shared.items()}

    def personalise(self, shared: Shared, users: Interactions) -> Personal:
        return {"vector": self._vectors(shared, users)}

    def score(self, shared: Shared, personal: Personal) -> npt.NDArray[np.float32]:
        by_user, by_item = np.split(shared["weight0"], 2, axis=1)  # the first layer, by what it looks at
        of_items = by_item @ shared["table"].T + shared["offset0"][:, None]  # [h, n_items]
        scores = np.empty((len(personal["vector"]), len(shared["bias"])), np.float32)
        for start in range(0, len(scores), _USERS):
            own = personal["vector"][start : start + _USERS]
            hidden = (own @ by_user.T)[:, :, None] + of_items  # [C, h, n_items]
            for depth in range(1, len(self.config.hidden) + 1):
                np.maximum(hidden, 0, out=hidden)
                hidden = np.matmul(shared[f"weight{depth}"], hidden) + shared[f"offset{depth}"][:, None]
            scores[start : start + _USERS] = own @ shared["table"].T + hidden[:, 0] + shared["bias"]
        return scores

    def _vectors(self, shared: Shared, users: Interactions) -> F32:
        return profile_vectors(users, recency_weights(users, self.config.recency), shared["table"])

    def _layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The MLP's arrays, from (p, v) to one number."""
        widths = (2 * self.config.dimension, *self.config.hidden, 1)
        shapes: dict[str, tuple[int, ...]] = {}
        for depth, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
            shapes |= {f"weight{depth}": (width_out, width_in), f"offset{depth}": (width_out,)}
        return shapes
