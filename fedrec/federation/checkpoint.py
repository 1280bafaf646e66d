"""The checkpoint: model, optimizer and round in one file, so that a run continues to the identical result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.config import Experiment
from fedrec.data.safetensors import metadata
from fedrec.errors import RunFolderError
from fedrec.federation.round import State

_SHARED, _MEMORY = "shared/", "memory/"


def dump(state: State, experiment: Experiment, ledger_size: int) -> bytes:
    """A state as safetensors; ``ledger_size`` lines of the ledger belong to it."""
    from safetensors.numpy import save

    arrays: dict[str, npt.NDArray[Any]] = {}
    for prefix, group in ((_SHARED, state.shared), (_MEMORY, state.memory)):
        arrays |= {prefix + name: np.ascontiguousarray(array) for name, array in group.items()}
    metadata = {
        "round": str(state.round),
        "attempt": str(state.attempt),
        "experiment": experiment.digest(),
        "ledger_size": str(ledger_size),
    }
    return bytes(save(arrays, metadata={**metadata, "content": _content(arrays, metadata)}))


def load(data: bytes, experiment: Experiment, where: str) -> tuple[State, int]:
    """The state and the ledger size of a checkpoint.

    Raises:
        RunFolderError: if it is damaged or belongs to another experiment.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    try:
        arrays = load_arrays(data)
        header = metadata(data)
        if header.pop("content") != _content(arrays, header):
            raise ValueError("its values are not those that were saved")
        round_, attempt, size = int(header["round"]), int(header["attempt"]), int(header["ledger_size"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunFolderError(f"'{where}' is damaged ({error}); start the run again in a new folder.") from error
    if header["experiment"] != experiment.digest():
        raise RunFolderError(f"'{where}' belongs to another experiment than the experiment.toml beside it.")
    groups = {
        prefix: {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        for prefix in (_SHARED, _MEMORY)
    }
    return State(round_, attempt, groups[_SHARED], groups[_MEMORY]), size


def _content(arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """The SHA-256 of everything that a checkpoint holds: safetensors itself does not check values."""
    found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
