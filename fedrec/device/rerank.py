"""Re-ranking: a list that is less of the same, and less of what everybody knows, by two dials from 0 to 1.

Diversity is maximal marginal relevance (Carbonell & Goldstein 1998, "The use of MMR, diversity-based reranking for
reordering documents and producing summaries"): the next item is the one of the largest

    (1 - diversity) · value - diversity · its greatest similarity to an item that is listed already.

Novelty is self-information, -log2 of the probability that an interaction is with the item: what everybody meets tells
little (Zhou et al. 2010). An item's value is (1 - novelty) · relevance + novelty · self-information, both brought to
[0, 1] over the candidates. With both dials at 0 the list is the pure order of scores.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Catalogue, Ints
from fedrec.errors import UsageError
from fedrec.models.base import Shared
from fedrec.models.history import F32, F64, unit_rows

POOL = 10
"""Candidates for each place of a list: the items of the highest scores. A dial at 1 still recommends none but these."""


def rerank(scores: npt.NDArray[np.floating], k: int, diversity: float, novelty: float, rows: F32, bits: F64) -> Ints:
    """The places of up to k candidates, the first to be listed first.

    Args:
        scores: of the candidates, from the highest on, ``[m]``.
        k: length of the list.
        diversity: from 0 to 1.
        novelty: from 0 to 1.
        rows: the candidates' vectors, compared by their cosine; unit rows ``[m, d]``, zero where an item is unlike all.
        bits: the candidates' self-information ``[m]``.

    Raises:
        UsageError: for a dial outside of [0, 1].
    """
    for name, dial in (("diversity", diversity), ("novelty", novelty)):
        if not 0 <= dial <= 1:
            raise UsageError(f"The dial '{name}' goes from 0 to 1, and {dial:g} is outside.")
    value = _unit_range(scores) if novelty == 0 else (1 - novelty) * _unit_range(scores) + novelty * _unit_range(bits)
    if diversity == 0:
        return np.argsort(-value, kind="stable")[:k]
    listed: list[int] = []
    nearest = np.zeros(len(value))
    free = np.ones(len(value), np.bool_)
    for _ in range(min(k, len(value))):
        marginal = (1 - diversity) * value - diversity * nearest
        best = int(np.argmax(np.where(free, marginal, -np.inf)))
        listed.append(best)
        free[best] = False
        np.maximum(nearest, rows @ rows[best], out=nearest)
    return np.array(listed, np.int64)


def vectors(shared: Shared, catalogue: Catalogue, items: Ints) -> F32:
    """What items are compared by: the model's item factors, or else public features; unit rows ``[m, d]``."""
    if "table" in shared:
        return unit_rows(shared["table"][items])
    if "factor" in shared:
        place = np.full(len(catalogue), -1)
        place[shared["items"]] = np.arange(len(shared["items"]))
        inside = place[items]
        return unit_rows(np.where(inside[:, None] >= 0, shared["factor"][inside], 0.0))
    known = [matrix[items] for matrix in (catalogue.genres, catalogue.features) if matrix is not None]
    return unit_rows(np.hstack([np.zeros((len(items), 1)), *known]))


def popularity(shared: Shared, n_items: int) -> F64 | None:
    """How often each item is met, up to a factor, ``[n_items]`` positive: what was released, after its noise.

    A model with no such statistic has an item weight of popularity^-½ (a spectral start) or an item bias, whose
    exponential stands for it. None where the model says nothing.
    """
    if "popularity" in shared and "items" in shared:
        found = np.exp(shared["popularity"].astype(np.float64))  # a Gram model keeps the logarithm
    elif "popularity" in shared:
        found = shared["popularity"].astype(np.float64)
    elif "item_weight" in shared and np.ptp(shared["item_weight"]) > 0:
        weight = shared["item_weight"].astype(np.float64)
        found = np.divide(1.0, weight**2, out=np.zeros(n_items), where=weight > 0)
    elif "bias" in shared:
        found = np.exp(shared["bias"].astype(np.float64) - float(shared["bias"].max()))
    else:
        return None
    least = found[found > 0].min(initial=np.inf)
    return None if not np.isfinite(least) or np.ptp(found) == 0 else np.maximum(found, least)


def self_information(shared: Shared, n_items: int) -> F64:
    """-log2 of each item's share of all interactions, in bits, ``[n_items]``; alike for all where nothing is known."""
    found = popularity(shared, n_items)
    return np.zeros(n_items) if found is None else -np.log2(found / found.sum())


def _unit_range(values: npt.NDArray[np.floating]) -> F64:
    """Brought to [0, 1]; all 1 where they are alike."""
    span = float(np.ptp(values)) if len(values) else 0.0
    return np.asarray((values - values.min()) / span if span > 0 else np.ones(len(values)), np.float64)
