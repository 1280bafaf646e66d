"""Local training of matrix factorisation for C >= 1 users at once, on the item rows that they touch.

C = 1 is a phone, C = 943 a data set in one call, any C a shard of users. Nothing is padded to the catalogue or to the
longest history: users' rows lie one after another, and one gradient step of every user is a handful of array
operations. A user's batches and negatives are keyed by the user's own number, so it learns the same wherever it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from fedrec.config import TrainingConfig
from fedrec.contribution import Part, Rows
from fedrec.data.interactions import Interactions
from fedrec.randomness import Key, Lane, below, bits
from fedrec.training.touches import Touches, joined

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Loss = Literal["bpr", "bce"]

_BLOCK_EVENTS = 32_768
"""Positives trained together: enough to pay for the array operations, few enough to bound the memory."""

_DENSE_SPACE = 32
"""Codes are numbered by marks while their space is at most this many times their number."""


class Learned(Protocol):
    """What C users learned, whatever trained them; the attributes are those of `LocalResult`."""

    @property
    def items(self) -> Part: ...

    @property
    def bias(self) -> Part: ...

    @property
    def personal(self) -> F32: ...


@dataclass(frozen=True)
class LocalResult:
    """What C users learned.

    Attributes:
        items: the change of the touched item vectors.
        bias: the change of the touched item biases.
        personal: the users' vectors after training ``[C, d]``; they stay on the device.
    """

    items: Touches
    bias: Touches
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
    return LocalResult(
        joined([block.items for block in blocks]),
        joined([block.bias for block in blocks]),
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
    gaps = users.user_of_event * width + users.gaps
    before = np.searchsorted(gaps, user * width + rank, side="right")
    return np.asarray(rank + before - users.indptr[:-1][user], np.int64)


def ordered(users: Interactions, epochs: int, key: Key) -> Ints:
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
    n_items, d = item_vectors.shape
    full = users.counts >= n_items
    if full.any():  # who has met everything learns nothing
        users = users.where(~full[users.user_of_event])
    items = _touched(users, config, key)  # [K, 1 + m]
    codes = np.repeat(users.user_of_event, config.epochs)[:, None] * n_items + items
    if config.regularisation:
        again = np.ones(codes.size, np.bool_)  # it moves rows by other than numbers times vectors
    else:
        again = _repeated(codes.ravel(), users.n_users * n_items)
    distinct, slots = np.unique(codes.ravel()[again], return_inverse=True)
    slot = np.full(codes.size, -1)
    slot[again] = slots
    per_epoch = -(-users.counts // config.batch_size)
    steps = np.concatenate([[0], np.cumsum(per_epoch * config.epochs)])
    state = _State(
        item_vectors,
        item_bias,
        items,
        slot.reshape(codes.shape),
        personal.astype(np.float32, copy=True),
        np.zeros((len(distinct), d), np.float32),
        np.zeros(len(distinct), np.float32),
        np.empty((steps[-1], d), np.float32),
        np.empty(codes.shape, np.float32),
    )
    sizes = np.zeros(steps[-1], np.int64)
    for epoch in range(config.epochs):
        for start in range(0, int(users.counts.max(initial=0)), config.batch_size):
            active = np.flatnonzero(users.counts > start)
            step = steps[active] + epoch * per_epoch[active] + start // config.batch_size
            sizes[step] = np.minimum(users.counts[active] - start, config.batch_size)
            first = users.indptr[active] * config.epochs + epoch * users.counts[active] + start
            state.step(active, first, sizes[step], step, config, loss)
    slot_user, slot_item = np.divmod(distinct, n_items)
    slot_ptr = np.searchsorted(slot_user, np.arange(users.n_users + 1)).astype(np.int64)
    state.numbers.ravel()[again] = 0
    of_items = Touches(
        steps,
        np.concatenate([[0], np.cumsum(sizes * items.shape[1])]),
        items.ravel(),
        state.numbers.ravel(),
        ~again,
        state.vectors,
        Rows(slot_ptr, slot_item, state.changes, n_items),
    )
    ones, bias_again = np.ones(steps[-1], np.float32), Rows(slot_ptr, slot_item, state.bias_changes, n_items)
    return LocalResult(of_items, replace(of_items, vectors=ones, again=bias_again), state.personal)


def _touched(users: Interactions, config: TrainingConfig, key: Key) -> npt.NDArray[np.int32]:
    """Every positive in its order with its negatives, user by user and epoch by epoch: items ``[K, 1 + m]``."""
    epochs, m = config.epochs, config.negatives
    items = np.empty((users.n_events * epochs, 1 + m), np.int32)
    items[:, 1:] = draw_negatives(users, users.counts * epochs * m, key)[1].reshape(-1, m)
    place = np.arange(users.n_events) + (epochs - 1) * users.indptr[:-1][users.user_of_event]
    for epoch, order in enumerate(ordered(users, epochs, key)):
        items[place + epoch * users.counts[users.user_of_event], 0] = users.items[order]
    return items


def _repeated(codes: Ints, space: int) -> npt.NDArray[np.bool_]:
    """Which codes, in [0, space), occur more than once."""
    if space > _DENSE_SPACE * len(codes):
        _, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
        return np.asarray(counts[place] > 1)
    last, position = np.empty(space, np.int32), np.arange(len(codes), dtype=np.int32)
    last[codes] = position
    marked = np.zeros(space, np.bool_)
    marked[codes[last[codes] != position]] = True
    return np.asarray(marked[codes])


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
class _State:
    """One block of users while they train: the shared model, what they touch, and what is filled in place.

    Attributes:
        table, bias: the shared model ``[n_items, d]`` and ``[n_items]``.
        items: the item of each touch ``[K, 1 + m]``, a positive and its negatives.
        slot: where an item that its user touches repeatedly has its change, else -1 ``[K, 1 + m]``.
        personal: the users' vectors ``[C, d]``.
        changes, bias_changes: of the items touched repeatedly, so far ``[R, d]`` and ``[R]``.
        vectors: each step's user vector ``[S, d]``.
        numbers: what multiplies it at each touch ``[K, 1 + m]``.
    """

    table: F32
    bias: F32
    items: npt.NDArray[np.int32]
    slot: Ints
    personal: F32
    changes: F32
    bias_changes: F32
    vectors: F32
    numbers: F32

    def step(self, active: Ints, first: Ints, counts: Ints, step: Ints, config: TrainingConfig, loss: Loss) -> None:
        """One batch of every active user: gradients at the batch's start, summed, then one step.

        Args:
            active: users with a batch left ``[A]``.
            first: each one's first positive of the batch, a row of ``items`` ``[A]``.
            counts: positives in each one's batch ``[A]``.
            step: the number of each one's step ``[A]``.
            config: step size and regularisation.
            loss: the loss.
        """
        rate, decay = np.float32(config.learning_rate), np.float32(config.regularisation)
        ends = np.cumsum(counts)
        touches = np.repeat(first - ends + counts, counts) + np.arange(ends[-1])
        items, slot = self.items[touches], self.slot[touches]
        again = np.flatnonzero(slot.ravel() >= 0)
        changed = slot.ravel()[again]
        flat, bias = self.table.take(items.ravel(), axis=0, mode="clip"), self.bias.take(items.ravel(), mode="clip")
        flat[again] += self.changes[changed]
        bias[again] += self.bias_changes[changed]
        rows, own = flat.reshape(*items.shape, -1), self.personal[active]
        p = np.repeat(own, counts, axis=0)
        pulls = _pulls(np.einsum("kd,kwd->kw", p, rows) + bias.reshape(items.shape), loss)

        gradient = np.add.reduceat(np.einsum("kw,kwd->kd", pulls, rows), ends - counts, axis=0)
        numbers = -rate * pulls
        bias_moved = numbers.ravel()[again]
        moved = bias_moved[:, None] * p[again // items.shape[1]]
        if decay:
            gradient += decay * counts[:, None].astype(np.float32) * own
            moved -= rate * decay * flat[again]
            bias_moved -= rate * decay * bias[again]
        _add(self.changes, changed, moved)
        np.add.at(self.bias_changes, changed, bias_moved)
        self.vectors[step], self.numbers[touches] = own, numbers
        self.personal[active] = own - rate * gradient


def _add(into: F32, rows: Ints, values: F32) -> None:
    """``into[rows] += values`` where a row may repeat."""
    if len(rows):
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        into[rows[first]] += np.add.reduceat(values[order], first, axis=0)


def _pulls(scores: F32, loss: Loss) -> F32:
    """The derivative of the loss by each score ``[k, 1 + m]``, the positive's first."""
    if loss == "bpr":  # -log sigmoid(positive - negative), summed over the negatives
        scores[:, 1:] = sigmoid(scores[:, 1:] - scores[:, :1])
        scores[:, 0] = -scores[:, 1:].sum(axis=1)
        return scores
    pulls = sigmoid(scores)  # -log sigmoid(positive) - log(1 - sigmoid(negative))
    pulls[:, 0] -= np.float32(1)
    return pulls


def sigmoid(x: F32) -> F32:
    """The logistic function without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float32)
