"""From raw events and items to `Interactions`: numbering, threshold, order, duplicates, k-core, pseudonyms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.config import DataConfig
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.data.kcore import drop_empty_users, k_core
from fedrec.data.pseudonyms import key, pseudonyms
from fedrec.errors import ConfigError, DataError

Tokens = npt.NDArray[np.bytes_]
Numbers = npt.NDArray[np.float64]

MAX_GENRES = 128
"""Genre or tag columns of a catalogue; of free tags, which run to thousands, the most frequent are kept."""


@dataclass(frozen=True)
class Events:
    """Events in the order of the file, with the file's own ids; they do not get past this module.

    Attributes:
        users: ``[n]`` UTF-8 bytes.
        items: ``[n]`` UTF-8 bytes.
        ratings: ``[n]`` or None; a play count or another strength counts as a rating.
        times: ``[n]`` in seconds, or None.
    """

    users: Tokens
    items: Tokens
    ratings: Numbers | None = None
    times: Numbers | None = None

    def where(self, keep: npt.NDArray[Any]) -> Events:
        """The events that a mask marks or positions name."""

        def rows(values: Numbers | None) -> Numbers | None:
            return None if values is None else values[keep]

        return Events(self.users[keep], self.items[keep], rows(self.ratings), rows(self.times))


@dataclass(frozen=True)
class Items:
    """What a file says about items; each id once. None where the file says nothing of the kind.

    Attributes:
        ids: ``[n]`` UTF-8 bytes.
        titles: ``[n]``.
        years: ``[n]``, NaN where unknown.
        genres: each item's genres or tags, the weightiest first.
        features: ``[n, n_features]``.
    """

    ids: Tokens
    titles: Sequence[str] | None = None
    years: Sequence[float] | None = None
    genres: Sequence[Sequence[str]] | None = None
    features: npt.NDArray[np.float32] | None = None


def number(tokens: Tokens) -> tuple[Tokens, npt.NDArray[np.int64]]:
    """The distinct ids in their order, and each token's place among them.

    Whole numbers without leading zeros are put in the order of numbers, anything else in the order of letters.
    """
    values = _whole_numbers(tokens)
    if values is None:
        ids, codes = np.unique(tokens, return_inverse=True)
        return ids, codes.astype(np.int64)
    largest = int(values.max(initial=0))
    if largest > 20 * len(values) + 1_000_000:  # too sparse for a table of all numbers
        distinct, codes = np.unique(values, return_inverse=True)
        return distinct.astype(np.bytes_), codes.astype(np.int64)
    there = np.zeros(largest + 1, dtype=np.bool_)
    there[values] = True
    return np.flatnonzero(there).astype(np.bytes_), (np.cumsum(there) - 1)[values]


def _whole_numbers(tokens: Tokens) -> npt.NDArray[np.int64] | None:
    width = tokens.dtype.itemsize
    if width > 18:  # more digits than int64 holds for certain
        return None
    letters = np.ascontiguousarray(tokens).view(np.uint8).reshape(len(tokens), width)
    values = np.zeros(len(tokens), dtype=np.int64)
    for column in letters.T:
        digit = (column >= ord("0")) & (column <= ord("9"))
        if not (digit | (column == 0)).all():
            return None
        values = np.where(digit, values * 10 + column - ord("0"), values)
    leading_zero = width > 1 and ((letters[:, 0] == ord("0")) & (letters[:, min(1, width - 1)] != 0)).any()
    return None if leading_zero else values


def build(
    name: str, events: Events, items: Items | None, config: DataConfig, filters: Sequence[str] = ()
) -> Interactions:
    """The interactions of a data set.

    In this order: ratings below ``config.min_rating`` go, events are put in the order of time (then of the file), of
    a user's several events with an item the earliest stays, and ``config.k_core`` is applied. Users are numbered in the
    order of their ids and then known by a pseudonym only.

    Args:
        name: the data set's name.
        events: as read.
        items: the public items file, or None: the catalogue is then the items that occur.
        config: the threshold and the k-core.
        filters: what the source derived from interactions beforehand.

    Raises:
        ConfigError: a threshold on data without ratings.
        DataError: when no interaction is left.
    """
    user_ids, users = number(events.users)
    catalogue, item, derived = _catalogue(events, items)
    kept = _positives(name, events, config)
    order, duplicates = _order(users, item, events.times, kept, len(catalogue))
    counts = np.bincount(users[order], minlength=len(user_ids))
    data = Interactions(
        name=name,
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=item[order].astype(np.int32),
        catalogue=catalogue,
        ratings=None if events.ratings is None else events.ratings[order].astype(np.float32),
        times=None if events.times is None else np.floor(events.times[order]).astype(np.int64),
        user_ids=pseudonyms(user_ids.tolist(), key()),
        filters=(*filters, *derived),
        duplicates=duplicates,
    )
    if config.min_rating is not None:
        data = drop_empty_users(data, f"users without a rating of at least {config.min_rating:g} left out")
    return k_core(data, config.k_core) if config.k_core > 0 else data


def catalogue_of(items: Items) -> Catalogue:
    """The catalogue of an items file alone."""
    nothing = np.array([], dtype="S1")
    return _catalogue(Events(nothing, nothing), items)[0]


def _positives(name: str, events: Events, config: DataConfig) -> npt.NDArray[np.int64]:
    """The events that count, ``[n_kept]`` positions."""
    if config.min_rating is None:
        return np.arange(len(events.users))
    if events.ratings is None:
        raise ConfigError(
            f"data.min_rating = {config.min_rating:g} needs ratings, and '{name}' has none: leave it out."
        )
    kept = np.flatnonzero(events.ratings >= config.min_rating)
    if len(kept) == 0:
        highest = events.ratings.max()
        raise DataError(
            f"'{name}': no rating reaches data.min_rating = {config.min_rating:g} (the highest is {highest:g})."
        )
    return kept


def _order(
    users: npt.NDArray[np.int64],
    items: npt.NDArray[np.int64],
    times: Numbers | None,
    kept: npt.NDArray[np.int64],
    n_items: int,
) -> tuple[npt.NDArray[np.int64], int]:
    """Positions of the events by user and time, each item once a user; and how many repeated events went."""
    users_kept = users[kept]
    by_time = np.lexsort((users_kept,) if times is None else (times[kept], users_kept))
    order = kept[by_time]
    _, first = np.unique(users[order] * n_items + items[order], return_index=True)
    return order[np.sort(first)], len(order) - len(first)


def _catalogue(events: Events, items: Items | None) -> tuple[Catalogue, npt.NDArray[np.int64], tuple[str, ...]]:
    """The catalogue, each event's item number ``[n]``, and what about it was derived from interactions."""
    n = len(events.items)
    if items is None:
        ids, codes = number(events.items)
        return Catalogue(_text(ids)), codes, ("catalogue: the items that occur in the interactions",)
    ids, codes = number(np.concatenate([events.items, items.ids]))
    rows = codes[n:]
    listed = np.zeros(len(ids), dtype=np.bool_)
    listed[rows] = True
    missing = int((~listed).sum())
    names, genres = _genre_matrix(items.genres, rows, len(ids)) if items.genres is not None else ((), None)
    catalogue = Catalogue(
        ids=_text(ids),
        titles=None if items.titles is None else _spread(np.array(items.titles, dtype=np.str_), rows, len(ids), ""),
        years=None if items.years is None else _spread(np.array(items.years, dtype=np.float64), rows, len(ids), np.nan),
        genre_names=names,
        genres=genres,
        features=None if items.features is None else _spread(items.features, rows, len(ids), 0),
    )
    return (
        catalogue,
        codes[:n],
        (f"catalogue: {missing} items are known from the interactions only",) if missing else (),
    )


def _text(ids: Tokens) -> npt.NDArray[np.str_]:
    return np.char.decode(ids, "utf-8")


def _spread(values: npt.NDArray[Any], rows: npt.NDArray[np.int64], n: int, fill: str | float) -> npt.NDArray[Any]:
    """The file's values at the catalogue's rows, ``fill`` elsewhere."""
    spread = np.full((n, *values.shape[1:]), fill, dtype=values.dtype)
    spread[rows] = values
    return spread


def _genre_matrix(
    genres: Sequence[Sequence[str]], rows: npt.NDArray[np.int64], n: int
) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """The most frequent genres' names and the matrix ``[n, n_genres]`` of who has which."""
    names, counts = np.unique([name for row in genres for name in row], return_counts=True)
    kept = sorted(names[np.argsort(-counts, kind="stable")[:MAX_GENRES]].tolist()) if len(names) else []
    column = {name: place for place, name in enumerate(kept)}
    matrix = np.zeros((n, len(kept)), dtype=np.float32)
    for row, own in zip(rows, genres, strict=True):
        for name in own:
            if name in column:
                matrix[row, column[name]] = 1.0
    return tuple(kept), matrix
