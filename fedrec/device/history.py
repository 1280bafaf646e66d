"""What the user of a device did: recorded as it happens, forgotten on demand, and read as `Interactions` of one user.

An app on the device needs no more than this::

    from fedrec.device import history
    from fedrec.device.home import DeviceHome

    with DeviceHome.open(folder).open_store() as store:
        history.record(store, "tt0111161")
        history.feedback(store, "tt0068646", "liked")
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Catalogue, Interactions
from fedrec.device.catalogue import check_id
from fedrec.device.store import Store
from fedrec.errors import DataError, UsageError

Kind = Literal["seen", "liked", "skipped", "hidden"]
Feedback = Literal["liked", "skipped", "hidden"]

KINDS: tuple[str, ...] = get_args(Kind)

MIN_RATING = "min-rating"
"""The document that holds the rating from which on something seen is a positive, as decimal text."""

MAX_TIME = 10**11
"""Seconds since 1970, either way (the year 5138): more than that are milliseconds."""


@dataclass(frozen=True)
class Event:
    """One thing that the user did.

    Attributes:
        item: its id in the catalogue; an unknown one is kept, as the catalogue may learn it later.
        kind: one of `KINDS`.
        at: seconds since 1970, or None where that is not known.
        rating: the user's, or None.

    Raises:
        DataError: for values that no event can have.
    """

    item: str
    kind: str = "seen"
    at: int | None = None
    rating: float | None = None

    def __post_init__(self) -> None:
        check_id(self.item)
        if self.kind not in KINDS:
            raise DataError(
                f"A user does one of {', '.join(KINDS)} with an item, not '{self.kind}'.{_hint(self.kind, KINDS)}"
            )
        if self.at is not None and not (isinstance(self.at, int) and abs(self.at) < MAX_TIME):
            raise DataError(f"{self.at} is not a time in whole seconds since 1970; give it in those.")
        if self.rating is not None and not math.isfinite(self.rating):
            raise DataError(f"{self.rating} is not a rating: give a finite number.")


@dataclass(frozen=True)
class Counts:
    """What a store holds of a user's history.

    Attributes:
        events: all of them.
        items: the distinct ones.
        kinds: events by kind.
    """

    events: int
    items: int
    kinds: dict[str, int]


def record(
    store: Store,
    item: str,
    kind: Kind = "seen",
    at: int | None = None,
    rating: float | None = None,
    source: str = "app",
) -> bool:
    """Write down what the user did; told twice, it is one event. When this returns, it is on the disk.

    Args:
        store: the device's.
        item: the item's id in the catalogue.
        kind: ``seen``, or a feedback.
        at: seconds since 1970; None is now.
        rating: the user's, if there is one.
        source: who says so, for the owner to read.

    Returns:
        Whether it is new.

    Raises:
        DataError: for an item, time or rating that cannot be one.
    """
    event = Event(item, kind, int(time.time()) if at is None else at, rating)
    with store.transaction() as connection:
        return insert(connection, [event], source) == 1


def feedback(store: Store, item: str, kind: Feedback, at: int | None = None) -> bool:
    """Write down what the user thinks of an item; the latest word counts.

    Raises:
        UsageError: for any other word.
    """
    if kind not in get_args(Feedback):
        raise UsageError(f"Feedback is liked, skipped or hidden, not '{kind}'.{_hint(kind, get_args(Feedback))}")
    return record(store, item, kind, at, source="feedback")


def _hint(wrong: str, known: Iterable[str]) -> str:
    """A word that begins alike, if there is one: what only looks alike may mean the opposite (``disliked``)."""
    close = [word for word in known if len(wrong) > 2 and word.startswith(wrong[:3].lower())]
    return f" Did you mean '{close[0]}'?" if close else ""


def forget(store: Store, item: str) -> int:
    """Erase every event with an item, from the disk as well. What models have learned of it stays in them.

    Returns:
        How many events there were.
    """
    with store.transaction() as connection:
        erased = connection.execute("DELETE FROM interactions WHERE item = ?", (item,)).rowcount
    store.flush()
    return erased


def insert(connection: sqlite3.Connection, events: Iterable[Event], source: str) -> int:
    """Write events inside a transaction; one that is there already only learns a rating that is told anew.

    Returns:
        How many are new.
    """
    (before,) = connection.execute("SELECT count(*) FROM interactions").fetchone()
    connection.executemany(
        "INSERT INTO interactions (item, at, kind, rating, source) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET rating = excluded.rating WHERE excluded.rating IS NOT NULL",
        ((event.item, event.at, event.kind, event.rating, source) for event in events),
    )
    (after,) = connection.execute("SELECT count(*) FROM interactions").fetchone()
    return int(after - before)


def set_min_rating(store: Store, rating: float) -> None:
    """From which rating on something seen is a positive; without a rating it always is.

    Raises:
        DataError: for a threshold that is no finite number.
    """
    if not math.isfinite(rating):
        raise DataError(f"{rating} is not a rating: give a finite number.")
    store.put(MIN_RATING, repr(float(rating)).encode())


def min_rating(store: Store) -> float | None:
    """The threshold, or None: then everything seen is a positive."""
    text = store.get(MIN_RATING)
    return None if text is None else float(text)


def unknown(store: Store, catalogue: Catalogue) -> int:
    """How many items the catalogue does not hold; their events are kept, and count once it does."""
    known = set(catalogue.ids.tolist())
    return sum(item not in known for (item,) in store.query("SELECT DISTINCT item FROM interactions"))


def counts(store: Store) -> Counts:
    """How much there is."""
    kinds = dict(store.query("SELECT kind, count(*) FROM interactions GROUP BY kind"))
    ((items,),) = store.query("SELECT count(DISTINCT item) FROM interactions")
    return Counts(sum(kinds.values()), items, {kind: kinds.get(kind, 0) for kind in KINDS})


def interactions(store: Store, catalogue: Catalogue, number: int = 0, most: int | None = None) -> Interactions:
    """The user's positives, oldest first: what a device trains on.

    An item is a positive if it was liked, or seen with no rating or one that reaches the threshold; its time is that of
    the first such event. It is none while the user's latest feedback is to hide it, or to skip it without having seen
    it later. Items that the catalogue does not hold are left out; events without a time count as the oldest, in the
    order in which they were written.

    Args:
        store: the device's.
        catalogue: the public items.
        number: the user's number in the population.
        most: only so many, the latest; None takes all.
    """
    items, at, code = _events(store, catalogue)
    kept = _positives(items, code, len(catalogue))
    kept = kept if most is None else kept[-most:]
    times = at[kept]
    return Interactions(
        name="device",
        indptr=np.array([0, len(kept)], np.int64),
        items=items[kept].astype(np.int32),
        catalogue=catalogue,
        times=None if (times == _NO_TIME).any() else times,
        users=np.array([number], np.int64),
    )


def nobody(catalogue: Catalogue, number: int) -> Interactions:
    """A user without any interaction."""
    none = np.zeros(0, np.int32)
    return Interactions("device", np.zeros(2, np.int64), none, catalogue, users=np.array([number], np.int64))


def excluded(store: Store) -> set[str]:
    """The ids of the items never to be recommended: what the user has seen, likes, or hides."""
    met = store.query("SELECT DISTINCT item FROM interactions WHERE kind IN ('seen', 'liked')")
    hidden = store.query(
        f"""SELECT item FROM interactions AS event WHERE kind = 'hidden' AND NOT EXISTS (
            SELECT 1 FROM interactions AS later WHERE later.item = event.item AND later.kind IN ('liked', 'skipped')
            AND (ifnull(later.at, {_NO_TIME}), later.id) > (ifnull(event.at, {_NO_TIME}), event.id))"""  # noqa: S608
    )
    return {item for (item,) in met + hidden}


_OTHER, _SEEN, _LIKED, _SKIPPED, _HIDDEN = range(5)
_NO_TIME = -(2**60)

_READ = f"""
    SELECT group_concat(item, char(10)), group_concat(ifnull(at, {_NO_TIME}) * 8 + CASE kind
        WHEN 'seen' THEN rating IS NULL OR rating >= ?
        WHEN 'liked' THEN {_LIKED} WHEN 'skipped' THEN {_SKIPPED} WHEN 'hidden' THEN {_HIDDEN} END, ' ')
    FROM interactions NOT INDEXED"""  # noqa: S608 - numbers of this module
"""All events as two texts, time and kind in one number: twice as fast as a row each. The table itself is scanned, so
they come in the order of their ids."""


def _events(
    store: Store, catalogue: Catalogue
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each event's item number, time and code ``[n]``, in the order of time, then of writing; known items alone."""
    least = min_rating(store)
    ((ids, coded),) = store.query(_READ, (-np.inf if least is None else least,))
    if ids is None:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    numbers = {item: number for number, item in enumerate(catalogue.ids.tolist())}
    items = np.fromiter(map(numbers.get, ids.split("\n"), repeat(-1)), np.int64)
    values = np.fromstring(coded, np.int64, sep=" ")
    at, code = values >> 3, values & 7
    order = np.argsort(at, kind="stable")
    order = order[items[order] >= 0]
    return items[order], at[order], code[order]


def _positives(items: npt.NDArray[np.int64], code: npt.NDArray[np.int64], n_items: int) -> npt.NDArray[np.int64]:
    """The positions of the events that make positives, one an item, ascending."""

    def latest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Where each item has its last event of the mask, ``[n_items]``, or -1."""
        found = np.full(n_items, -1, np.int64)
        found[items[mask]] = np.flatnonzero(mask)  # of several values for an item, NumPy keeps the last
        return found

    seen, liked, skipped, hidden = (latest(code == wanted) for wanted in (_SEEN, _LIKED, _SKIPPED, _HIDDEN))
    refused = (hidden > np.maximum(liked, skipped)) | (skipped > np.maximum.reduce([seen, liked, hidden]))
    first = np.full(n_items, -1, np.int64)
    counting = np.flatnonzero((code == _SEEN) | (code == _LIKED))[::-1]
    first[items[counting]] = counting
    kept = first[(first >= 0) & ~refused]
    return np.sort(kept)
