"""What a round asks of every client: the components of one vector, its budget, and how a client trains for it.

All of it is public, and none of it is derived from a history.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedrec.errors import ContributionError

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Component:
    """One named array of a release.

    Attributes:
        name: the array's name.
        shape: its shape; public, the same for every client.
        scale: what multiplies the array before the joint clip: sqrt(f) / sensitivity for a statistic with
            budget share f, 1 for an update that is clipped as it is.
    """

    name: str
    shape: tuple[int, ...]
    scale: float = 1.0

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class DpSgd:
    """Local training by clipped samples (Abadi et al. 2016), as planned: all of it public, none derived from a history.

    Attributes:
        clip_norm: L2 norm to which the gradient of one sample is clipped.
        learning_rate: what multiplies a step's sum over ``expected_batch``.
        expected_batch: what the sum of a step is divided by, however many samples it holds.
        sampling_rate: the probability with which a sample enters a step (Poisson sampling).
        steps: steps in a round.
        sample: one ``interaction`` (a positive with all its negatives), or a user's whole ``history``.
        negatives: drawn from the whole ``catalogue``, one stream a positive, or from the items ``unmet`` by the user.
        trains_user: whether the user's own vector is trained, inside the clip; else it stays as it is.
        inside: whether each step carries all of the noise, so that nothing is added to what was learned.
        noise_multiplier: standard deviation of that noise over ``clip_norm``; 0 without noise inside.
        secure: whether draws and noise are keyed by the operating system; else by the round's key, for simulations.
    """

    clip_norm: float
    learning_rate: float = 1.0
    expected_batch: int = 1
    sampling_rate: float = 1.0
    steps: int = 1
    sample: Literal["interaction", "history"] = "interaction"
    negatives: Literal["catalogue", "unmet"] = "unmet"
    trains_user: bool = False
    inside: bool = False
    noise_multiplier: float = 0.0
    secure: bool = False

    @property
    def interaction(self) -> float | None:
        """How far one interaction moves what a client learned: None unless in one step at gradients that know no other.

        It counts on the model to take no other input from the history either. The thousandth above the clip norm is for
        sums and norms in single precision.
        """
        alone = self.sample == "interaction" and self.negatives == "catalogue" and not self.trains_user
        return self.clip_norm * self.step_scale * 1.001 if alone and self.steps == 1 else None

    @property
    def step_scale(self) -> float:
        """What a step multiplies its noised sum of clipped gradients by, downhill."""
        return self.learning_rate / self.expected_batch

    @property
    def update_std(self) -> float:
        """Standard deviation of the noise in each coordinate of what one client learned."""
        return self.noise_multiplier * self.clip_norm * self.step_scale * math.sqrt(self.steps)


@dataclass(frozen=True)
class Release:
    """What every client contributes in one round: one vector, jointly clipped and noised.

    Attributes:
        name: what it is, for the ledger and the report.
        components: the arrays that make up the vector.
        share: the round's part of the whole run's budget, in units of 1/noise_multiplier**2; a run's shares sum to 1.
        clip_norm: the joint norm bound; None takes the experiment's.
        optimise: whether the server optimizer turns the mean into a step (updates); else the model takes the sum
            (statistics).
        interaction: how far one interaction, added or removed, can move a user's vector in scaled units; None where no
            bound is proved.
        dpsgd: how a client trains, where it trains by clipped samples.
    """

    name: str
    components: tuple[Component, ...]
    share: float
    clip_norm: float | None = None
    optimise: bool = False
    interaction: float | None = None
    dpsgd: DpSgd | None = None

    @property
    def size(self) -> int:
        """Coordinates of the released vector."""
        return sum(component.size for component in self.components)

    def check(self, arrays: Arrays, dtype: npt.DTypeLike = np.float64) -> None:
        """Refuse wrong names, shapes, types or values.

        Raises:
            ContributionError: naming the array and what is wrong with it.
        """
        wanted = {component.name: component.shape for component in self.components}
        if set(arrays) != set(wanted):
            raise ContributionError(f"'{self.name}' wants the arrays {sorted(wanted)}, not {sorted(arrays)}.")
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise ContributionError(f"'{self.name}': '{name}' has shape {arrays[name].shape}, not {shape}.")
            if arrays[name].dtype != dtype:
                raise ContributionError(f"'{self.name}': '{name}' holds {arrays[name].dtype}, not {np.dtype(dtype)}.")
            if not np.isfinite(arrays[name]).all():
                raise ContributionError(f"'{self.name}': '{name}' holds values that are not finite.")

    def flatten(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The arrays as one vector ``[size]``: the components in order, each in C order."""
        return np.concatenate([np.ravel(arrays[component.name]) for component in self.components])

    def split(self, flat: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """The inverse of `flatten`."""
        edges = np.cumsum([component.size for component in self.components])[:-1]
        pieces = np.split(flat, edges)
        return {c.name: piece.reshape(c.shape) for c, piece in zip(self.components, pieces, strict=True)}
