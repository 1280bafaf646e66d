"""Training by clipped samples, in NumPy, numba or Opacus; numba and torch are loaded only where they are used."""

from __future__ import annotations

import numpy as np

from fedrec.contribution import Part
from fedrec.data.interactions import Interactions
from fedrec.errors import ContributionError, MissingExtraError
from fedrec.randomness import Key
from fedrec.release import Arrays, DpSgd
from fedrec.training import per_interaction
from fedrec.training.local import F32, Loss

_LARGEST = 1024.0
"""Single precision next to it resolves 1e-4."""


def train(
    arrays: Arrays,
    vectors: F32,
    users: Interactions,
    plan: DpSgd,
    n_negatives: int,
    loss: Loss,
    key: Key,
    backend: str,
) -> dict[str, Part]:
    """The change that C users make to each array of the shared model.

    Args:
        arrays: ``table``, ``bias`` and, with Opacus, the layers of an MLP, as received; not changed.
        vectors: the users' own ``[C, d]``.
        users: the C users' positives.
        plan: how to sample, clip, step and noise.
        n_negatives: for each positive.
        loss: ``bpr`` or ``bce``.
        key: the round's key.
        backend: ``numba`` or ``numpy``, for one step of interactions at constant user vectors, or ``opacus``.

    Raises:
        ContributionError: if noise is inside, and the shared model holds values next to which it would be lost.
        MissingExtraError: if Opacus is not installed.
    """
    for name, array in arrays.items():  # whatever the history: a refusal must not tell anything of it
        if plan.inside and not (np.abs(array) <= _LARGEST).all():
            raise ContributionError(f"The shared model's '{name}' holds values that are not within {_LARGEST:g}.")
    if backend in ("numba", "numpy"):
        return per_interaction.train(arrays, vectors, users, plan, n_negatives, loss, key, backend == "numba")
    try:
        from fedrec.training import network
    except ImportError as error:
        raise MissingExtraError("Local training with Opacus", "torch") from error
    return network.train(arrays, vectors, users, plan, n_negatives, loss, key)
