"""Canaries: clients whose vectors are known, orthogonal and of any length, without an array of all of them.

A canary is a row of an orthonormal discrete cosine transform with random signs, on all coordinates of a release or,
like the vectors of real clients, on a few item rows. The sum of all canaries, and the components of a vector along each
of them, then cost one transform: 1,000 canaries on 53,824 coordinates need no array of 54 million values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from fedrec.contribution import Contribution, Entries, Floats, Ints, Part
from fedrec.errors import UsageError
from fedrec.release import Component, Release


@dataclass(frozen=True, eq=False)
class Canaries:
    """K orthogonal unit vectors in a release's scaled coordinates.

    Attributes:
        release: whose vectors they are.
        support: coordinates of the release ``[G, m]``, each at most once; a canary lives on one of these groups.
        spans: by component, which of a group's m places lie in it; none for a component that no canary touches.
        signs: ``[G, m]``, 1 or -1.
        group: each canary's group, ``[K]``.
        row: each canary's row of the transform of length m, ``[K]``.
    """

    release: Release
    support: Ints
    spans: Mapping[str, slice]
    signs: Floats
    group: Ints
    row: Ints

    def __len__(self) -> int:
        return len(self.row)

    @property
    def _length(self) -> int:
        return int(self.support.shape[1])

    def project(self, vector: Floats) -> Floats:
        """The components ``[K]`` of a release's flat scaled vector along each canary."""
        from scipy.fft import dct

        transformed = dct(self.signs * vector[self.support], norm="ortho", axis=1)
        return np.asarray(transformed[self.group, self.row], np.float64)

    def combine(self, weights: Floats) -> Floats:
        """The flat vector that is the canaries' weighted sum; ``weights`` is ``[K]``."""
        from scipy.fft import idct

        coefficients = np.zeros(self.support.shape)
        coefficients[self.group, self.row] = weights
        total = np.zeros(self.release.size)
        total[self.support] = self.signs * idct(coefficients, norm="ortho", axis=1)
        return total

    def values(self, which: Ints, span: slice) -> Floats:
        """What some canaries hold at some places of their groups, ``[len(which), places]``."""
        m, row = self._length, self.row[which, None]
        # An angle beyond a full turn loses digits; whole turns are taken off in integers.
        turns = row * (2 * np.arange(span.start, span.stop) + 1) % (4 * m)
        found = np.cos(turns * (np.pi / (2 * m))) * np.sqrt(np.where(row == 0, 1.0, 2.0) / m)
        return np.asarray(found * self.signs[self.group[which], span], np.float64)

    def squares(self, span: slice) -> Floats:
        """Each canary's squared norm on some places of its group, ``[K]``: a sum of squared cosines in closed form."""
        m, places = self._length, span.stop - span.start
        angle = np.pi * np.maximum(self.row, 1) / m
        waves = (np.sin(2 * angle * span.stop) - np.sin(2 * angle * span.start)) / (2 * np.sin(angle))
        return np.asarray((places + np.where(self.row == 0, 0.0, waves)) / m, np.float64)

    def contribution(self, which: Ints, lengths: Floats) -> Contribution:
        """The vectors of some canaries, each of a length, as what C clients would send; length 0 sends zeros.

        Args:
            which: canaries ``[C]``.
            lengths: joint norms after the release's scaling ``[C]``.
        """
        parts: dict[str, Part] = {}
        offset = 0
        for component in self.release.components:
            parts[component.name] = _CanaryPart(self, component, offset, which, lengths / component.scale)
            offset += component.size
        return Contribution(parts, len(which))


@dataclass(frozen=True, eq=False)
class _CanaryPart:
    """One component's values of C canaries.

    Attributes:
        canaries: all of them.
        component: which component.
        offset: where it begins in the release.
        which: the canaries ``[C]``.
        lengths: what their unit vectors are multiplied by ``[C]``.
    """

    canaries: Canaries
    component: Component
    offset: int
    which: Ints
    lengths: Floats

    @property
    def _span(self) -> slice:
        return self.canaries.spans[self.component.name]

    def squared_norms(self) -> Floats:
        return np.asarray(self.lengths**2 * self.canaries.squares(self._span)[self.which], np.float64)

    def weighted_sum(self, weights: Floats) -> Floats:
        every = np.zeros(len(self.canaries))
        every[self.which] = weights * self.lengths
        flat = self.canaries.combine(every)[self.offset : self.offset + self.component.size]
        return flat.reshape(self.component.shape)

    def counts(self) -> Ints:
        return np.full(len(self.which), self._span.stop - self._span.start)

    def entries(self, first: int, last: int) -> Entries:
        which = self.which[first:last]
        values = self.lengths[first:last, None] * self.canaries.values(which, self._span)
        coordinates = self.canaries.support[self.canaries.group[which], self._span] - self.offset
        return Entries(np.repeat(np.arange(first, last), values.shape[1]), coordinates.ravel(), values.ravel())


def dense(release: Release, n: int, draw: np.random.Generator, without: str = "") -> Canaries:
    """Canaries on all coordinates, but for the component ``without``.

    Raises:
        UsageError: if there are more canaries than coordinates.
    """
    places, spans, offset = [], {}, 0
    length = 0
    for component in release.components:
        size = 0 if component.name == without else component.size
        places.append(np.arange(offset, offset + size))
        spans[component.name] = slice(length, length + size)
        offset, length = offset + component.size, length + size
    return _drawn(release, np.concatenate(places)[None, :], spans, n, draw)


def row_sparse(
    release: Release, n_items: int, rows: int, n: int, draw: np.random.Generator, without: str = ""
) -> Canaries:
    """Canaries on ``rows`` item rows each, in every component that has a row an item; several share their rows.

    Raises:
        UsageError: if no component has a row an item, or there are more canaries than their coordinates.
    """
    groups = max(n_items // rows, 1)
    items = draw.permutation(n_items)[: groups * min(rows, n_items)].reshape(groups, -1)
    places, spans, offset, length = [], {}, 0, 0
    for component in release.components:
        size = 0
        if component.name != without and component.shape[:1] == (n_items,):
            width = prod(component.shape[1:])
            size = items.shape[1] * width
            places.append((offset + items[:, :, None] * width + np.arange(width)).reshape(groups, size))
        spans[component.name] = slice(length, length + size)
        offset, length = offset + component.size, length + size
    if not places:
        raise UsageError(f"'{release.name}' has no array of one row an item; leave --rows out for dense canaries.")
    return _drawn(release, np.concatenate(places, axis=1), spans, n, draw)


def _drawn(
    release: Release, support: npt.NDArray[np.int64], spans: Mapping[str, slice], n: int, draw: np.random.Generator
) -> Canaries:
    """Signs, and n of all rows of the groups' transforms."""
    if n > support.size:
        raise UsageError(
            f"{n} canaries do not fit the {support.size} coordinates of '{release.name}'; take fewer with --canaries."
        )
    chosen = draw.choice(support.size, n, replace=False)
    signs = np.where(draw.integers(2, size=support.shape) == 1, 1.0, -1.0)
    group, row = np.divmod(chosen, support.shape[1])
    return Canaries(release, support, spans, signs, group, row)
