"""What a device makes of its own history: a recency-weighted profile, and scores from public item features."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Catalogue, Interactions

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_YEARS_APART = 3.0
"""Items this many years apart count for 1/e of items of the same year."""


def recency_weights(users: Interactions, decay: float) -> F64:
    """Weights ``[n_events]``, each user's of unit L2 norm: 1 / (1 + decay · steps before the last).

    Events at the same time share their mean step, so the order within a tie says nothing; without times all weigh
    alike. They are the same in every round, and remembered with the interactions.
    """
    return users.remembered(("recency", decay), lambda: _recency_weights(users, decay))


def _recency_weights(users: Interactions, decay: float) -> F64:
    if users.times is None or decay == 0:
        steps = np.zeros(users.n_events)
    else:
        back = users.indptr[1:][users.user_of_event] - 1 - np.arange(users.n_events)
        new = np.r_[True, (np.diff(users.user_of_event) != 0) | (np.diff(users.times) != 0)][: users.n_events]
        group = np.cumsum(new) - 1
        steps = (np.bincount(group, back) / np.bincount(group))[group] if users.n_events else np.zeros(0)
    weights = 1.0 / (1.0 + decay * steps)
    norms = np.sqrt(np.bincount(users.user_of_event, weights**2, minlength=users.n_users))
    return weights / norms[users.user_of_event]


def project(users: Interactions, weights: F64, table: F32) -> F32:
    """Multiply profile and table: each user's weighted sum of its items' rows, ``[C, d]``."""
    if users.n_users == 1:  # a phone: scipy need not be loaded
        return np.asarray(weights.astype(np.float32) @ table[users.items], np.float32)[None]
    from scipy.sparse import csr_array

    profile = csr_array((weights.astype(np.float32), users.items, users.indptr), shape=(users.n_users, len(table)))
    return np.asarray(profile @ table, np.float32)


def standardise(scores: npt.NDArray[np.floating]) -> F32:
    """Zero mean and unit deviation along the last axis, so that score terms of different origin may be added."""
    centred = scores - scores.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.maximum(scores.std(axis=-1, keepdims=True), 1e-9), np.float32)


@dataclass(frozen=True)
class ContentKernel:
    """The public similarity cos(genres) · exp(-|year difference| / 3) between items, never as a matrix.

    Attributes:
        genres: unit rows ``[n_items, G]``.
        year_of: the year's number of each item ``[n_items]``.
        near: closeness of years ``[Y, Y]``.
    """

    genres: F32
    year_of: npt.NDArray[np.int64]
    near: F32

    @classmethod
    def of(cls, catalogue: Catalogue) -> ContentKernel | None:
        """The kernel of a catalogue; None where it has no genres."""
        if catalogue.genres is None or not catalogue.genres.shape[1]:
            return None
        years, year_of = np.unique(filled_years(catalogue), return_inverse=True)
        near = np.exp(-np.abs(years[:, None] - years[None]) / _YEARS_APART)
        return cls(unit_rows(catalogue.genres), year_of, near.astype(np.float32))

    def scores(self, users: Interactions, weights: F64) -> F32:
        """Multiply profile and kernel, ``[C, n_items]``.

        The kernel is separable in year and genre: a user's weight a year and genre, spread over years, is all it takes.
        """
        n_years, n_genres = len(self.near), self.genres.shape[1]
        mass = self._mass(users, weights).astype(np.float32)
        spread = (self.near @ mass.reshape(n_years, -1)).reshape(n_years, users.n_users, n_genres)
        by_year = np.argsort(self.year_of, kind="stable")
        out = np.empty((users.n_users, len(by_year)), np.float32)
        edges = np.searchsorted(self.year_of[by_year], np.arange(n_years + 1))
        for year, (first, last) in enumerate(itertools.pairwise(edges)):
            np.matmul(spread[year], self.genres[by_year[first:last]].T, out=out[:, first:last])
        place = np.empty_like(by_year)
        place[by_year] = np.arange(len(by_year))
        return np.take(out, place, axis=1)  # row by row, as scores are read; indexing would give column by column

    def _mass(self, users: Interactions, weights: F64) -> F64:
        """The weight of each year and genre in a profile, ``[Y * C, G]``."""
        cell = self.year_of[users.items] * users.n_users + users.user_of_event
        rows, shape = self.genres[users.items], (len(self.near) * users.n_users, self.genres.shape[1])
        if users.n_users == 1:  # a phone: scipy need not be loaded
            rows = rows * weights[:, None].astype(np.float32)
            return np.stack([np.bincount(cell, column, minlength=shape[0]) for column in rows.T], axis=-1)
        from scipy.sparse import csc_array

        # One entry a column: the product adds the events' rows to their cells.
        columns = np.arange(len(cell) + 1)
        return np.asarray(csc_array((weights, cell, columns), shape=(shape[0], len(cell))) @ rows, np.float64)


def unit_rows(matrix: npt.NDArray[np.floating]) -> F32:
    """Rows of unit L2 norm; a zero row stays zero."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.maximum(norms, 1e-9), np.float32)


def filled_years(catalogue: Catalogue) -> F64:
    """The items' years, the median where unknown, one year for all where none is known."""
    if catalogue.years is None or np.isnan(catalogue.years).all():
        return np.zeros(len(catalogue))
    return np.where(np.isnan(catalogue.years), np.nanmedian(catalogue.years), catalogue.years)
