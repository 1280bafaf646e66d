"""Local training of matrix factorisation for C >= 1 users at once, on the item rows that they touch.

C = 1 is a phone, C = 943 a data set in one call, any C a shard of users. Nothing is padded to the catalogue or to the
longest history: users' rows lie one after another, and one gradient step of every user is a handful of array
operations. A user's batches and negatives are keyed by the user's own number, so it learns the same wherever it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedrec.config import TrainingConfig
from fedrec.contribution import Rows
from fedrec.data.interactions import Interactions
from fedrec.randomness import Key, Lane, below, bits

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Loss = Literal["bpr", "bce"]

_BLOCK_EVENTS = 32_768
"""Positives trained together: enough to pay for the array operations, few enough to bound the memory."""

_DENSE_SPACE = 32
"""Codes are numbered by marks while their space is at most this many times their number."""


@dataclass(frozen=True)
class LocalResult:
    """What C users learned.

    Attributes:
        items: the change of the touched item vectors, rows ``[R, d]``.
        bias: the change of the touched item biases, rows ``[R]``.
        personal: the users' vectors after training ``[C, d]``; they stay on the device.
    """

    items: Rows
    bias: Rows
    personal: F32


def train(
    item_vectors: F32,
    item_bias: F32,
    personal: F32,
    users: Interactions,
    config: TrainingConfig,
    loss: Loss,
    key: Key,
) -> LocalResult:
    """Train every user from the shared model on its own positives.

    Args:
        item_vectors: ``[n_items, d]``, as received; not changed.
        item_bias: ``[n_items]``.
        personal: ``[C, d]``, where each user starts.
        users: the C users' positives, each item once a user.
        config: epochs, batch size, step, negatives.
        loss: ``bpr`` (Rendle et al. 2009) or ``bce`` (logistic, each positive against its negatives).
        key: the round's key.

    Guarantees:
        All at once equals one by one. Negatives are drawn uniformly from the items outside the user's own *training*
        items and know nothing of held-out ones. A user without positives, or with no negative left, contributes zero.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # a user that diverges is rejected and counted by the clip
        blocks = [
            _train_block(item_vectors, item_bias, personal[a:b], users.take(np.arange(a, b)), config, loss, key)
            for a, b in _blocks(users.indptr)
        ]
    if len(blocks) == 1:
        return blocks[0]
    counts = np.concatenate([np.diff(block.items.indptr) for block in blocks])
    indptr = np.concatenate([[0], np.cumsum(counts)])
    touched = np.concatenate([block.items.items for block in blocks])
    return LocalResult(
        Rows(indptr, touched, np.concatenate([block.items.values for block in blocks]), len(item_bias)),
        Rows(indptr, touched, np.concatenate([block.bias.values for block in blocks]), len(item_bias)),
        np.concatenate([block.personal for block in blocks]),
    )


def _blocks(indptr: Ints) -> list[tuple[int, int]]:
    """Ranges of users that hold about `_BLOCK_EVENTS` positives each."""
    cuts = np.unique(np.searchsorted(indptr, np.arange(0, indptr[-1], _BLOCK_EVENTS), side="left"))
    edges = np.unique(np.concatenate([[0], cuts, [len(indptr) - 1]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)) or [(0, len(indptr) - 1)]


def draw_negatives(users: Interactions, n_draws: Ints, key: Key) -> tuple[Ints, Ints]:
    """``n_draws[u]`` items a user, uniform over the items that are not among the user's own.

    Returns:
        The user's position of each draw, and the item, both ``[sum(n_draws)]``.
    """
    user = np.repeat(np.arange(users.n_users), n_draws)
    counter = np.arange(len(user)) - np.repeat(np.cumsum(n_draws) - n_draws, n_draws)
    streams = key.streams(users.users, Lane.NEGATIVES)
    rank = below(streams[user], counter, (users.n_items - users.counts)[user])
    return user, unmet(users, user, rank)


def unmet(users: Interactions, user: Ints, rank: Ints) -> Ints:
    """The ``rank``-th item, from 0, that a user has not met; ``user`` holds positions, and both broadcast alike."""
    # The rank-th item outside a sorted history s is rank + #{i : s_i - i <= rank}: one search for all, no rejection.
    width = users.n_items + 1
    codes = np.sort(users.user_of_event * width + users.items)
    gaps = codes - (np.arange(users.n_events) - np.repeat(users.indptr[:-1], users.counts))
    before = np.searchsorted(gaps, user * width + rank, side="right")
    return np.asarray(rank + before - users.indptr[:-1][user], np.int64)


def _order(users: Interactions, epochs: int, key: Key) -> Ints:
    """Each epoch's order of the positives, user by user: event numbers ``[epochs, n_events]``."""
    streams = key.streams(users.users, Lane.ORDER)[users.user_of_event]
    position = np.arange(users.n_events) - np.repeat(users.indptr[:-1], users.counts)
    orders = np.empty((epochs, users.n_events), np.int64)
    user_bits = users.user_of_event.astype(np.uint64) << np.uint64(44)
    for epoch in range(epochs):
        words = bits(streams, position + epoch * np.repeat(users.counts, users.counts)) >> np.uint64(20)
        orders[epoch] = np.argsort(user_bits | words)
    return orders


def _train_block(
    item_vectors: F32,
    item_bias: F32,
    personal: F32,
    users: Interactions,
    config: TrainingConfig,
    loss: Loss,
    key: Key,
) -> LocalResult:
    n_items, m = len(item_bias), config.negatives
    draws = np.where(users.counts < n_items, users.counts * config.epochs * m, 0)
    neg_user, neg_item = draw_negatives(users, draws, key)
    # The rows a user touches, one slot each: sorted by (user, item), its positives and negatives together.
    pos_code = users.user_of_event * n_items + users.items
    slots, inverse = number(np.concatenate([pos_code, neg_user * n_items + neg_item]), users.n_users * n_items)
    pos_slot, neg_slot = inverse[: len(pos_code)], inverse[len(pos_code) :]
    slot_user, slot_item = np.divmod(slots, n_items)
    start_vectors, start_bias = item_vectors.take(slot_item, axis=0, mode="clip"), item_bias[slot_item]
    table = _Table(start_vectors.copy(), start_bias.copy(), personal.astype(np.float32, copy=True))

    trainable = users.counts * (users.counts < n_items)
    first_negative = np.cumsum(draws) - draws
    for epoch, order in enumerate(_order(users, config.epochs, key)):
        for start in range(0, int(trainable.max(initial=0)), config.batch_size):
            sizes = np.clip(trainable - start, 0, config.batch_size)
            active = np.flatnonzero(sizes)
            counts = sizes[active]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            events = order[np.repeat(users.indptr[:-1][active] + start, counts) + within]
            nth = (epoch * np.repeat(users.counts[active], counts) + start + within) * m
            negatives = (np.repeat(first_negative[active], counts) + nth)[:, None] + np.arange(m)
            table.step(active, counts, pos_slot[events], neg_slot[negatives], config, loss)

    indptr = np.concatenate([[0], np.cumsum(np.bincount(slot_user, minlength=users.n_users))])
    np.subtract(table.vectors, start_vectors, out=table.vectors)
    np.subtract(table.bias, start_bias, out=table.bias)
    return LocalResult(
        Rows(indptr, slot_item, table.vectors, n_items),
        Rows(indptr, slot_item, table.bias, n_items),
        table.personal,
    )


def number(codes: Ints, space: int) -> tuple[Ints, Ints]:
    """The distinct codes in order, and each code's place among them; codes lie in [0, space)."""
    if space > _DENSE_SPACE * len(codes):
        return np.unique(codes, return_inverse=True)
    # Marks in a small space do the same without a sort, at a third of the time.
    marked = np.zeros(space, np.bool_)
    marked[codes] = True
    distinct = np.flatnonzero(marked)
    place = np.empty(space, np.int64)
    place[distinct] = np.arange(len(distinct))
    return distinct, place[codes]


@dataclass(frozen=True)
class _Table:
    """The rows of one block of users while they train, changed in place."""

    vectors: F32
    bias: F32
    personal: F32

    def step(
        self,
        active: Ints,
        counts: Ints,
        positive: Ints,
        negative: Ints,
        config: TrainingConfig,
        loss: Loss,
    ) -> None:
        """One batch of every active user: gradients at the batch's start, summed, then one step.

        Args:
            active: users with a batch left ``[A]``.
            counts: positives in each one's batch ``[A]``.
            positive: slots ``[k]``, user by user.
            negative: slots ``[k, m]``.
            config: step size and regularisation.
            loss: the loss.
        """
        rate, decay = np.float32(config.learning_rate), np.float32(config.regularisation)
        m = negative.shape[1]
        p = np.repeat(self.personal[active], counts, axis=0)
        slots = np.concatenate([positive, negative.ravel()])
        rows = self.vectors.take(slots, axis=0, mode="clip")
        v_pos, v_neg = rows[: len(positive)], rows[len(positive) :].reshape(len(positive), m, -1)
        s_pos = np.einsum("kd,kd->k", p, v_pos) + self.bias[positive]
        s_neg = np.einsum("kd,kmd->km", p, v_neg) + self.bias[negative]
        if loss == "bpr":  # -log sigmoid(s_pos - s_neg), summed over the negatives
            g_neg = sigmoid(s_neg - s_pos[:, None])
            g_pos = -g_neg.sum(axis=1)
        else:  # -log sigmoid(s_pos) - log(1 - sigmoid(s_neg))
            g_neg = sigmoid(s_neg)
            g_pos = sigmoid(s_pos) - np.float32(1)

        g_user = np.einsum("km,kmd->kd", g_neg, v_neg)
        g_user += g_pos[:, None] * v_pos
        g_user = np.add.reduceat(g_user, np.cumsum(counts) - counts, axis=0)
        if decay:
            g_user += decay * counts[:, None].astype(np.float32) * self.personal[active]
        self.personal[active] -= rate * g_user
        steps = np.empty_like(rows)
        np.multiply(-rate * g_pos[:, None], p, out=steps[: len(p)])
        np.multiply(-rate * g_neg[:, :, None], p[:, None, :], out=steps[len(p) :].reshape(len(p), m, -1))
        bias_steps = -rate * np.concatenate([g_pos, g_neg.ravel()])
        if decay:
            steps -= rate * decay * rows
            bias_steps -= rate * decay * self.bias[slots]
        _step_rows(self.vectors, slots, rows, steps)
        np.add.at(self.bias, slots, bias_steps)


def _step_rows(table: F32, slots: Ints, rows: F32, steps: F32) -> None:
    """``table[slots] += steps`` where ``rows = table[slots]`` and a slot may repeat.

    The last occurrence of each slot is written with all the others; the few earlier ones are added after it, in order.
    """
    last = np.empty(len(table), np.int64)
    position = np.arange(len(slots))
    last[slots] = position
    repeated = np.flatnonzero(last[slots] != position)
    extra = steps[repeated]
    steps += rows
    table[slots] = steps
    for slot, step in zip(slots[repeated], extra, strict=True):
        table[slot] += step


def sigmoid(x: F32) -> F32:
    """The logistic function without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float32)
