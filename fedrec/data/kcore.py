"""The k-core filter: every user and item that stays has at least k interactions with the others that stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError

Mask = npt.NDArray[np.bool_]


def k_core(data: Interactions, k: int) -> Interactions:
    """The largest part of the data in which every user and item has at least k interactions.

    The filter looks at everyone's interactions, so it is named in ``filters``; users are numbered anew.

    Raises:
        DataError: when nothing is left.
    """
    users, items = data.user_of_event, data.items
    keep = np.ones(data.n_events, dtype=np.bool_)
    while True:
        weak_users = np.bincount(users[keep], minlength=data.n_users) < k
        weak_items = np.bincount(items[keep], minlength=data.n_items) < k
        fewer = keep & ~weak_users[users] & ~weak_items[items]
        if np.array_equal(fewer, keep):
            break
        keep = fewer
    if not keep.any():
        raise DataError(f"'{data.name}': data.k_core = {k} leaves no interaction; take a smaller k.")
    return _cut(data, keep, ~weak_users, ~weak_items, f"k-core {k}")


def drop_empty_users(data: Interactions, why: str) -> Interactions:
    """The users who have an interaction; ``why`` others have none is named in ``filters``."""
    active = data.counts > 0
    if active.all():
        return data
    every_item = np.ones(data.n_items, dtype=np.bool_)
    return _cut(data, np.ones(data.n_events, dtype=np.bool_), active, every_item, why)


def _cut(data: Interactions, keep: Mask, users: Mask, items: Mask, why: str) -> Interactions:
    """The kept events, users and items, numbered anew."""
    kept = data.where(keep).take(np.flatnonzero(users))
    number = np.cumsum(items) - 1
    return replace(
        kept,
        items=number[kept.items].astype(np.int32),
        catalogue=data.catalogue.take(np.flatnonzero(items)),
        users=np.arange(int(users.sum()), dtype=np.int64),
        filters=(*data.filters, why),
    )
