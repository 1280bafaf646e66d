"""Interactions: who met what, when; and the public item catalogue beside it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fedrec.errors import DataError

Ints = npt.NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)
Made = TypeVar("Made")


def _freeze(array: npt.NDArray[np.generic] | None) -> None:
    if array is not None:
        array.flags.writeable = False


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items, which are public. Every array is read-only.

    Attributes:
        ids: the items' own names, ``[n_items]`` strings.
        titles: ``[n_items]`` strings, "" where unknown, or None.
        years: ``[n_items]`` float, NaN where unknown, or None.
        genre_names: the genres or tags, in the columns' order of ``genres``.
        genres: ``[n_items, n_genres]`` float32, 1 where the item has the genre (or the tag's weight), or None.
        features: any numeric matrix ``[n_items, n_features]`` float32, or None.
    """

    ids: npt.NDArray[np.str_]
    titles: npt.NDArray[np.str_] | None = None
    years: npt.NDArray[np.float64] | None = None
    genre_names: tuple[str, ...] = ()
    genres: npt.NDArray[np.float32] | None = None
    features: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name in ("ids", "titles", "years", "genres", "features"):
            array = getattr(self, name)
            _freeze(array)
            if array is not None and len(array) != len(self.ids):
                raise DataError(f"The catalogue's '{name}' has {len(array)} rows for {len(self.ids)} items.")
        if self.genres is not None and self.genres.shape[1] != len(self.genre_names):
            raise DataError(
                f"The catalogue has {len(self.genre_names)} genre names for {self.genres.shape[1]} columns."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def title(self, item: int) -> str:
        """The item's title (with its year where known), else its id."""
        text = str(self.titles[item]) if self.titles is not None else ""
        if not text:
            return str(self.ids[item])
        year = self.years[item] if self.years is not None else np.nan
        return text if np.isnan(year) or f"({year:.0f})" in text else f"{text} ({year:.0f})"

    def take(self, items: Ints) -> Catalogue:
        """The catalogue of these items, in this order."""

        def rows(array: npt.NDArray[Scalar] | None) -> npt.NDArray[Scalar] | None:
            return None if array is None else array[items]

        return replace(
            self,
            ids=self.ids[items],
            titles=rows(self.titles),
            years=rows(self.years),
            genres=rows(self.genres),
            features=rows(self.features),
        )


@dataclass(frozen=True, eq=False)
class Interactions:
    """Who met what, when: CSR over users, each user's items in the order of time. Immutable.

    A user meets an item at most once. ``users`` numbers a user in the whole population, so that a shard's
    users draw the same randomness as in the whole (`fedrec.randomness`).

    Attributes:
        name: the data set's name.
        indptr: int64 ``[n_users + 1]``; user u's events are ``indptr[u]:indptr[u + 1]``.
        items: int32 ``[n_events]``, in ``[0, n_items)``.
        catalogue: the public items.
        ratings: float32 ``[n_events]``, or None.
        times: ``[n_events]`` in whole seconds, of any integer type that holds them, or None; not decreasing within a
            user.
        users: int64 ``[n_users]``, the users' numbers in the population.
        user_ids: pseudonyms ``[n_users]``, or None.
        filters: what was derived from the interactions before anything was private (a k-core, a catalogue cut):
            public by assumption and listed as unprotected in every report.
        duplicates: repeated events of a user with an item that ingestion left out, keeping the earliest.
        memory: what `remembered` keeps; every new object begins with none.
    """

    name: str
    indptr: Ints
    items: npt.NDArray[np.int32]
    catalogue: Catalogue
    ratings: npt.NDArray[np.float32] | None = None
    times: npt.NDArray[np.integer[Any]] | None = None
    users: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    user_ids: npt.NDArray[np.str_] | None = None
    filters: tuple[str, ...] = ()
    duplicates: int = 0
    memory: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.users) == 0 and len(self.indptr) > 1:
            object.__setattr__(self, "users", np.arange(len(self.indptr) - 1, dtype=np.int64))
        n = len(self.items)
        if len(self.indptr) == 0 or self.indptr[0] != 0 or self.indptr[-1] != n or np.any(np.diff(self.indptr) < 0):
            raise DataError(f"'{self.name}': indptr does not describe {n} events.")
        if n and (self.items.min() < 0 or self.items.max() >= len(self.catalogue)):
            raise DataError(f"'{self.name}': an item number lies outside the catalogue of {len(self.catalogue)} items.")
        for array in (self.indptr, self.items, self.ratings, self.times, self.users, self.user_ids):
            _freeze(array)
        for name, wanted in (("ratings", n), ("times", n), ("users", self.n_users), ("user_ids", self.n_users)):
            array = getattr(self, name)
            if array is not None and len(array) != wanted:
                raise DataError(f"'{self.name}': '{name}' has {len(array)} values where {wanted} are needed.")

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_items(self) -> int:
        return len(self.catalogue)

    @property
    def n_events(self) -> int:
        return len(self.items)

    @cached_property
    def counts(self) -> Ints:
        """Events a user, int64 ``[n_users]``."""
        return np.diff(self.indptr)

    @cached_property
    def user_of_event(self) -> Ints:
        """The user's position (not number) of each event, int64 ``[n_events]``."""
        return np.repeat(np.arange(self.n_users, dtype=np.int64), self.counts)

    @cached_property
    def gaps(self) -> npt.NDArray[np.int32]:
        """How many items a user has not met below each of its own: ascending within a user, int32 ``[n_events]``."""
        width = self.n_items + 1
        ordered = np.sort(self.user_of_event * width + self.items)
        ordered -= self.user_of_event * width
        ordered -= np.arange(self.n_events) - np.repeat(self.indptr[:-1], self.counts)
        return ordered.astype(np.int32)

    def remembered(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` computes from these interactions alone, computed once: they never change."""
        if name not in self.memory:
            self.memory[name] = make()
        made: Made = self.memory[name]
        return made

    def user(self, position: int) -> npt.NDArray[np.int32]:
        """One user's items, oldest first."""
        return self.items[self.indptr[position] : self.indptr[position + 1]]

    def take(self, positions: Ints) -> Interactions:
        """The users at these positions, in this order, with their own numbers: a shard or a cohort.

        Neighbours share this object's arrays; everyone, in order, is this object.
        """
        chosen: Ints | slice = positions
        counts = self.counts[positions]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        if len(positions) and (np.diff(positions) == 1).all() and positions[0] >= 0:
            if len(positions) == self.n_users:
                return self
            chosen = slice(positions[0], positions[-1] + 1)
            events: Ints | slice = slice(self.indptr[chosen.start], self.indptr[chosen.stop])
        else:
            events = np.repeat(self.indptr[:-1][positions] - indptr[:-1], counts)
            events += np.arange(indptr[-1])
        ids = None if self.user_ids is None else self.user_ids[chosen]
        return replace(self, **self._events(events, indptr), users=self.users[chosen], user_ids=ids)

    def where(self, keep: npt.NDArray[np.bool_]) -> Interactions:
        """The events marked in bool ``[n_events]``; every user stays, if need be with no event."""
        counts, some = np.zeros(self.n_users, np.int64), np.flatnonzero(self.counts)
        if len(some):
            counts[some] = np.add.reduceat(keep, self.indptr[some], dtype=np.int64)
        return replace(self, **self._events(keep, np.concatenate([[0], np.cumsum(counts)])))

    def _events(self, events: Ints | npt.NDArray[np.bool_] | slice, indptr: Ints) -> dict[str, Any]:
        return {
            "indptr": indptr.astype(np.int64),
            "items": self.items[events],
            "ratings": None if self.ratings is None else self.ratings[events],
            "times": None if self.times is None else self.times[events],
        }
