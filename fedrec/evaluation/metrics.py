"""Metrics: what the ranks of held-out items and the lists of the whole catalogue say.

Every accuracy metric is a mean over users of a value computed from the ranks (0 is the top) of the user's held-out
items, all equally relevant, as in trec_eval and ranx:

- ``hr@k``: 1 if at least one held-out item is among the first k, else 0.
- ``recall@k``: held-out items among the first k, divided by all of the user's held-out items.
- ``mrr@k``: 1 / (1 + rank) of the best held-out item if it is among the first k, else 0.
- ``ndcg@k``: sum of 1 / log2(rank + 2) over held-out items among the first k, divided by the largest possible value,
  the sum over the first min(k, held-out items) places (Järvelin & Kekäläinen 2002).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Catalogue, Interactions, Ints

Floats = npt.NDArray[np.float64]

ACCURACY = ("hr", "ndcg", "recall", "mrr")


@dataclass(frozen=True, eq=False)
class HeldOutRanks:
    """The ranks of the held-out items among their user's candidates.

    Attributes:
        ranks: from 0, int64 ``[n_held]``.
        counts: held-out items a user, at least 1, int64 ``[n_users]``; the ranks stand user by user.
    """

    ranks: Ints
    counts: Ints

    @cached_property
    def starts(self) -> Ints:
        return np.cumsum(self.counts) - self.counts

    def per_user(self, metric: str, k: int) -> Floats:
        """One accuracy metric (``hr``, ``ndcg``, ``recall``, ``mrr``) of every user, ``[n_users]``."""
        hits = self.ranks < k
        if metric == "hr":
            return np.logical_or.reduceat(hits, self.starts).astype(np.float64)
        if metric == "recall":
            return np.add.reduceat(hits.astype(np.float64), self.starts) / self.counts
        if metric == "mrr":
            return np.maximum.reduceat(np.where(hits, 1.0 / (1.0 + self.ranks), 0.0), self.starts)
        gains = np.add.reduceat(np.where(hits, 1.0 / np.log2(self.ranks + 2.0), 0.0), self.starts)
        ideal = np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))
        return np.asarray(gains / ideal[np.minimum(self.counts, k) - 1])

    def means(self, ks: tuple[int, ...]) -> dict[str, float]:
        """Every accuracy metric at every k, such as ``hr@10``, averaged over users."""
        return {f"{metric}@{k}": float(self.per_user(metric, k).mean()) for k in ks for metric in ACCURACY}


def self_information(train: Interactions) -> Floats:
    """log2(users / users who met the item) in bits, ``[n_items]`` (Zhou et al. 2010).

    An item unseen in training counts as met by one user, the rarest that a seen item can be.
    """
    met = np.bincount(train.items, minlength=train.n_items)
    return np.log2(max(train.n_users, 1) / np.maximum(met, 1))


class ListMetrics:
    """Coverage, novelty and diversity of the users' top lists, gathered block by block.

    - ``coverage``: the part of the catalogue that stands in at least one user's list.
    - ``novelty``: self-information of the listed items, averaged over each list and then over users.
    - ``diversity``: 1 - the mean cosine of genres over a list's pairs (Ziegler et al. 2005), averaged over the users
      whose list has at least two items; only where the catalogue has genres. An item without genres is unlike all.
    """

    def __init__(self, information: Floats, catalogue: Catalogue) -> None:
        self._information = information
        self._genres = catalogue.genres
        self._listed = np.zeros(len(catalogue), np.bool_)
        self._novelty = self._diversity = 0.0
        self._users = self._pairs = 0
        if self._genres is not None:
            norms = np.sqrt(np.einsum("ig,ig->i", self._genres, self._genres, dtype=np.float64))
            self._scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)

    def add(self, lists: Ints) -> None:
        """Count these lists, ``[C, k]`` with -1 where a user has fewer candidates than k."""
        there = lists >= 0
        lengths = there.sum(axis=1)
        self._listed[lists[there]] = True
        bits = np.where(there, self._information[lists], 0.0).sum(axis=1)
        self._novelty += float((bits / np.maximum(lengths, 1)).sum())
        self._users += int((lengths > 0).sum())
        if self._genres is None:
            return
        # The squared norm of a list's sum of unit vectors is the sum of all its cosines, pairs twice.
        total = np.zeros((len(lists), self._genres.shape[1]))
        for column in range(lists.shape[1]):
            items = lists[:, column]
            total += self._genres[items] * np.where(items >= 0, self._scale[items], 0.0)[:, None]
        alone = np.where(there, self._scale[lists] > 0, False).sum(axis=1)
        several = lengths >= 2
        cosines = (np.einsum("cg,cg->c", total, total) - alone)[several]
        self._diversity += float((1.0 - cosines / (lengths * (lengths - 1))[several]).sum())
        self._pairs += int(several.sum())

    def means(self, k: int) -> dict[str, float]:
        """``coverage@k``, ``novelty@k`` and, where there are genres, ``diversity@k``."""
        values = {f"coverage@{k}": float(self._listed.mean())}
        if self._users:
            values[f"novelty@{k}"] = self._novelty / self._users
        if self._pairs:
            values[f"diversity@{k}"] = self._diversity / self._pairs
        return values
