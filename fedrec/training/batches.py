"""How local training lies in memory: which users' batches are computed together, and where what they touch is found.

A step is one batch of one user. Steps that are computed together are equally wide and follow one another: one slice of
an array holds them. Only a user's last batch of an epoch is filled up, to less than twice its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedrec.config import TrainingConfig
from fedrec.data.interactions import Interactions

Ints = npt.NDArray[np.int64]
Items = npt.NDArray[np.int32]

_AT_ONCE = 8_192
"""Positives that are computed together: enough to pay for the array operations, few enough for a processor's cache."""

SINGLE, FILLED = -1, -2
"""Instead of the number of a pair of user and item that is touched repeatedly: touched once; not touched at all."""


@dataclass(frozen=True)
class Call:
    """Batches of A users that are computed together, as if each held B positives.

    Attributes:
        users: ``[A]``.
        first: where each batch starts among all positives, which lie user by user, and epoch by epoch ``[A]``.
        sizes: positives in each batch ``[A]``, at most B.
        width: B.
        steps, touches: their place among all steps, and among all touches.
    """

    users: Ints
    first: Ints
    sizes: Ints
    width: int
    steps: slice
    touches: slice

    @cached_property
    def outside(self) -> npt.NDArray[np.bool_] | None:
        """What fills batches up ``[A, B]``; None where every batch is full."""
        outside = np.arange(self.width) >= self.sizes[:, None]
        return outside if outside.any() else None

    def lay_out(self, of_positives: Items, into: Items, filled: int | None = None) -> None:
        """Lay out what each positive and its negatives have ``[K, 1 + m]`` as ``[A, 1 + m, B]``.

        Args:
            of_positives: ``[K, 1 + m]``.
            into: all touches ``[T]``; only the batches' own are written.
            filled: what fills batches up; if None, the batch's last again.
        """
        place = np.minimum(np.arange(self.width), self.sizes[:, None] - 1)
        laid = into[self.touches].reshape(len(self.users), -1, self.width).swapaxes(1, 2)
        laid[:] = of_positives.take(self.first[:, None] + place, axis=0)
        if filled is not None and self.outside is not None:
            laid[self.outside] = filled


def calls(counts: Ints, config: TrainingConfig) -> list[Call]:
    """Every batch of C users, each user's own in their order.

    Args:
        counts: of each user's positives ``[C]``.
        config: epochs, batch size and negatives.
    """
    batch, starts = config.batch_size, np.cumsum(counts) - counts
    longest_first, left = np.argsort(-counts, kind="stable"), counts % batch
    groups = []
    for start in range(0, int(counts.max(initial=0)) - batch + 1, batch):
        some = longest_first[: np.count_nonzero(counts >= start + batch)]
        groups.append((some, np.full(len(some), start), batch))
    for power in range(batch.bit_length() + 1):  # each user's last, smaller batch: those of about a size together
        some = np.flatnonzero((left > 2**power // 2) & (left <= 2**power))
        groups.append((some, counts[some] - left[some], min(2**power, batch)))
    made: list[Call] = []
    step = touch = 0
    for epoch in range(config.epochs):
        for users, begun, width in groups:
            first = starts[users] * config.epochs + counts[users] * epoch + begun
            sizes = np.minimum(counts[users] - begun, width)
            for at in range(0, len(users), max(1, _AT_ONCE // width)):
                part = slice(at, at + max(1, _AT_ONCE // width))
                steps = slice(step, step + len(users[part]))
                touches = slice(touch, touch + len(users[part]) * width * (1 + config.negatives))
                made.append(Call(users[part], first[part], sizes[part], width, steps, touches))
                step, touch = steps.stop, touches.stop
    return made


def repeated(users: Interactions, touched: Items, config: TrainingConfig) -> tuple[Items, Ints, Ints]:
    """Number what users touch repeatedly, ``R`` pairs of user and item; with regularisation whatever they touch.

    Returns:
        The pair of each touch, `SINGLE` where there is none ``[K, 1 + m]``; and the user and the item of each pair
        ``[R]``.
    """
    known = int(config.epochs == 1 and not config.regularisation)  # a positive comes once an epoch, as no negative
    items = touched[:, known:].astype(np.int64)
    user = np.repeat(np.arange(users.n_users), users.counts * config.epochs * items.shape[1])
    order = ascending(user, items.ravel(), users.n_items.bit_length())
    codes = (user * users.n_items + items.ravel())[order]
    new = np.ones(len(codes) + 1, np.bool_)
    new[1:-1] = codes[1:] != codes[:-1]
    again = np.flatnonzero(~(new[1:] & new[:-1]) | bool(config.regularisation))
    first = new[again]
    pairs = np.full(items.size, SINGLE, np.int32)
    pairs[order[again]] = np.cumsum(first) - 1
    slot = np.full_like(touched, SINGLE)
    slot[:, known:] = pairs.reshape(items.shape)
    slot_user, slot_item = np.divmod(codes[again[first]], users.n_items)
    return slot, slot_user, slot_item


def ascending(groups: Ints, values: Ints, value_bits: int) -> Ints:
    """The order of ``values`` within ascending ``groups``, equal ones in theirs; ``values`` have so many bits."""
    places, last = np.arange(len(groups)), int(groups[-1]) if len(groups) else 0
    # Group, value and place in one number, which is sorted at a third of the time of an argsort.
    cut = max(0, last.bit_length() + value_bits + len(groups).bit_length() - 63)
    packed = groups << (value_bits - cut)
    packed |= values >> cut
    packed <<= len(groups).bit_length()
    packed |= places
    packed.sort()
    if cut:
        kept = packed >> len(groups).bit_length()
        if (kept[1:] == kept[:-1]).any():  # perhaps decided by what is cut off
            return np.lexsort((values, groups))
    packed &= (1 << len(groups).bit_length()) - 1
    return packed
