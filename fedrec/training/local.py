"""Local training of matrix factorisation for C >= 1 users at once, on the item rows that they touch.

C = 1 is a phone, C = 943 a data set in one call, any C a shard of users. Nothing is padded to the catalogue or to the
longest history: batches of one width are a block of an array, and one gradient step of many users is a handful of array
operations. A user's batches and negatives are keyed by the user's own number, so it learns the same wherever it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fedrec.config import TrainingConfig
from fedrec.contribution import Part, Rows
from fedrec.data.interactions import Interactions
from fedrec.randomness import Key, Lane, below, bits
from fedrec.training.batches import FILLED, SINGLE, Call, Items, ascending, calls, repeated
from fedrec.training.touches import Touches

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Loss = Literal["bpr", "bce"]
Scalar = TypeVar("Scalar", bound=np.generic)

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
    n_items, d = item_vectors.shape
    full = users.counts >= n_items
    if full.any():  # who has met everything learns nothing
        users = users.where(~full[users.user_of_event])
    touched = _touched(users, config, key)
    slot, slot_user, slot_item = repeated(users, touched, config)
    together = calls(users.counts, config)
    n_steps, n_touches = (together[-1].steps.stop, together[-1].touches.stop) if together else (0, 0)
    state = _State(
        np.ascontiguousarray(item_vectors),
        item_bias,
        np.empty(n_touches, np.int32),
        np.empty(n_touches, np.int32),
        personal.astype(np.float32, copy=True),
        np.zeros((len(slot_item), d), np.float32),
        np.zeros(len(slot_item), np.float32),
        np.empty((n_steps, d), np.float32),
        np.empty(n_touches, np.float32),
        np.empty(max([call.touches.stop - call.touches.start for call in together], default=0) * d, np.float32),
    )
    step_user, lengths = np.empty(n_steps, np.int64), np.empty(n_steps, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):  # a user that diverges is rejected and counted by the clip
        for call in together:
            call.lay_out(touched, state.items)
            call.lay_out(slot, state.slot, FILLED)
            step_user[call.steps], lengths[call.steps] = call.users, call.width * touched.shape[1]
            state.step(call, config, loss)
    state.numbers[state.slot >= 0] = 0
    slot_ptr = np.searchsorted(slot_user, np.arange(users.n_users + 1)).astype(np.int64)
    of_items = Touches(
        step_user,
        np.concatenate([[0], np.cumsum(lengths)]),
        state.items,
        state.numbers,
        state.slot == SINGLE,
        state.vectors,
        Rows(slot_ptr, slot_item, state.changes, n_items),
    )
    ones, bias_again = np.ones(n_steps, np.float32), Rows(slot_ptr, slot_item, state.bias_changes, n_items)
    return LocalResult(of_items, replace(of_items, vectors=ones, again=bias_again), state.personal)


def draw_negatives(users: Interactions, n_draws: Ints, key: Key) -> tuple[Ints, Ints]:
    """``n_draws[u]`` items a user, uniform over the items that are not among the user's own.

    Returns:
        The user's position of each draw, and the item, both ``[sum(n_draws)]``.
    """

    def each(of_user: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        return np.repeat(of_user, n_draws)

    user = each(np.arange(users.n_users))
    counter = np.arange(len(user)) - each(np.cumsum(n_draws) - n_draws)
    streams = key.streams(users.users, Lane.NEGATIVES)
    return user, unmet(users, user, below(each(streams), counter, each(users.n_items - users.counts)))


def unmet(users: Interactions, user: Ints, rank: Ints) -> Ints:
    """The ``rank``-th item, from 0, that a user has not met; ``user`` holds positions, and both broadcast alike."""
    # The rank-th item outside a sorted history s is rank + #{i : s_i - i <= rank}: one search for all, no rejection.
    gaps, shift, below = users.remembered("gaps of all users", lambda: _in_buckets(users))
    sought = user * (users.n_items + 1) + rank
    bucket = sought >> shift
    before = below.take(bucket)
    inside = below.take(bucket + 1) > before  # three of four fall into a bucket without a gap
    before[inside] = np.searchsorted(gaps, sought[inside], side="right")
    return np.asarray(rank + before - users.indptr[:-1].take(user), np.int64)


def _in_buckets(users: Interactions) -> tuple[Ints, int, npt.NDArray[np.int32]]:
    """All users' gaps in one ascending array, a bucket's width as a power of two, and the gaps below each bucket.

    There are about four buckets a gap.
    """
    width = users.n_items + 1
    gaps = users.user_of_event * width + users.gaps
    space = users.n_users * width
    shift = max(0, (space // (4 * users.n_events + 4)).bit_length() - 1)
    counts = np.bincount(gaps >> shift, minlength=(space >> shift) + 2)
    return gaps, shift, np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def ordered(users: Interactions, epochs: int, key: Key) -> Ints:
    """Each epoch's order of the positives, user by user: event numbers ``[epochs, n_events]``."""
    streams = np.repeat(key.streams(users.users, Lane.ORDER), users.counts)
    counter = np.arange(users.n_events) - np.repeat(users.indptr[:-1], users.counts)
    orders = np.empty((epochs, users.n_events), np.int64)
    for epoch in range(epochs):
        words = bits(streams, counter + epoch * np.repeat(users.counts, users.counts)) >> np.uint64(20)
        orders[epoch] = ascending(users.user_of_event, words.astype(np.int64), 44)
    return orders


def _touched(users: Interactions, config: TrainingConfig, key: Key) -> Items:
    """Every positive in its order with its negatives, user by user and epoch by epoch: items ``[K, 1 + m]``."""
    epochs, m = config.epochs, config.negatives
    touched = np.empty((users.n_events * epochs, 1 + m), np.int32)
    touched[:, 1:] = draw_negatives(users, users.counts * epochs * m, key)[1].reshape(-1, m)
    for epoch, order in enumerate(ordered(users, epochs, key)):
        first = (epochs - 1) * users.indptr[:-1] + epoch * users.counts
        touched[np.arange(users.n_events) + np.repeat(first, users.counts), 0] = users.items.take(order)
    return touched


@dataclass(frozen=True)
class _State:
    """Users while they train: the shared model, what they touch, and what is filled in place.

    Attributes:
        table, bias: the shared model ``[n_items, d]`` and ``[n_items]``.
        items: the item of each touch ``[T]``.
        slot: where an item that its user touches repeatedly has its change, else negative ``[T]``.
        personal: the users' vectors ``[C, d]``.
        changes, bias_changes: of the items touched repeatedly, so far ``[R, d]`` and ``[R]``.
        vectors: each step's user vector ``[S, d]``.
        numbers: what multiplies it at each touch ``[T]``.
        room: for the rows of one call; used anew by the next, as fresh memory costs more than the sums.
    """

    table: F32
    bias: F32
    items: Items
    slot: Items
    personal: F32
    changes: F32
    bias_changes: F32
    vectors: F32
    numbers: F32
    room: F32

    def step(self, call: Call, config: TrainingConfig, loss: Loss) -> None:
        """One batch of some users: gradients at the batch's start, summed, then one step."""
        rate, decay = np.float32(config.learning_rate), np.float32(config.regularisation)
        shape, d = (len(call.users), -1, call.width), self.table.shape[1]
        # Positives first, then negatives: [1 + m, A, B].
        items = self.items[call.touches].reshape(shape).swapaxes(0, 1)
        slot = self.slot[call.touches].reshape(shape).swapaxes(0, 1).ravel()
        rows = self.room[: slot.size * d].reshape(*items.shape, d)
        self.table.take(items, axis=0, mode="clip", out=rows)
        bias, own = self.bias.take(items, mode="clip"), self.personal.take(call.users, axis=0)
        again = np.flatnonzero(slot >= 0)
        slot = slot[again]
        met = rows.reshape(-1, d).take(again, axis=0) + self.changes.take(slot, axis=0)
        met_bias = bias.take(again) + self.bias_changes.take(slot)
        rows.reshape(-1, d)[again], bias.reshape(-1)[again] = met, met_bias
        if loss == "bpr":  # -log sigmoid(positive - negative): differences are scored, and pull
            rows[1:] -= rows[0]
            bias[1:] -= bias[0]
            rows, bias = rows[1:], bias[1:]
        pulls = sigmoid((rows @ own[:, :, None])[..., 0] + bias)
        if loss == "bce":  # -log sigmoid(positive) - log(1 - sigmoid(negative))
            pulls[0] -= np.float32(1)
        pulls *= -rate
        if call.outside is not None:
            pulls[:, call.outside] = 0
        moved = (pulls[:, :, None] @ rows)[:, :, 0].sum(axis=0)
        if loss == "bpr":
            pulls = np.concatenate([-pulls.sum(axis=0, keepdims=True), pulls])
        change_bias = pulls.take(again)
        change = change_bias[:, None] * own.take(again // call.width % len(own), axis=0)
        if decay:
            moved -= rate * decay * call.sizes[:, None].astype(np.float32) * own
            change -= rate * decay * met
            change_bias -= rate * decay * met_bias
        np.add.at(self.changes.reshape(-1), (slot[:, None] * d + np.arange(d)).ravel(), change.ravel())
        np.add.at(self.bias_changes, slot, change_bias)
        self.numbers[call.touches].reshape(shape)[:] = pulls.swapaxes(0, 1)
        self.vectors[call.steps] = own
        self.personal[call.users] = own + moved


def sigmoid(x: F32) -> F32:
    """The logistic function without overflow."""
    y: F32 = np.tanh(np.float32(0.5) * x)
    y += 1
    y *= np.float32(0.5)
    return y


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
