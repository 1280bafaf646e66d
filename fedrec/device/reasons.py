"""Reasons: a user's scores, taken apart into parts that add up to them.

Every model's score is split as finely as its form allows. Where it is a sum over the history (a profile on item
factors, EASE), each item of the history has a part of its own. What is a function of the whole history at once (a
network) is one part, ``together``: leaving one item out would give a number for each, but numbers that do not add up.

A model that standardises a term, (x_i - mean x) / std x with x_i a sum over the history, keeps that sum: the part of
item h in the score of item i is (x_hi - mean over all items of x_h) / std x. It says how much more h speaks for i than
for the average item, and no constant is left over. The standard deviation is taken as it is, a scale of all parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedrec.data.interactions import Catalogue, Interactions, Ints
from fedrec.models.base import Recommender, Shared
from fedrec.models.gram import Gram
from fedrec.models.history import F32, F64, ContentKernel, recency_weights, standardise
from fedrec.models.mf import Mf
from fedrec.models.ncf import Ncf
from fedrec.models.popularity import Popularity

Kind = Literal["history", "rest", "together", "features", "popularity", "new"]

_WORDS: Mapping[Kind, str] = {
    "history": "because you saw {title}",
    "rest": "the rest of your history",
    "together": "your history as a whole, which this model does not take apart",
    "features": "its features are like those of your history",
    "popularity": "how popular it is with everyone",
    "new": "it is new: the model does not know it yet",
}


@dataclass(frozen=True)
class Reason:
    """One part of a score.

    Attributes:
        kind: an item of the ``history``, the ``rest`` of it, the history ``together``, ``features``, ``popularity``,
            or that the item is ``new``.
        amount: in units of the score; the amounts of all reasons add up to it.
        share: |amount| over the sum of all |amount|.
        item: of a ``history`` reason, the item's id.
        title: of it, for people.
    """

    kind: Kind
    amount: float
    share: float
    item: str | None = None
    title: str | None = None

    def __str__(self) -> str:
        sign = "" if self.amount >= 0 else ", against it"
        return f"{_WORDS[self.kind].format(title=self.title)} ({self.share:.0%}{sign})"


@dataclass(frozen=True, eq=False)
class Anatomy:
    """How one user's scores come about: score_i = Σ_h pull_ih + Σ_kind whole_i, to float32 precision.

    Attributes:
        scores: of every item, float32 ``[n_items]``.
        pull: the parts of the history in the scores of some items: ``[m]`` to float32 ``[m, n_events]``.
        whole: every other part, by kind, float32 ``[n_items]``.
    """

    scores: F32
    pull: Callable[[Ints], F32]
    whole: Mapping[Kind, F32]


def dissect(model: Recommender, shared: Shared, user: Interactions) -> Anatomy:
    """The anatomy of one user's scores.

    Args:
        model: any; one that is not known here is split into what it says without a history, and the rest.
        shared: its arrays.
        user: the history of one user, perhaps empty.
    """
    personal = model.personalise(shared, user)
    scores = np.ascontiguousarray(model.score(shared, personal)[0], np.float32)
    if isinstance(model, Popularity):
        return Anatomy(scores, nothing(user), {"popularity": scores})
    if isinstance(model, Gram):
        prior = model.config.popularity_weight * standardise(shared["popularity"])
        whole: dict[Kind, F32] = {"popularity": prior, "features": personal["content"][0]}
        return Anatomy(scores, _gram_pull(model, shared, user), whole)
    if isinstance(model, Mf) and "table" in shared:
        weights = recency_weights(user, model.config.recency) * shared["item_weight"][user.items]
        whole = {"popularity": shared["bias"], "features": personal["content"][0]}
        return Anatomy(scores, _profile_pull(shared["table"], user, weights), whole)
    if isinstance(model, Ncf):
        product = shared["table"] @ personal["vector"][0]
        whole = {"popularity": shared["bias"], "together": scores - shared["bias"] - product}
        pull = _profile_pull(shared["table"], user, recency_weights(user, model.config.recency))
        return Anatomy(scores, pull, whole)
    nobody = user.where(np.zeros(user.n_events, np.bool_))
    before = np.asarray(model.score(shared, model.personalise(shared, nobody))[0], np.float32)
    return Anatomy(scores, nothing(user), {"popularity": before, "together": scores - before})


def dissect_features(catalogue: Catalogue, user: Interactions) -> Anatomy | None:
    """Scores from public item features alone, standardised; None where there are none, or no history."""
    kernel = ContentKernel.of(catalogue)
    if kernel is None or not user.n_events:
        return None
    scores = standardise(kernel.scores(user, recency_weights(user, 1.0)))[0]
    return Anatomy(scores, nothing(user), {"features": scores})


def reasons(anatomy: Anatomy, user: Interactions, catalogue: Catalogue, items: Ints, most: int) -> list[list[Reason]]:
    """The reasons of some items, each list with the largest first: up to ``most`` items of the history in each.

    Args:
        anatomy: of the user's scores.
        user: the same history.
        catalogue: that the history's item numbers are of.
        items: those explained, ``[m]``.
        most: items of the history that are named; the others are one reason together.
    """
    pulls = anatomy.pull(items)
    sums = pulls.sum(axis=1)  # NumPy adds in pairs: as exact as the parts are
    found = []
    for row, item in enumerate(items):
        named = _largest(pulls[row], most)
        parts: list[tuple[Kind, float, int | None]] = [("history", float(pulls[row, h]), h) for h in named]
        parts.append(("rest", float(sums[row] - pulls[row, named].sum(dtype=np.float64)), None))
        parts += [(kind, float(values[item]), None) for kind, values in anatomy.whole.items()]
        found.append(_told(parts, user, catalogue, float(np.finfo(np.float32).eps) * len(pulls[row])))
    return found


def _told(
    parts: list[tuple[Kind, float, int | None]], user: Interactions, catalogue: Catalogue, noise: float
) -> list[Reason]:
    """Parts as reasons; what is only rounding says nothing."""
    size = sum(abs(amount) for _, amount, _ in parts)
    told = []
    for kind, amount, event in sorted(parts, key=lambda part: -part[1]):
        if abs(amount) <= noise * size:
            continue
        number = None if event is None else int(user.items[event])
        about = (None, None) if number is None else (str(catalogue.ids[number]), catalogue.title(number))
        told.append(Reason(kind, amount, abs(amount) / size, *about))
    return told


def _largest(row: F32, most: int) -> list[int]:
    """The places of up to ``most`` positive values, the largest first."""
    left, found = row.copy(), list[int]()
    while len(found) < min(most, len(row)) and left[place := int(left.argmax())] > 0:
        found.append(place)
        left[place] = 0
    return found


def nothing(user: Interactions) -> Callable[[Ints], F32]:
    """A history that has no part in any score."""
    return lambda items: np.zeros((len(items), user.n_events), np.float32)


def _profile_pull(table: F32, user: Interactions, weights: F64) -> Callable[[Ints], F32]:
    """Of `fedrec.models.mf.profile_vectors`: the profile Σ_h w_h T_h, scaled to norm d^¼, times T_i."""
    rows = table[user.items] * weights[:, None].astype(np.float32)
    rows *= table.shape[1] ** 0.25 / max(float(np.linalg.norm(rows.sum(axis=0))), 1e-9)
    return lambda items: np.asarray(table[items] @ rows.T, np.float32)


def _gram_pull(model: Gram, shared: Shared, user: Interactions) -> Callable[[Ints], F32]:
    """Of `Gram.score`: own_i = Σ_h w_h S_hi on the matrix's items, zero elsewhere, standardised over all items."""
    table = shared.get("factor", shared.get("weights"))
    if table is None:
        return nothing(user)
    n, inside = user.n_items, shared["items"]
    place = np.full(n, -1)
    place[inside] = np.arange(len(inside))
    column = place[user.items]
    weights = recency_weights(user, model.config.recency)
    if "item_weight" in shared:
        weights = weights * shared["item_weight"][column]
    weights = np.where(column >= 0, weights, 0.0).astype(np.float32)
    rows = weights[:, None] * table[column]  # an event outside has weight zero, whatever row it takes
    profile = rows.sum(axis=0)
    own = np.zeros(n, np.float32)
    own[inside] = profile if "weights" in shared else table @ profile
    rows /= max(float(own.std()), 1e-9)
    if "weights" in shared:
        mean = rows.sum(axis=1) / n
        return lambda items: np.where(place[items] >= 0, rows[:, place[items]], 0.0).T - mean
    centre = table.sum(axis=0) / n

    def pull(items: Ints) -> F32:
        own = np.where(place[items, None] >= 0, table[place[items]], 0.0)
        return np.asarray((own - centre) @ rows.T, np.float32)

    return pull
