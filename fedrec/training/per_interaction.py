"""One step of matrix factorisation by clipped interactions for C users at once: Opacus's step, draw for draw.

A sample is a positive with its negatives. At a user vector p that is no parameter, the gradient of each row that it
touches is a number times (p, 1), so its norm and the clipped sum of all samples need these numbers alone: no gradient
is ever stored. In NumPy, or compiled by numba to the same change (`fedrec.training.compiled_steps`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedrec.contribution import Floats, Part
from fedrec.data.interactions import Interactions
from fedrec.randomness import Key
from fedrec.release import Arrays, DpSgd
from fedrec.training.local import F32, Ints, Loss, number, sigmoid
from fedrec.training.outer import Outer
from fedrec.training.samples import draw, training_key

_BLOCK = 32_768
"""Samples whose scores are computed together; bounds the memory."""


def train(
    arrays: Arrays,
    vectors: F32,
    users: Interactions,
    plan: DpSgd,
    n_negatives: int,
    loss: Loss,
    key: Key,
    compiled: bool = False,
) -> dict[str, Part]:
    """The change that one step makes: minus the sum of clipped gradients, times the step's size.

    Args:
        arrays: ``table`` ``[n_items, d]`` and ``bias`` ``[n_items]``, as received; not changed.
        vectors: the users' own ``[C, d]``, constants.
        users: the C users' positives.
        plan: of one step of interactions, without noise inside.
        n_negatives: for each positive.
        loss: ``bpr`` or ``bce``.
        key: the round's key.
        compiled: whether numba computes, where negatives come from the catalogue.

    Guarantees:
        The gradient of a sample has norm at most ``plan.clip_norm``, table and bias together. With negatives from the
        catalogue and vectors that know nothing of the history, removing one interaction removes its own gradient and
        changes no other.
    """
    norms = np.sqrt(1.0 + np.square(vectors, dtype=np.float64).sum(axis=1))  # of (p, 1)
    if compiled and plan.negatives == "catalogue":
        from fedrec.training.compiled_steps import touched
    else:
        touched = _touched
    indptr, items, change = touched(arrays, vectors, norms, users, plan, n_negatives, loss, training_key(key, plan))
    return {
        "table": Outer(indptr, items, change, vectors, users.n_items, compiled),
        "bias": Outer(indptr, items, change, np.ones(users.n_users, np.float32), users.n_items, compiled),
    }


def _touched(
    arrays: Arrays,
    vectors: F32,
    norms: Floats,
    users: Interactions,
    plan: DpSgd,
    n_negatives: int,
    loss: Loss,
    key: Key,
) -> tuple[Ints, npt.NDArray[np.int32], Floats]:
    """The rows that users touch and the number that each changes by: ``indptr [C + 1]``, items and numbers ``[R]``."""
    table, bias, n_items = arrays["table"], arrays["bias"], users.n_items
    (drawn,) = draw(users, plan, n_negatives, key)
    owner = users.user_of_event[drawn.events]
    items = np.column_stack([users.items[drawn.events], drawn.negatives])  # [k, 1 + m]
    pull = np.empty(items.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(items), _BLOCK):
            block, by = items[start : start + _BLOCK], owner[start : start + _BLOCK]
            scores = np.einsum("kd,kid->ki", vectors[by], table[block]) + bias[block]
            clipped = _clipped(_pull(scores, loss), block, norms[by], plan.clip_norm)
            clipped[~np.isfinite(clipped).all(axis=1)] = 0  # a sample that overflows costs its user no other
            pull[start : start + _BLOCK] = clipped
    codes, place = number((owner[:, None] * n_items + items).ravel(), users.n_users * n_items)
    change = -plan.step_scale * np.bincount(place, pull.ravel(), minlength=len(codes))
    slot_user, slot_item = np.divmod(codes, n_items)
    indptr = np.searchsorted(slot_user, np.arange(users.n_users + 1)).astype(np.int64)
    return indptr, slot_item.astype(np.int32), np.asarray(change, np.float64)


def _clipped(pull: Floats, items: Ints, norms: Floats, clip_norm: float) -> Floats:
    """The pulls ``[k, 1 + m]`` of samples on their items, times each sample's clip factor as Opacus computes it."""
    # Rows that a sample touches twice add up before the norm is taken.
    same = items[:, :, None] == items[:, None, :]
    norms = norms * np.sqrt(np.einsum("ki,kij,kj->k", pull, same, pull))
    return pull * np.minimum(clip_norm / (norms + 1e-6), 1.0)[:, None]


def _pull(scores: F32, loss: Loss) -> Floats:
    """The loss's derivative by each score ``[k, 1 + m]``, the positive's first."""
    positive, negative = scores[:, :1], scores[:, 1:]
    if loss == "bpr":  # -log sigmoid(positive - negative), summed over the negatives
        down = sigmoid(negative - positive)
        up = -down.sum(axis=1, keepdims=True)
    else:  # -log sigmoid(positive) - log(1 - sigmoid(negative))
        down, up = sigmoid(negative), sigmoid(positive) - np.float32(1)
    return np.concatenate([up, down], axis=1).astype(np.float64)
