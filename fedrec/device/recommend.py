"""Recommendations on the device, offline: from its own history and the last model, with reasons that add up.

Someone without a history is told what is popular, as far as the model knows. An item that is newer than the model is
placed by its features: where the model would put an item like it, by least squares over the items that it knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fedrec.data.interactions import Interactions, Ints
from fedrec.device import history, received
from fedrec.device.reasons import Anatomy, Kind, Reason, dissect, dissect_features, nothing, reasons
from fedrec.device.received import SYNC, Received
from fedrec.device.rerank import POOL, popularity, rerank, self_information, vectors
from fedrec.device.store import Store
from fedrec.device.topk import best
from fedrec.errors import DeviceError, UsageError
from fedrec.models.base import Recommender
from fedrec.models.history import F32, F64, standardise

NEWCOMER = "There is no history yet: these are what is popular."
NOTHING_KNOWN = "There is no history yet, and the model does not say what is popular: these are in no order."


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item: its id.
        title: for people.
        score: the model's; comparable within one answer alone.
        reasons: its parts, the largest first: their amounts add up to the score, to float32 precision.
    """

    item: str
    title: str
    score: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Recommendations:
    """A list of recommendations, the first to be shown first.

    Attributes:
        items: of them.
        experiment: the digest of the experiment whose model this is, "" for none.
        round: of the model.
        note: what else a reader should know, "" for nothing.
    """

    items: tuple[Recommendation, ...]
    experiment: str
    round: int
    note: str


class Adviser:
    """Recommends from a store, and keeps what it has computed until the store changes.

    Not for several threads at once.

    Args:
        store: the device's, open.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._received: tuple[object, Received] | None = None
        self._view: tuple[int, _View] | None = None

    def top(
        self, k: int = 20, *, diversity: float = 0.0, novelty: float = 0.0, most_reasons: int = 3
    ) -> Recommendations:
        """The best items that the user has not met and not hidden.

        Args:
            k: how many.
            diversity: from 0 (the pure order of scores) to 1, as in `fedrec.device.rerank`.
            novelty: likewise.
            most_reasons: items of the history that each reason names; the others are one part together.

        Raises:
            UsageError: for a length below 1 or a dial outside of [0, 1].
            DeviceError: if there is nothing to recommend from, or it is damaged.
        """
        if k < 1 or most_reasons < 0:
            raise UsageError(
                f"A list has at least one item and no negative number of reasons, not {k}, {most_reasons}."
            )
        view = self._current()
        dials = diversity != 0 or novelty != 0
        items = best(view.candidates, k * POOL if dials else k)
        if dials:
            scores = view.candidates[items]
            items = items[rerank(scores, k, diversity, novelty, view.vectors(items), view.bits[items])]
        found = view.received
        told = view.reasons(items, most_reasons)
        return Recommendations(
            tuple(
                Recommendation(
                    str(found.catalogue.ids[item]),
                    found.catalogue.title(item),
                    float(view.anatomy.scores[item]),
                    why,
                )
                for item, why in zip(items.tolist(), told, strict=True)
            ),
            found.experiment,
            found.round,
            view.note,
        )

    def _current(self) -> _View:
        """What lists are made from, anew after a change of the store."""
        version = self._store.version
        if self._view is None or self._view[0] != version:
            key = received.state(self._store)
            if self._received is None or self._received[0] != key:
                self._received = (key, received.load(self._store))
            self._view = (version, _look(self._store, self._received[1]))
        return self._view[1]


def recommend(
    store: Store, k: int = 20, *, diversity: float = 0.0, novelty: float = 0.0, most_reasons: int = 3
) -> Recommendations:
    """One list, as `Adviser.top` makes it; keep an `Adviser` for more."""
    return Adviser(store).top(k, diversity=diversity, novelty=novelty, most_reasons=most_reasons)


@dataclass(frozen=True, eq=False)
class _View:
    """One state of the store.

    Attributes:
        received: catalogue and model.
        user: the history, in the item numbers of the catalogue that the model knows.
        anatomy: of the scores of the newest catalogue.
        candidates: the scores, -inf for what is not to be recommended, float32 ``[n_items]``.
        note: for the reader.
    """

    received: Received
    user: Interactions
    anatomy: Anatomy
    candidates: F32
    note: str
    _told: dict[tuple[int, int], tuple[Reason, ...]] = field(default_factory=dict)

    def reasons(self, items: Ints, most: int) -> list[tuple[Reason, ...]]:
        """The reasons of each item, kept: the lists of one state have most items in common."""
        new = np.array([item for item in items.tolist() if (item, most) not in self._told], np.int64)
        if len(new):
            told = reasons(self.anatomy, self.user, self.received.known, new, most)
            self._told.update({(item, most): tuple(why) for item, why in zip(new.tolist(), told, strict=True)})
        return [self._told[item, most] for item in items.tolist()]

    @cached_property
    def bits(self) -> F64:
        """Self-information ``[n_items]``; what is new is as rare as the rarest."""
        known = self_information(self.received.shared, len(self.received.known))
        return np.where(self.received.known_as >= 0, known[self.received.known_as], known.max())

    def vectors(self, items: Ints) -> F32:
        """Unit rows to compare items by ``[m, d]``; what is new is unlike all."""
        places = self.received.known_as[items]
        rows = vectors(self.received.shared, self.received.known, places)
        return np.where(places[:, None] >= 0, rows, np.float32(0))


def _look(store: Store, found: Received) -> _View:
    """Score every item for the history as it is now."""
    user = history.interactions(store, found.known)
    note = found.note
    if found.model is None:
        features = dissect_features(found.catalogue, user)
        if features is None:
            raise DeviceError(f"There is nothing to recommend from: {_missing(user)}; {SYNC} to get the last model.")
        anatomy = features
    else:
        anatomy = _anatomy(found.model, found, user)
        if not user.n_events and np.ptp(anatomy.scores) == 0:
            anatomy, note = _newcomer(found, user)
        if found.known is not found.catalogue:
            anatomy = _widened(anatomy, found, history.interactions(store, found.catalogue))
    number = {item: place for place, item in enumerate(found.catalogue.ids.tolist())}
    met = [number[item] for item in history.excluded(store) if item in number]
    candidates = anatomy.scores.copy()
    candidates[met] = -np.inf
    return _View(found, user, anatomy, candidates, note)


def _missing(user: Interactions) -> str:
    return "no model has arrived, and " + ("the catalogue has no features" if user.n_events else "there is no history")


def _anatomy(model: Recommender, found: Received, user: Interactions) -> Anatomy:
    """The model's scores of the items that it knows."""
    try:
        anatomy = dissect(model, found.shared, user)
        fits = anatomy.scores.shape == (len(found.known),) and bool(np.isfinite(anatomy.scores).all())
    except (KeyError, ValueError, IndexError) as error:
        raise DeviceError(f"The stored model does not fit its experiment ({error}); {SYNC} to get it again.") from error
    if not fits:
        raise DeviceError(f"The stored model does not give each item of its catalogue a finite score; {SYNC}.")
    return anatomy


def _newcomer(found: Received, user: Interactions) -> tuple[Anatomy, str]:
    """What is popular, for someone of whom the model has nothing to say."""
    known = popularity(found.shared, len(found.known))
    scores = np.zeros(len(found.known), np.float32) if known is None else standardise(np.log(known))
    return Anatomy(scores, nothing(user), {"popularity": scores}), NOTHING_KNOWN if known is None else NEWCOMER


def _widened(anatomy: Anatomy, found: Received, user: Interactions) -> Anatomy:
    """Scores of the newest catalogue from those of the one that the model knows.

    Args:
        anatomy: on the known catalogue.
        found: both catalogues.
        user: the history on the newest catalogue.
    """
    is_new, place = found.known_as < 0, np.maximum(found.known_as, 0)
    base, slope = float(anatomy.scores.min()), 0.0
    like = dissect_features(found.catalogue, user)
    features = np.zeros(len(is_new), np.float32) if like is None else like.scores
    if like is not None and not is_new.all():
        mine, theirs = anatomy.scores[place[~is_new]].astype(np.float64), features[~is_new].astype(np.float64)
        spread = float(theirs.var())
        slope = (
            max(float(((mine - mine.mean()) * (theirs - theirs.mean())).mean()) / spread, 0.0) if spread > 0 else 0.0
        )
        base = float(mine.mean()) - slope * float(theirs.mean())
    whole: dict[Kind, F32] = {
        kind: np.where(is_new, np.float32(0), values[place]) for kind, values in anatomy.whole.items()
    }
    guessed = (slope * features).astype(np.float32)
    whole["features"] = np.where(is_new, guessed, whole.get("features", np.float32(0)))
    whole["new"] = np.where(is_new, np.float32(base), np.float32(0))
    scores = np.where(is_new, whole["features"] + whole["new"], anatomy.scores[place])
    return Anatomy(scores, lambda items: anatomy.pull(place[items]) * ~is_new[items, None], whole)
