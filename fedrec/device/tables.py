"""The sampler's tables of a device's noise, worked out by its agent: they take more memory to make than to use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedrec.device.store import Store
from fedrec.privacy import skellam
from fedrec.privacy.mechanism import Mechanism
from fedrec.privacy.stream import SecureWords

_TABLE = "noise-"


def keep(store: Store, mechanisms: Sequence[Mechanism]) -> None:
    """Make the tables for one device's shares under these mechanisms, and forget all others."""
    grids = [(mechanism, mechanism.grid) for mechanism in mechanisms if mechanism.grid is not None]
    variances = {(mechanism.share_std(1) * grid.scale) ** 2 for mechanism, grid in grids}
    wanted = {_TABLE + repr(variance): variance for variance in variances}
    for name in store.names(_TABLE):
        if name not in wanted:
            store.remove(name)
    for name, variance in wanted.items():
        if store.get(name) is None:
            store.put(name, skellam.packed(variance))


def noise(store: Store, variance: float, n: int) -> npt.NDArray[np.int64]:
    """Exact Skellam noise from a stream that the operating system keyed, int64 ``[n]``; without a table, it is made."""
    raw = store.get(_TABLE + repr(variance))
    table = None if raw is None else skellam.unpacked(raw)
    return skellam.draw(variance, n, SecureWords(), table)
