"""Synthetic interactions with the traits of real ones: few users and items hold most events, and taste is low-rank.

Items and users lie in a latent space around genres. A user comes across items by popularity (Zipf), some of them
within the user's own two genres, chooses by taste (Gumbel top-k; Kool, van Hoof & Welling 2019), and meets one genre
after another.
Everything about a user is a pure function of (seed, the user's number), so any user can be made alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedrec.config import DataConfig
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.data.kcore import k_core
from fedrec.errors import ConfigError
from fedrec.randomness import Key, Lane, bits, normal, uniform
from fedrec.registry import SOURCES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_CHUNK = 4096
"""Users drawn at once, which bounds the memory of the draw."""

SPAN, GAP = 365 * 86_400, 86_400.0
"""Seconds in which users begin, and the mean seconds between a user's events."""

BEGIN = 1_600_000_000
"""The first second."""


class SyntheticConfig(DataConfig):
    """The synthetic population.

    Attributes:
        n_users: users.
        n_items: items.
        mean_events: events a user has on average (a little fewer where users exhaust a small catalogue).
        min_events: events that every user has.
        user_exponent: of the power law of events a user; smaller is more unequal.
        item_exponent: of Zipf's law of items.
        dimension: of the latent space.
        n_genres: genres, which are clusters in the latent space.
        focus: the share of items that a user comes across within the own genres rather than anywhere.
        taste: weight of taste against chance in nats; 0, with a focus of 0, leaves popularity alone.
        seed: of the population, apart from the experiment's seed.
    """

    name: Literal["synthetic"] = "synthetic"
    n_users: int = Field(1000, ge=1)
    n_items: int = Field(1000, ge=8, lt=2**31)
    mean_events: float = Field(20.0, ge=1)
    min_events: int = Field(3, ge=1)
    user_exponent: float = Field(2.5, gt=1.05)
    item_exponent: float = Field(0.9, ge=0)
    dimension: int = Field(8, ge=1)
    n_genres: int = Field(16, ge=1, le=128)
    focus: float = Field(0.5, ge=0, le=1)
    taste: float = Field(4.0, ge=0)
    seed: int = Field(1, ge=0, lt=2**63)


@SOURCES.register("synthetic")
class Synthetic:
    """A population of any size, made in blocks of users."""

    about = "Power-law users and items with latent taste, made on the spot from data.seed; free of any licence."
    Config = SyntheticConfig

    @staticmethod
    def load(config: SyntheticConfig) -> Interactions:
        """The whole population."""
        if config.min_rating is not None:
            raise ConfigError("data.min_rating needs ratings, and 'synthetic' has none: leave it out.")
        data = World.of(config).interactions(np.arange(config.n_users))
        return k_core(data, config.k_core) if config.k_core > 0 else data


def blocks(config: SyntheticConfig, size: int = MAX_CHUNK) -> Iterator[Interactions]:
    """The population by blocks of ``size`` users, in order; one block at a time is in memory."""
    world = World.of(config)
    for start in range(0, config.n_users, size):
        yield world.interactions(np.arange(start, min(start + size, config.n_users)))


@dataclass(frozen=True)
class World:
    """What all users share.

    Attributes:
        config: its config.
        catalogue: the items.
        vectors: the items in the latent space, ``[n_items, dimension]``, of length 1.
        centres: the genres in it, ``[n_genres, dimension]``, of length 1.
        genre: each item's own genre, ``[n_items]``.
        by_genre: the items in the order of their genres, ``[n_items]``.
        cumulative: of their popularity in that order, ``[n_items]``, ending with 1.
        bounds: where each genre begins on that scale, and 1 at the end, ``[n_genres + 1]``.
        scale: of the power law of events a user, such that their mean is as configured.
    """

    config: SyntheticConfig
    catalogue: Catalogue
    vectors: Floats
    centres: Floats
    genre: Ints
    by_genre: Ints
    cumulative: Floats
    bounds: Floats
    scale: float

    @staticmethod
    def of(config: SyntheticConfig) -> World:
        """The items of a config; pure in its seed."""
        draw = Key(config.seed).generator(Lane.SYNTHETIC)
        n, d, g = config.n_items, config.dimension, config.n_genres
        centres = _unit(draw.standard_normal((g, d)))
        genre = draw.integers(g, size=n)
        vectors = _unit(centres[genre] + 0.5 * draw.standard_normal((n, d)) / np.sqrt(d))
        popularity = (1.0 + draw.permutation(n)) ** -config.item_exponent
        closeness = vectors @ centres.T
        genres = closeness > 0.8  # a film is of its own genre and of those that are about as close
        genres[np.arange(n), genre] = True
        catalogue = Catalogue(
            ids=np.arange(1, n + 1).astype(np.str_),
            genre_names=tuple(f"genre-{number:02d}" for number in range(1, g + 1)),
            genres=genres.astype(np.float32),
            features=vectors.astype(np.float32),
        )
        by_genre = np.argsort(genre, kind="stable")
        cumulative = np.cumsum(popularity[by_genre])
        cumulative /= cumulative[-1]
        bounds = np.concatenate([[0.0], cumulative])[np.searchsorted(genre[by_genre], np.arange(g + 1))]
        return World(config, catalogue, vectors, centres, genre, by_genre, cumulative, bounds, _scale(config))

    def interactions(self, users: Ints) -> Interactions:
        """The users of these numbers, int64 ``[C]``."""
        chunks = [users[start : start + MAX_CHUNK] for start in range(0, len(users), MAX_CHUNK)]
        most = sum(int(self._wanted(chunk).sum()) for chunk in chunks)
        counts, items, times = np.zeros(len(users), np.int64), np.empty(most, np.int32), np.empty(most, np.uint32)
        done = made = 0
        for chunk in chunks:
            theirs, chosen, at = self._events(chunk)
            if at.max(initial=0) >= 2**32:  # in the year 2106: users of very many events come so far
                times = times.astype(np.int64)
            counts[done : done + len(chunk)] = theirs
            items[made : made + len(chosen)], times[made : made + len(chosen)] = chosen, at
            done, made = done + len(chunk), made + len(chosen)
        return Interactions(
            name="synthetic",
            indptr=np.concatenate([[0], np.cumsum(counts)]),
            items=items[:made],
            catalogue=self.catalogue,
            times=times[:made],
            users=users.astype(np.int64),
        )

    def _wanted(self, users: Ints) -> Ints:
        """Events that each user would have, ``[C]``: a few fewer where it comes across too few different items."""
        return _counts(self.config, self.scale, uniform(self._streams(users), np.array([0])))

    def _streams(self, users: Ints) -> npt.NDArray[np.uint64]:
        return Key(self.config.seed).streams(users, Lane.SYNTHETIC)

    def _events(self, users: Ints) -> tuple[Ints, npt.NDArray[np.int32], Ints]:
        """Events a user ``[C]``, and all their items and times ``[n_events]``."""
        streams = self._streams(users)
        owner, items = self._choose(streams, self._wanted(users))
        counts = np.bincount(owner, minlength=len(users))
        return counts, items.astype(np.int32), _times(streams, owner, counts)

    def _choose(self, streams: npt.NDArray[np.uint64], counts: Ints) -> tuple[Ints, Ints]:
        """Each event's user (its place in the block) and item, by user and then by time, ``[n_events]``."""
        owner, drawn = self._come_across(streams, counts)
        liking = np.einsum("ij,ij->i", self._tastes(streams)[owner], self.vectors[drawn]) * self.config.taste
        taste = bits(streams, np.array([2]))[owner]
        # The noise hangs on the item, so that an item drawn twice scores the same twice and the two lie side by side.
        score = liking - np.log(-np.log(uniform(taste, drawn) + 2.0**-54))
        highest = self.config.taste + 40.0  # the Gumbel noise lies between -4 and 38
        owner, drawn = self._sorted(owner, (highest - score) / (highest + self.config.taste + 4.0), drawn)
        new = np.ones(len(owner), dtype=np.bool_)
        new[1:] = (owner[1:] != owner[:-1]) | (drawn[1:] != drawn[:-1])
        owner, drawn = owner[new], drawn[new]
        best = _within(np.bincount(owner, minlength=len(counts))) < counts[owner]
        owner, drawn = owner[best], drawn[best]
        of_genre, of_item = (bits(streams, np.array([number]))[owner] for number in (3, 9))
        return self._sorted(owner, (uniform(of_genre, self.genre[drawn]) + 0.3 * uniform(of_item, drawn)) / 1.3, drawn)

    def _sorted(self, owner: Ints, rank: Floats, items: Ints) -> tuple[Ints, Ints]:
        """Users and items by user, then by rank (in [0, 1)), then by item: packed into one word, which sorts fast."""
        item_bits = (self.config.n_items - 1).bit_length()
        rank_bits = 63 - MAX_CHUNK.bit_length() - item_bits
        packed = (owner << (rank_bits + item_bits)) | ((rank * 2.0**rank_bits).astype(np.int64) << item_bits) | items
        packed.sort()
        return packed >> (rank_bits + item_bits), packed & ((1 << item_bits) - 1)

    def _come_across(self, streams: npt.NDArray[np.uint64], counts: Ints) -> tuple[Ints, Ints]:
        """The items that each user may choose from, some of them several times: users and items ``[n_candidates]``."""
        candidates = 4 * counts + 8
        owner = np.repeat(np.arange(len(counts)), candidates)
        chance = bits(streams, np.array([1]))[owner]
        within = _within(candidates)
        where = uniform(chance, 2 * within)
        first, second = (_pick(streams, number, len(self.centres))[owner] for number in (4, 5))
        genre = np.where(where < self.config.focus * 2 / 3, first, second)
        own = where < self.config.focus
        begin = np.where(own, self.bounds[genre], 0.0)
        end = np.where(own, self.bounds[genre + 1], 1.0)
        place = np.searchsorted(self.cumulative, begin + uniform(chance, 2 * within + 1) * (end - begin), side="right")
        return owner, self.by_genre[np.minimum(place, self.config.n_items - 1)]

    def _tastes(self, streams: npt.NDArray[np.uint64]) -> Floats:
        """Users in the latent space, ``[C, dimension]``: mostly of one genre, less of a second, and a bit their own."""
        first, second = (self.centres[_pick(streams, number, len(self.centres))] for number in (4, 5))
        own = normal(bits(streams, np.array([6]))[:, None], np.arange(self.config.dimension))
        return _unit(first + 0.6 * second + 0.4 * own / np.sqrt(self.config.dimension))


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12))


def _pick(streams: npt.NDArray[np.uint64], number: int, bound: int) -> Ints:
    return np.asarray(uniform(streams, np.array([number])) * bound).astype(np.int64)


def _within(counts: Ints) -> Ints:
    """0, 1, 2 … anew for every user, ``[sum(counts)]``."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _counts(config: SyntheticConfig, scale: float, chance: Floats) -> Ints:
    """Events a user from uniform draws: a power law from ``min_events`` on (Lomax), at most half of the catalogue."""
    most = max(config.n_items // 2, 1)
    tail = scale * ((1.0 - chance) ** (-1.0 / (config.user_exponent - 1.0)) - 1.0)
    return np.minimum(config.min_events + np.minimum(tail, most).astype(np.int64), most)


def _scale(config: SyntheticConfig) -> float:
    """The power law's scale with the configured mean, by bisection; 0 where ``min_events`` is already above it."""
    chance = (np.arange(100_000) + 0.5) / 100_000
    low, high = 0.0, 100.0 * config.mean_events
    for _ in range(50):
        middle = (low + high) / 2
        if _counts(config, middle, chance).mean() < config.mean_events:
            low = middle
        else:
            high = middle
    return low


def _times(streams: npt.NDArray[np.uint64], owner: Ints, counts: Ints) -> Ints:
    """Seconds, strictly increasing within a user, ``[n_events]``."""
    start = BEGIN + (uniform(streams, np.array([7])) * SPAN).astype(np.int64)
    within = _within(counts)
    gaps = 1 + (-GAP * np.log(1.0 - uniform(bits(streams, np.array([8]))[owner], within))).astype(np.int64)
    passed = np.cumsum(gaps)
    before = np.concatenate([[0], passed])[np.cumsum(counts) - counts]
    return np.asarray(start[owner] + passed - before[owner])
