"""The shared model as a device receives it: checked before it is used, and kept to recommend from without a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.data.safetensors import metadata
from fedrec.device.store import Store
from fedrec.errors import ContributionError
from fedrec.federation.round import Federation
from fedrec.models.base import Shared

DOCUMENT = "model"
_MOST = 1e6
"""Of any number in a model: beyond, single precision overflows in training."""


def check_model(federation: Federation, round_: int, arrays: Shared) -> None:
    """Refuse arrays that the model cannot have before a round.

    Raises:
        ContributionError: naming the array and what is wrong with it.
    """
    wanted = federation.model.forms(federation.catalogue, federation.releases[: round_ - 1])
    if wanted is None:
        raise ContributionError(
            f"Nothing is known of the model's arrays before round {round_}; it is not trained here."
        )
    if set(arrays) != set(wanted):
        raise ContributionError(f"The shared model has the arrays {sorted(arrays)}, not {sorted(wanted)}.")
    for name, (dtype, shape) in wanted.items():
        array = arrays[name]
        if (array.dtype.name, array.shape) != (dtype, shape):
            raise ContributionError(f"The model's '{name}' is {array.dtype} {array.shape}, not {dtype} {shape}.")
        if dtype.startswith("float") and not np.all(np.abs(array) <= _MOST):
            raise ContributionError(f"The model's '{name}' holds values that are not finite, or above {_MOST:g}.")
    if "items" in wanted and not _are_items(arrays["items"], len(federation.catalogue)):
        raise ContributionError("The model's 'items' are not item numbers, each once and ascending.")


def keep_model(store: Store, arrays: Shared, experiment: str, round_: int) -> None:
    """Keep a model for recommendations, unless a newer one of the same experiment is there; an empty one says nothing.

    Args:
        store: the device's.
        arrays: the model's.
        experiment: digest of the experiment.
        round_: rounds done.
    """
    from safetensors.numpy import save

    if not arrays or kept_round(store, experiment) >= round_:
        return
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    store.put(DOCUMENT, bytes(save(whole, metadata={"experiment": experiment, "round": str(round_)})))


def kept_round(store: Store, experiment: str) -> int:
    """The rounds done of the model that is kept; -1 without one of this experiment."""
    content = store.get(DOCUMENT)
    if content is None:
        return -1
    about = metadata(content)
    return int(about["round"]) if about.get("experiment") == experiment else -1


def _are_items(items: npt.NDArray[Any], n: int) -> bool:
    return bool(items[0] >= 0 and items[-1] < n and np.all(np.diff(items) > 0))
